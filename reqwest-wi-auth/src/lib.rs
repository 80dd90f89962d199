#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]

mod background;
mod backoff;
mod bearer_auth;
mod error;
mod layer;
mod middleware;
mod origins;
mod source;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod token_client;
mod watched_file;

pub use bearer_auth::{BearerAuth, SkipToken, UseSource};
pub use error::{Error, MetadataError};
pub use layer::{BearerAuthLayer, BearerAuthService, BoxError, ResponseFuture, SendError};
pub use source::command::CommandToken;
pub use source::fixed::FixedToken;
pub use source::metadata::{IdentityToken, MetadataServer};
pub use source::projected::{ProjectedToken, ProjectedTokenBuilder};
pub use source::{TokenHealth, TokenSource};
pub use token::{Token, TokenFormatError};
pub use token_client::TokenClientBuilder;
pub use watched_file::{
    Changes, FileError, FileHealth, ParseError, WatchedFile, WatchedFileBuilder,
};

// The crates whose types are part of this crate's API.
pub use {http, reqwest, reqwest_middleware};
