#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// The README has links to docs.rs, for GitHub and crates.io. These definitions come first, so that rustdoc resolves the same
// links to items instead, and reports those that do not exist.
#![allow(rustdoc::redundant_explicit_links)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AzureWorkloadIdentity`]: crate::AzureWorkloadIdentity"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AzureWorkloadIdentityBuilder`]: crate::AzureWorkloadIdentityBuilder"
)]
#![cfg_attr(feature = "federation", doc = "[`ambient`]: crate::ambient")]
#![cfg_attr(feature = "federation", doc = "[`Ambient`]: crate::Ambient")]
#![cfg_attr(feature = "federation", doc = "[`AmbientError`]: crate::AmbientError")]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder`]: crate::AmbientBuilder"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder::allow_google_origin`]: crate::AmbientBuilder::allow_google_origin"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder::ca_file`]: crate::AmbientBuilder::ca_file"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder::fallback`]: crate::AmbientBuilder::fallback"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder::proxy`]: crate::AmbientBuilder::proxy"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder::proxy_from_environment`]: crate::AmbientBuilder::proxy_from_environment"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder::token_directory`]: crate::AmbientBuilder::token_directory"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientBuilder::without`]: crate::AmbientBuilder::without"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`AmbientToken::health`]: crate::AmbientToken::health"
)]
//! [`BearerAuth`]: crate::BearerAuth
//! [`BearerAuth::and_insecure_http`]: crate::BearerAuth::and_insecure_http
//! [`BearerAuth::and_origin`]: crate::BearerAuth::and_origin
//! [`BearerAuth::and_each_other_origin`]: crate::BearerAuth::and_each_other_origin
//! [`BearerAuth::and_insecure_http_for_each_other_origin`]: crate::BearerAuth::and_insecure_http_for_each_other_origin
//! [`BearerAuth::any_origin`]: crate::BearerAuth::any_origin
//! [`BearerAuth::for_origin`]: crate::BearerAuth::for_origin
//! [`BearerAuth::for_each_origin`]: crate::BearerAuth::for_each_origin
//! [`BearerAuth::insecure_http`]: crate::BearerAuth::insecure_http
//! [`BearerAuth::insecure_http_for_each_origin`]: crate::BearerAuth::insecure_http_for_each_origin
//! [`BearerAuth::layer_for_origin`]: crate::BearerAuth::layer_for_origin
//! [`BearerAuth::max_audiences`]: crate::BearerAuth::max_audiences
//! [`BearerAuth::token_for`]: crate::BearerAuth::token_for
//! [`BearerAuth::without_resend`]: crate::BearerAuth::without_resend
//! [`BearerAuthService`]: crate::BearerAuthService
//! [`CommandToken`]: crate::CommandToken
//! [`CommandToken::allow_opaque`]: crate::CommandToken::allow_opaque
//! [`CommandToken::args`]: crate::CommandToken::args
//! [`CommandToken::timeout`]: crate::CommandToken::timeout
//! [`Error`]: crate::Error
#![cfg_attr(
    feature = "federation",
    doc = "[`Error::Ambient`]: crate::Error::Ambient"
)]
//! [`Error::Client`]: crate::Error::Client
//! [`Error::Command`]: crate::Error::Command
//! [`Error::Expired`]: crate::Error::Expired
//! [`Error::Configuration`]: crate::Error::Configuration
//! [`Error::Fetch`]: crate::Error::Fetch
//! [`Error::File`]: crate::Error::File
//! [`Error::find`]: crate::Error::find
//! [`Error::InvalidOrigin`]: crate::Error::InvalidOrigin
//! [`Error::InvalidToken`]: crate::Error::InvalidToken
//! [`Error::is_transient`]: crate::Error::is_transient
//! [`Error::Metadata`]: crate::Error::Metadata
//! [`Error::NotFetched`]: crate::Error::NotFetched
//! [`Error::TooManyAudiences`]: crate::Error::TooManyAudiences
//! [`FetchError`]: crate::FetchError
//! [`FetchError::OAuth`]: crate::FetchError::OAuth
//! [`FetchedToken`]: crate::FetchedToken
//! [`FileError`]: crate::FileError
//! [`FileHealth`]: crate::FileHealth
//! [`FixedToken`]: crate::FixedToken
#![cfg_attr(
    feature = "federation",
    doc = "[`GitHubActions`]: crate::GitHubActions"
)]
#![cfg_attr(
    feature = "federation",
    doc = "[`GitHubActionsBuilder`]: crate::GitHubActionsBuilder"
)]
//! [`MetadataError`]: crate::MetadataError
//! [`MetadataServer`]: crate::MetadataServer
//! [`MetadataServer::open`]: crate::MetadataServer::open
//! [`MetadataServer::with_host`]: crate::MetadataServer::with_host
//! [`ProjectedToken`]: crate::ProjectedToken
//! [`ProjectedTokenBuilder`]: crate::ProjectedTokenBuilder
//! [`ProjectedTokenBuilder::allow_opaque`]: crate::ProjectedTokenBuilder::allow_opaque
//! [`ProjectedTokenBuilder::audience`]: crate::ProjectedTokenBuilder::audience
#![cfg_attr(
    feature = "testing",
    doc = "[`ProjectedTokenBuilder::clock`]: crate::ProjectedTokenBuilder::clock"
)]
//! [`ProjectedTokenBuilder::read_limit`]: crate::ProjectedTokenBuilder::read_limit
#![cfg_attr(
    feature = "testing",
    doc = "[`ProjectedTokenBuilder::reader`]: crate::ProjectedTokenBuilder::reader"
)]
//! [`ProjectedTokenBuilder::send_expired`]: crate::ProjectedTokenBuilder::send_expired
//! [`ProjectedTokenBuilder::startup_limit`]: crate::ProjectedTokenBuilder::startup_limit
//! [`ResponseFuture`]: crate::ResponseFuture
//! [`SendError::Token`]: crate::SendError::Token
//! [`SkipToken`]: crate::SkipToken
#![cfg_attr(
    feature = "metrics",
    doc = "[`describe_metrics`]: crate::describe_metrics"
)]
//! [`std::time::Duration`]: std::time::Duration
#![cfg_attr(feature = "testing", doc = "[`testing`]: crate::testing")]
//! [`Token`]: crate::Token
//! [`TokenClientBuilder`]: crate::TokenClientBuilder
#![cfg_attr(
    feature = "federation",
    doc = "[`TokenExchange`]: crate::TokenExchange\n[`TokenExchangeBuilder`]: crate::TokenExchangeBuilder"
)]
//! [`TokenFormatError`]: crate::TokenFormatError
//! [`TokenHealth`]: crate::TokenHealth
//! [`TokenProvider`]: crate::TokenProvider
#![cfg_attr(feature = "federation", doc = "[`TokenRequest`]: crate::TokenRequest")]
#![cfg_attr(
    feature = "federation",
    doc = "[`TokenRequestBuilder`]: crate::TokenRequestBuilder"
)]
//! [`TokenSource`]: crate::TokenSource
//! [`UseSource`]: crate::UseSource
//! [`WatchedFile`]: crate::WatchedFile
//! [`WatchedFileBuilder`]: crate::WatchedFileBuilder
#![cfg_attr(
    feature = "testing",
    doc = "[`WatchedFileBuilder::clock`]: crate::WatchedFileBuilder::clock"
)]
//! [`WatchedFileBuilder::fallback_poll_interval`]: crate::WatchedFileBuilder::fallback_poll_interval
//! [`WatchedFileBuilder::poll_interval`]: crate::WatchedFileBuilder::poll_interval
//! [`WatchedFileBuilder::read_limit`]: crate::WatchedFileBuilder::read_limit
#![cfg_attr(
    feature = "testing",
    doc = "[`WatchedFileBuilder::reader`]: crate::WatchedFileBuilder::reader"
)]
//! [`WatchedFileBuilder::reread_at`]: crate::WatchedFileBuilder::reread_at
//! [`WatchedFileBuilder::startup_limit`]: crate::WatchedFileBuilder::startup_limit
//! [`without_resend`]: crate::BearerAuth::without_resend
//!
#![doc = include_str!("../README.md")]

