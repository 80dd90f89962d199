#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// The README has links to docs.rs, for GitHub and crates.io. These definitions come first, so that rustdoc resolves the same
// links to items instead, and reports those that do not exist.
#![allow(rustdoc::redundant_explicit_links)]
//! [`BearerAuth`]: crate::BearerAuth
//! [`BearerAuth::layer_for_origin`]: crate::BearerAuth::layer_for_origin
//! [`BearerAuth::token_for`]: crate::BearerAuth::token_for
//! [`BearerAuthService`]: crate::BearerAuthService
//! [`CommandToken`]: crate::CommandToken
//! [`CommandToken::args`]: crate::CommandToken::args
//! [`Error`]: crate::Error
//! [`Error::Client`]: crate::Error::Client
//! [`Error::Command`]: crate::Error::Command
//! [`Error::Expired`]: crate::Error::Expired
//! [`Error::File`]: crate::Error::File
//! [`Error::InvalidOrigin`]: crate::Error::InvalidOrigin
//! [`Error::InvalidToken`]: crate::Error::InvalidToken
//! [`Error::Metadata`]: crate::Error::Metadata
//! [`Error::NotFetched`]: crate::Error::NotFetched
//! [`Error::find`]: crate::Error::find
//! [`Error::is_transient`]: crate::Error::is_transient
//! [`FileError`]: crate::FileError
//! [`FileHealth`]: crate::FileHealth
//! [`FixedToken`]: crate::FixedToken
//! [`IdentityToken`]: crate::IdentityToken
//! [`MetadataError`]: crate::MetadataError
//! [`MetadataServer`]: crate::MetadataServer
//! [`MetadataServer::open`]: crate::MetadataServer::open
//! [`ProjectedToken`]: crate::ProjectedToken
//! [`ProjectedTokenBuilder`]: crate::ProjectedTokenBuilder
//! [`ResponseFuture`]: crate::ResponseFuture
//! [`SendError::Token`]: crate::SendError::Token
//! [`SkipToken`]: crate::SkipToken
//! [`Token`]: crate::Token
//! [`TokenClientBuilder`]: crate::TokenClientBuilder
//! [`TokenFormatError`]: crate::TokenFormatError
//! [`TokenHealth`]: crate::TokenHealth
//! [`TokenSource`]: crate::TokenSource
//! [`UseSource`]: crate::UseSource
//! [`WatchedFile`]: crate::WatchedFile
//! [`WatchedFileBuilder`]: crate::WatchedFileBuilder
//! [`std::time::Duration`]: std::time::Duration
//! [`without_resend`]: crate::BearerAuth::without_resend
//!
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

// The crates whose types are part of this crate's API, and the macro for implementations of `TokenSource`.
#[doc(no_inline)]
pub use async_trait::async_trait;
pub use {http, reqwest, reqwest_middleware};
