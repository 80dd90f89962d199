//! Integration tests of this crate, in one program.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod composition;
mod counters;
mod fake_metadata;
mod faults;
mod hung_reads;
mod kubelet;
mod laptop;
mod layer;
mod leaks;
mod metadata;
mod origins;
mod projected;
mod quiet;
mod redirects;
mod refresh;
mod resend;
mod runtimes;
mod secrecy;
mod sending;
mod support;
mod watch_limits;
