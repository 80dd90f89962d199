//! Integration tests of the programs, which are run as processes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(unix)]
mod ambient;
#[cfg(unix)]
mod check;
#[cfg(unix)]
mod check_policy;
#[cfg(unix)]
mod config;
#[cfg(unix)]
mod connections;
#[cfg(unix)]
mod explain;
#[cfg(unix)]
mod federation;
#[cfg(unix)]
mod identities;
#[cfg(unix)]
mod mistakes;
#[cfg(unix)]
mod monitoring;
#[cfg(unix)]
#[path = "../support/process.rs"]
mod process;
#[cfg(unix)]
mod programs;
#[cfg(unix)]
mod refusals;
mod scenario;
#[cfg(unix)]
mod settings;
#[cfg(target_os = "linux")]
mod shadow_policy;
mod signals;
#[cfg(unix)]
mod support;
#[cfg(unix)]
mod under_load;
