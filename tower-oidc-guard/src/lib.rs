#![forbid(unsafe_code)]
//! Lets a request through only with a valid token of a trusted OIDC issuer.

mod rejection;
mod verify;

pub use rejection::Rejection;
pub use verify::algorithm::Algorithm;
