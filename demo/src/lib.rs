#![forbid(unsafe_code)]
//! Both ends of workload identity wired together: a guarded server, a client that proves who it is, and
//! the story of the two on one machine.

pub mod client;
mod error;
pub mod logging;
pub mod narrator;
pub mod server;
pub mod signals;
pub mod story;

pub use error::{Error, chain};

/// What Cloud Run's gate looks at first, and leaves `Authorization` to the application then.
pub const SERVERLESS: http::HeaderName =
    http::HeaderName::from_static("x-serverless-authorization");
