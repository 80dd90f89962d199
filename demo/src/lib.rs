#![forbid(unsafe_code)]
//! Both ends of workload identity wired together: a guarded server, a client that proves who it is, and
//! the story of the two on one machine.

pub mod arguments;
pub mod client;
mod error;
pub mod logging;
pub mod narrator;
mod printable;
pub mod server;
pub mod signals;
pub mod story;

pub use error::{Error, chain};

/// The header that Cloud Run's gate reads first; where it is present, the gate leaves `Authorization` to the application.
pub const SERVERLESS: http::HeaderName =
    http::HeaderName::from_static("x-serverless-authorization");
