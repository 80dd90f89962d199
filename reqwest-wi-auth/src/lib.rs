#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod background;
mod bearer_auth;
mod client;
mod error;
mod health;
mod layer;
mod middleware;
mod options;
mod origins;
mod random;
mod source;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod watched_file;

pub use bearer_auth::BearerAuth;
pub use client::TokenClientBuilder;
pub use error::{Error, MetadataError};
pub use health::TokenHealth;
pub use layer::{BearerAuthLayer, BearerAuthService, BoxError, ResponseFuture, SendError};
pub use options::{SkipToken, UseSource};
pub use source::TokenSource;
pub use source::command::CommandToken;
pub use source::fixed::FixedToken;
pub use source::metadata::{IdentityToken, MetadataServer};
pub use source::projected::{ProjectedToken, ProjectedTokenBuilder};
pub use token::{Token, TokenFault};
pub use watched_file::{
    Changes, FileError, FileHealth, ParseError, WatchedFile, WatchedFileBuilder,
};
