//! Integration tests of this crate, in one program.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod allocations;
mod answers;
mod backpressure;
mod cache;
mod denied;
mod ed25519;
mod fakes;
mod fetch_log;
mod fetching;
mod field_notes;
mod grpc_frames;
mod identity;
mod in_cluster;
mod issuer_names;
mod issuers;
mod key_files;
mod key_refresh;
mod keys;
mod layer;
mod log_lines;
mod members;
mod modes;
mod peers_mistakes;
mod policy;
mod policy_file;
mod properties;
mod recorded;
mod rfc8725;
mod secrecy;
mod settings;
mod support;
mod telemetry;
mod tokens;
mod without_runtime;
mod wycheproof;
