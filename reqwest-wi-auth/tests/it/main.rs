//! Integration tests of this crate, in one program. See [`support`] for shared code.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

#[cfg(feature = "federation")]
mod ambient;
#[cfg(feature = "federation")]
mod azure_workload_identity;
mod blocking_reads;
mod causes;
mod command_token;
#[cfg(feature = "federation")]
mod fake_google;
mod fake_kubelet;
mod fake_metadata;
mod fake_token_endpoint;
mod file_faults;
mod for_each_origin;
#[cfg(feature = "federation")]
mod github_actions;
#[cfg(feature = "federation")]
mod google_federation;
#[cfg(feature = "federation")]
mod interop;
mod metadata_server;
mod metrics;
mod middleware;
mod origins;
mod projected_token;
mod public_types;
mod redirects;
mod reload_logging;
mod resend;
mod resent_requests;
mod resource_leaks;
mod runtimes;
mod support;
#[cfg(feature = "federation")]
mod token_exchange;
mod token_refresh;
mod token_request;
mod token_secrecy;
mod tower_composition;
mod tower_layer;
mod watch_limits;
mod watch_logging;
