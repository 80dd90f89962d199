//! Integration tests of this crate, in one program.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod allocations;
mod audit;
mod authorization;
mod axum_layers;
mod axum_routes;
mod backpressure;
mod cache;
mod causes;
mod diagnosis;
mod ed25519;
#[cfg(feature = "axum")]
mod extractors;
mod fakes;
mod grpc_frames;
mod guard_settings;
mod hyper_layers;
mod identity;
mod in_cluster;
mod issuer_names;
mod issuer_settings;
mod key_fetch;
mod key_files;
mod key_lifecycle;
mod key_refresh;
mod key_selection;
mod known_bugs;
mod layer;
mod log_injection;
mod openidconnect;
mod openidconnect_values;
mod policy;
mod policy_deny;
mod policy_file;
mod policy_file_errors;
mod policy_members;
mod policy_reload;
mod properties;
mod readiness;
mod recorded_tokens;
mod refused_requests;
mod responses;
mod rfc8725;
mod secrecy;
mod shadow_policy;
mod streams;
mod support;
mod telemetry;
mod testing_support;
mod token_extraction;
mod token_review;
mod tokens;
mod tonic_layers;
mod without_runtime;
mod wycheproof;
