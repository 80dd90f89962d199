#![forbid(unsafe_code)]
//! Both ends of workload identity: a guarded server, a client that sends its workload's token, and a scenario that runs
//! the two on one machine.
//!
//! | program | entry point | purpose |
//! | --- | --- | --- |
//! | `auth-server` | [`server::run`] | Serves an open path, and paths for callers with a valid token |
//! | `auth-client` | [`client::polling::run`] | Requests an open path and a guarded one at an interval |
//! | `demo` | [`scenario::run`] | Runs both on loopback while tokens and keys rotate |
//!
//! All three parse their settings with [`arguments`], print through [`output`] and end as described in [`signals`].

pub mod arguments;
pub mod client;
mod error;
mod escape;
pub mod output;
pub mod scenario;
pub mod server;
pub mod signals;

pub use error::{Error, error_chain};

/// The header in which Cloud Run expects the caller's token if `Authorization` is meant for the application.
///
/// If a request has this header, Cloud Run checks the token in it and passes `Authorization` on unchanged.
pub const X_SERVERLESS_AUTHORIZATION: http::HeaderName =
    http::HeaderName::from_static("x-serverless-authorization");
