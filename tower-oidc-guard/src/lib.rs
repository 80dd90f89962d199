#![forbid(unsafe_code)]
#![cfg_attr(feature = "axum", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "axum"),
    doc = "Lets a request through only with a valid token of a trusted OIDC issuer: [`OidcGuard`]."
)]

mod clock;
#[cfg(feature = "policy-file")]
mod config_file;
mod error;
mod guard;
mod identity;
mod issuer;
mod jose;
mod jwk_set;
mod keys;
mod policy;
mod rejection;
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
mod verifier;

pub use error::BuildError;
pub use guard::{
    Identities, OidcGuard, OidcGuardBuilder, OidcGuardLayer, OidcGuardService, Readiness,
    ResourceMetadata, ResponseBody, ResponseFuture,
};
pub use identity::{
    ComputeEngine, GoogleIdentity, Identity, KubernetesIdentity, ObjectRef, Platform,
};
pub use issuer::Issuer;
pub use jose::algorithm::Algorithm;
pub use jose::{SignatureError, TokenError};
pub use jwk_set::JwkSet;
pub use keys::error::KeysError;
pub use keys::health::{IssuerHealth, SkippedKey};
/// The crate whose types [`Issuer::from_issuer_url`], [`Issuer::from_provider_metadata`], [`Issuer::keys`],
/// [`JwkSet::from_openidconnect`] and [`Identity::id_token_claims`] use.
#[doc(no_inline)]
pub use openidconnect;
pub use policy::{Decision, Policy, PolicyError};
#[cfg(feature = "policy-file")]
pub use policy::{PolicyFile, PolicyHealth};
pub use rejection::Rejection;
pub use verifier::{NotReady, TokenVerifier, VerifyError};
