#![forbid(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
// The README has links to docs.rs, for GitHub and crates.io. These definitions come first, so that rustdoc resolves the same
// links to items instead, and reports those that do not exist.
#![allow(rustdoc::redundant_explicit_links)]
//! [`Algorithm`]: crate::Algorithm
//! [`AuditEvent`]: crate::AuditEvent
//! [`BuildError`]: crate::BuildError
//! [`GoogleIdentity`]: crate::GoogleIdentity
//! [`Identities`]: crate::Identities
//! [`Identity`]: crate::Identity
//! [`Identity::expired`]: crate::Identity::expired
//! [`Identity::id_token_claims`]: crate::Identity::id_token_claims
//! [`Issuer`]: crate::Issuer
//! [`Issuer::aks`]: crate::Issuer::aks
//! [`Issuer::algorithms`]: crate::Issuer::algorithms
//! [`Issuer::also_known_as`]: crate::Issuer::also_known_as
//! [`Issuer::api_ca_file`]: crate::Issuer::api_ca_file
//! [`Issuer::api_token_file`]: crate::Issuer::api_token_file
//! [`Issuer::audience`]: crate::Issuer::audience
//! [`Issuer::dangerous_accept_api_server_audience`]: crate::Issuer::dangerous_accept_api_server_audience
//! [`Issuer::discovery_url`]: crate::Issuer::discovery_url
//! [`Issuer::eks`]: crate::Issuer::eks
//! [`Issuer::fetch_timeout`]: crate::Issuer::fetch_timeout
//! [`Issuer::from_issuer_url`]: crate::Issuer::from_issuer_url
//! [`Issuer::from_provider_metadata`]: crate::Issuer::from_provider_metadata
//! [`Issuer::github_actions`]: crate::Issuer::github_actions
//! [`Issuer::gke`]: crate::Issuer::gke
//! [`Issuer::google`]: crate::Issuer::google
//! [`Issuer::in_cluster`]: crate::Issuer::in_cluster
//! [`Issuer::insecure_loopback_http`]: crate::Issuer::insecure_loopback_http
//! [`Issuer::jwks_url`]: crate::Issuer::jwks_url
//! [`Issuer::keys`]: crate::Issuer::keys
//! [`Issuer::keys_file`]: crate::Issuer::keys_file
//! [`Issuer::keys_json`]: crate::Issuer::keys_json
//! [`Issuer::keys_pem`]: crate::Issuer::keys_pem
//! [`Issuer::kubernetes`]: crate::Issuer::kubernetes
//! [`Issuer::leeway`]: crate::Issuer::leeway
//! [`Issuer::max_document_bytes`]: crate::Issuer::max_document_bytes
//! [`Issuer::max_keys`]: crate::Issuer::max_keys
//! [`Issuer::max_lifetime`]: crate::Issuer::max_lifetime
//! [`Issuer::label`]: crate::Issuer::label
//! [`Issuer::oidc`]: crate::Issuer::oidc
//! [`Issuer::require`]: crate::Issuer::require
//! [`Issuer::require_claim`]: crate::Issuer::require_claim
//! [`Issuer::stale_after`]: crate::Issuer::stale_after
//! [`Issuer::token_types`]: crate::Issuer::token_types
//! [`Issuer::unknown_key_jitter`]: crate::Issuer::unknown_key_jitter
//! [`IssuerHealth::clock_offset`]: crate::IssuerHealth::clock_offset
//! [`IssuerHealth::skipped_keys`]: crate::IssuerHealth::skipped_keys
//! [`IssuerHealth`]: crate::IssuerHealth
//! [`KeysError`]: crate::KeysError
//! [`JwkSet`]: crate::JwkSet
//! [`JwkSet::from_openidconnect`]: crate::JwkSet::from_openidconnect
//! [`KubernetesIdentity`]: crate::KubernetesIdentity
//! [`NotReady`]: crate::NotReady
//! [`OidcGuard`]: crate::OidcGuard
//! [`OidcGuard::admit`]: crate::OidcGuard::admit
//! [`OidcGuard::authorize`]: crate::OidcGuard::authorize
//! [`OidcGuard::diagnose`]: crate::OidcGuard::diagnose
//! [`OidcGuard::health`]: crate::OidcGuard::health
//! [`OidcGuard::layer`]: crate::OidcGuard::layer
//! [`OidcGuard::layer_with`]: crate::OidcGuard::layer_with
#![cfg_attr(
    feature = "policy-file",
    doc = "[`OidcGuard::policy_health`]: crate::OidcGuard::policy_health"
)]
//! [`OidcGuard::prefetch`]: crate::OidcGuard::prefetch
//! [`OidcGuard::readiness`]: crate::OidcGuard::readiness
//! [`OidcGuard::ready`]: crate::OidcGuard::ready
//! [`OidcGuard::resource_metadata`]: crate::OidcGuard::resource_metadata
//! [`OidcGuard::verifier`]: crate::OidcGuard::verifier
//! [`OidcGuardLayer::with_shadow_policy`]: crate::OidcGuardLayer::with_shadow_policy
//! [`OidcGuardLayer::end_streams_with_token`]: crate::OidcGuardLayer::end_streams_with_token
//! [`OidcGuardBuilder`]: crate::OidcGuardBuilder
//! [`OidcGuardBuilder::allow_cors_preflight`]: crate::OidcGuardBuilder::allow_cors_preflight
//! [`OidcGuardBuilder::allow_missing_token`]: crate::OidcGuardBuilder::allow_missing_token
//! [`OidcGuardBuilder::audit_events`]: crate::OidcGuardBuilder::audit_events
//! [`OidcGuardBuilder::audit_path`]: crate::OidcGuardBuilder::audit_path
//! [`OidcGuardBuilder::any_verified_caller`]: crate::OidcGuardBuilder::any_verified_caller
//! [`OidcGuardBuilder::cache`]: crate::OidcGuardBuilder::cache
#![cfg_attr(
    feature = "policy-file",
    doc = "[`OidcGuardBuilder::from_file`]: crate::OidcGuardBuilder::from_file"
)]
//! [`OidcGuardBuilder::http_client`]: crate::OidcGuardBuilder::http_client
//! [`OidcGuardBuilder::identity_name`]: crate::OidcGuardBuilder::identity_name
//! [`OidcGuardBuilder::issuer`]: crate::OidcGuardBuilder::issuer
//! [`OidcGuardBuilder::max_token_bytes`]: crate::OidcGuardBuilder::max_token_bytes
//! [`OidcGuardBuilder::on_decision`]: crate::OidcGuardBuilder::on_decision
//! [`OidcGuardBuilder::policy`]: crate::OidcGuardBuilder::policy
//! [`OidcGuardBuilder::protected_resource`]: crate::OidcGuardBuilder::protected_resource
//! [`OidcGuardBuilder::realm`]: crate::OidcGuardBuilder::realm
//! [`OidcGuardBuilder::ready_when`]: crate::OidcGuardBuilder::ready_when
//! [`OidcGuardBuilder::shadow_policy`]: crate::OidcGuardBuilder::shadow_policy
//! [`OidcGuardBuilder::refusal_summary_interval`]: crate::OidcGuardBuilder::refusal_summary_interval
//! [`OidcGuardBuilder::rejection_response`]: crate::OidcGuardBuilder::rejection_response
//! [`OidcGuardBuilder::strip_token`]: crate::OidcGuardBuilder::strip_token
//! [`OidcGuardBuilder::token_from`]: crate::OidcGuardBuilder::token_from
//! [`OidcGuardBuilder::token_from_exactly_one_of`]: crate::OidcGuardBuilder::token_from_exactly_one_of
//! [`OidcGuardBuilder::without_cache`]: crate::OidcGuardBuilder::without_cache
//! [`OidcGuardBuilder::without_error_description`]: crate::OidcGuardBuilder::without_error_description
//! [`OidcGuardBuilder::without_refusal_summary`]: crate::OidcGuardBuilder::without_refusal_summary
//! [`Policy`]: crate::Policy
//! [`Policy::all_of`]: crate::Policy::all_of
//! [`Policy::any_of`]: crate::Policy::any_of
//! [`Policy::audience`]: crate::Policy::audience
//! [`Policy::deny`]: crate::Policy::deny
//! [`Policy::explain`]: crate::Policy::explain
//! [`Policy::members`]: crate::Policy::members
//! [`Policy::members_of`]: crate::Policy::members_of
//! [`Policy::require`]: crate::Policy::require
//! [`Policy::require_claim`]: crate::Policy::require_claim
//! [`Policy::require_scope`]: crate::Policy::require_scope
//! [`Issuer::github_enterprise`]: crate::Issuer::github_enterprise
//! [`Issuer::gitlab`]: crate::Issuer::gitlab
//! [`Identity::gitlab`]: crate::Identity::gitlab
//! [`Identity::github_actions`]: crate::Identity::github_actions
//! [`Identity::scopes`]: crate::Identity::scopes
//! [`ClaimMatcher`]: crate::ClaimMatcher
#![cfg_attr(feature = "policy-file", doc = "[`PolicyFile`]: crate::PolicyFile")]
#![cfg_attr(
    feature = "policy-file",
    doc = "[`PolicyFile::check`]: crate::PolicyFile::check"
)]
#![cfg_attr(
    feature = "policy-file",
    doc = "[`OidcGuard::check_policy_file`]: crate::OidcGuard::check_policy_file"
)]
//! [`BodyEnded`]: crate::BodyEnded
//! [`Rejection`]: crate::Rejection
//! [`ResponseFuture`]: crate::ResponseFuture
#![cfg_attr(feature = "testing", doc = "[`testing`]: crate::testing")]
//! [`TokenBoundBody`]: crate::TokenBoundBody
//! [`Issuer::token_review`]: crate::Issuer::token_review
//! [`IssuerHealth::token_review`]: crate::IssuerHealth::token_review
//! [`TokenReview`]: crate::TokenReview
//! [`WhenUnavailable`]: crate::WhenUnavailable
//! [`TokenVerifier`]: crate::TokenVerifier
//! [`TokenVerifier::verify`]: crate::TokenVerifier::verify
//! [`VerifyError`]: crate::VerifyError
#![cfg_attr(
    feature = "metrics",
    doc = "[`describe_metrics`]: crate::describe_metrics"
)]
#![cfg_attr(
    feature = "testing",
    doc = "[`testing::FakeApiServer`]: crate::testing::FakeApiServer"
)]
#![cfg_attr(
    feature = "testing",
    doc = "[`testing::MemoryIssuer`]: crate::testing::MemoryIssuer"
)]
#![cfg_attr(
    feature = "testing",
    doc = "[`testing::TestIdentity`]: crate::testing::TestIdentity"
)]
#![cfg_attr(
    feature = "testing",
    doc = "[`testing::TestIssuer`]: crate::testing::TestIssuer"
)]
#![cfg_attr(
    feature = "testing",
    doc = "[`testing::tokio_clock`]: crate::testing::tokio_clock"
)]
//!
#![doc = include_str!("../README.md")]