mod background;
mod backoff;
mod bearer_auth;
mod error;
#[cfg(test)]
mod fuzz;
#[doc(hidden)]
pub mod json_object;
mod layer;
#[cfg(feature = "metrics")]
mod metric_descriptions;
mod middleware;
#[cfg(not(feature = "testing"))]
mod missing_feature;
mod origins;
mod source;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
#[doc(hidden)]
pub mod text;
mod timestamp;
mod token;
mod token_client;
mod watched_file;

pub use bearer_auth::{BearerAuth, SkipToken, UseSource};
#[cfg(feature = "federation")]
pub use error::{AmbientError, AmbientFinding};
pub use error::{Error, FetchError, MetadataError};
pub use layer::{BearerAuthLayer, BearerAuthService, BoxError, ResponseFuture, SendError};
#[cfg(feature = "metrics")]
pub use metric_descriptions::describe_metrics;
#[cfg(feature = "federation")]
pub use source::ambient::{
    Ambient, AmbientBuilder, AmbientHealth, AmbientSource, AmbientToken, ambient,
};
#[cfg(feature = "federation")]
pub use source::azure::{AzureWorkloadIdentity, AzureWorkloadIdentityBuilder};
pub use source::command::CommandToken;
pub use source::fetched::FetchedToken;
pub use source::fixed::FixedToken;
#[cfg(feature = "federation")]
pub use source::github_actions::{GitHubActions, GitHubActionsBuilder};
#[cfg(feature = "federation")]
pub use source::google::{GoogleFederation, GoogleFederationBuilder};
pub use source::metadata::MetadataServer;
pub use source::projected::{ProjectedToken, ProjectedTokenBuilder};
#[cfg(feature = "federation")]
pub use source::token_exchange::{TokenExchange, TokenExchangeBuilder, TokenType};
#[cfg(feature = "federation")]
pub use source::token_request::{TokenRequest, TokenRequestBuilder};
pub use source::{TokenHealth, TokenProvider, TokenSource};
pub use token::{Token, TokenFormatError};
pub use token_client::TokenClientBuilder;
pub use watched_file::{
    Changes, FileError, FileHealth, ParseError, WatchedFile, WatchedFileBuilder,
};

// The crates whose types are part of this crate's API, and the macro for implementations of `TokenSource`.
#[doc(no_inline)]
pub use async_trait::async_trait;
pub use {http, reqwest, reqwest_middleware};