mod background_task;
mod build_error;
mod clock;
#[cfg(feature = "policy-file")]
mod config_file;
mod diagnosis;
#[cfg(test)]
mod fuzz;
mod guard;
mod identity;
mod issuer;
mod jose;
mod jwk_set;
mod keys;
#[cfg(feature = "metrics")]
mod metric_descriptions;
#[cfg(not(all(feature = "policy-file", feature = "testing")))]
mod missing_feature;
mod policy;
mod rejection;
mod revocation;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod token_review;
mod validity;
mod verifier;

pub use build_error::BuildError;
pub use diagnosis::{Check, CheckResult, Diagnosis};
#[cfg(feature = "axum")]
pub use guard::IdentityRejection;
pub use guard::{
    AuditDecision, AuditEvent, AuditPath, BodyEnded, BodyKind, Identities, OidcGuard,
    OidcGuardBuilder, OidcGuardLayer, OidcGuardService, Readiness, ResourceMetadata, ResponseBody,
    ResponseFuture, TokenBound, TokenBoundBody, TokenBoundFuture, TokenBoundLayer, TokenVerifier,
};
#[cfg(feature = "policy-file")]
pub use guard::{PolicyFileError, PolicySummary};
pub use identity::{
    ComputeEngine, Expired, GitHubActionsIdentity, GitLabIdentity, GoogleIdentity, Identity,
    KubernetesIdentity, ObjectRef, Platform, TokenEnd,
};
pub use issuer::Issuer;
pub use jose::algorithm::Algorithm;
pub use jose::claim_matcher::ClaimMatcher;
pub use jose::{SignatureError, TokenError};
pub use jwk_set::JwkSet;
pub use keys::clock_offset::ClockOffset;
pub use keys::error::KeysError;
pub use keys::health::{IssuerHealth, SkippedKey};
#[cfg(feature = "metrics")]
pub use metric_descriptions::describe_metrics;
pub use policy::{Decision, Policy, PolicyError};
#[cfg(feature = "policy-file")]
pub use policy::{PolicyFile, PolicyHealth};
pub use rejection::{OtherScheme, Rejection};
pub use token_review::{TokenReview, TokenReviewError, TokenReviewHealth, WhenUnavailable};
pub use verifier::{NotReady, ReadyWhen, VerifyError};

// The crates whose types are part of this crate's API, so that users can name the same versions.
#[cfg(feature = "policy-file")]
#[doc(no_inline)]
pub use reqwest_wi_auth::FileError;
#[doc(no_inline)]
pub use {bytes, http, openidconnect, reqwest_middleware, serde_json};
