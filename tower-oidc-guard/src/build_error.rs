//! Errors in the configuration of a guard.

use crate::policy::PolicyError;
use crate::text::with_causes;
use std::fmt;

/// The reason why a guard does not build.
///
/// The text of an error contains the text of its cause, and of the causes of that. `source` therefore returns `None`: a
/// reporter that prints the chain of sources prints nothing twice. To handle a cause, match on the variant.
///
/// ```
/// use tower_oidc_guard::{BuildError, Issuer, OidcGuard, Policy};
///
/// let error = OidcGuard::builder()
///     .issuer(Issuer::google().audience("https://auth-server.example"))
///     .policy(Policy::members(["user:jane"]))
///     .build()
///     .unwrap_err();
/// assert!(matches!(error, BuildError::Policy(_)));
/// assert!(error.to_string().contains("\"user:jane\""));
/// ```
///
/// The `Debug` form is the text as well, because that is what a program prints that returns the error from `main`.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No issuer is configured. Add one with [`issuer`](crate::OidcGuardBuilder::issuer).
    #[error(
        "no issuer is configured, so no token could be accepted; add one with `OidcGuardBuilder::issuer`"
    )]
    NoIssuer,
    /// An issuer has no audience, so tokens for any service would be accepted.
    #[error(
        "issuer {issuer:?} has no audience, so tokens for any service would be accepted; set the audience of this service with `audience`"
    )]
    NoAudience {
        /// The label of the issuer: its configured URL or name.
        issuer: String,
    },
    /// A setting of an issuer is invalid.
    #[error("issuer {issuer:?} is misconfigured: {reason}")]
    Issuer {
        /// The label of the issuer: its configured URL or name.
        issuer: String,
        /// Which setting is invalid, and why.
        reason: String,
    },
    /// The process does not run in a Kubernetes cluster: the kubelet sets two environment variables in every container.
    #[error(
        "the environment variables KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not contain the address of an API server, so this process does not run in a Kubernetes cluster; outside a cluster, configure the issuer with `Issuer::kubernetes(url)`"
    )]
    NotInCluster,
    /// An audience of a Kubernetes issuer is the API server's own.
    #[error(
        "the audience {audience:?} is the Kubernetes API server's own: every pod of the cluster has a token for it, so every pod could call; let callers request a token for an audience of this service, or accept that with `dangerous_accept_api_server_audience`"
    )]
    ApiServerAudience {
        /// The audience.
        audience: String,
    },
    /// Two issuers have the same `iss`.
    #[error("issuer {issuer:?} is configured twice; configure it once, with all its audiences")]
    DuplicateIssuer {
        /// The `iss` that both have.
        issuer: String,
    },
    /// A setting contradicts an earlier one, and would silently replace it.
    #[error("`{second}` conflicts with `{first}`, which was set before: {advice}")]
    Conflict {
        /// The setting that was made first.
        first: &'static str,
        /// The setting that was made second.
        second: &'static str,
        /// Advice on how to resolve the conflict.
        advice: &'static str,
    },
    /// The headers of [`token_from`](crate::OidcGuardBuilder::token_from) or
    /// [`token_from_exactly_one_of`](crate::OidcGuardBuilder::token_from_exactly_one_of) are invalid.
    #[error("the headers in `token_from` or `token_from_exactly_one_of` are invalid: {reason}")]
    TokenHeaders {
        /// Why they are invalid.
        reason: String,
    },
    /// The policy is invalid, or does not fit the trusted issuers.
    #[error("the policy is invalid: {0}")]
    Policy(PolicyError),
    /// The [shadow policy](crate::OidcGuardBuilder::shadow_policy) is invalid or does not fit the issuers.
    #[error("the shadow policy is invalid: {0}")]
    ShadowPolicy(PolicyError),
    /// A policy file has no valid content.
    #[cfg(feature = "policy-file")]
    #[error("the policy file cannot be used: {0}")]
    PolicyFile(reqwest_wi_auth::FileError),
    /// The issuers of [`ready_when`](crate::OidcGuardBuilder::ready_when) are not trusted ones, or there are none.
    #[error("`ready_when` cannot be satisfied: {reason}")]
    ReadyWhen {
        /// Which issuer is not trusted, and what is expected.
        reason: String,
    },
    /// The protected resource is not an https URL without a fragment (RFC 9728, section 1.2).
    #[error("`protected_resource` is {resource:?}; expected an https URL without a fragment")]
    Resource {
        /// The resource, as configured.
        resource: String,
    },
    /// No policy is configured.
    #[error(
        "it is not configured which callers are allowed; set `policy` or, to allow every caller with a valid token, `any_verified_caller`"
    )]
    NoPolicy,
    /// The realm contains characters that a challenge cannot contain.
    #[error("`realm` is {realm:?}; expected printable ASCII characters only")]
    Realm {
        /// The realm, as configured.
        realm: String,
    },
    /// The limit on the length of a token is out of range.
    #[error("`max_token_bytes` is {bytes}; expected 1024 (1 KiB) to 1048576 (1 MiB)")]
    MaxTokenBytes {
        /// The limit, as configured.
        bytes: usize,
    },
    /// The cache of verified tokens cannot hold any token.
    #[error(
        "`cache({tokens}, {bytes})` cannot hold any token; to turn the cache off, call `without_cache` instead"
    )]
    Cache {
        /// The number of tokens, as configured.
        tokens: usize,
        /// The number of bytes, as configured.
        bytes: u64,
    },
    /// The interval of the summary of refused requests is out of range.
    #[error(
        "`refusal_summary_interval` is {interval:?}; expected 1 s to 1 h, or call `without_refusal_summary` to turn the summary off"
    )]
    RefusalSummaryInterval {
        /// The interval, as configured.
        interval: std::time::Duration,
    },
    /// A setting is both in code and in the configuration file.
    #[cfg(feature = "policy-file")]
    #[error("`{setting}` is set in code and in the configuration file; remove one of them")]
    SettingInFile {
        /// The field of the file.
        setting: &'static str,
    },
    /// A change of the configuration file adds, moves or removes the metadata of the protected resource.
    #[cfg(feature = "policy-file")]
    #[error(
        "`protected_resource` cannot be added or removed, nor get another path, while the service runs, because its metadata is mounted at a path; restart the service"
    )]
    ResourceMetadataPath,
    /// The policy of a layer does not fit the issuers in the configuration file.
    #[cfg(feature = "policy-file")]
    #[error("the policy of a layer (`OidcGuard::layer_with`) does not fit: {0}")]
    LayerPolicy(PolicyError),
    /// The HTTP client for discovery documents and keys could not be created.
    #[error("the HTTP client for discovery documents and keys could not be created: {}", with_causes(.0))]
    HttpClient(reqwest::Error),
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<PolicyError> for BuildError {
    fn from(error: PolicyError) -> Self {
        Self::Policy(error)
    }
}

#[cfg(feature = "policy-file")]
impl From<reqwest_wi_auth::FileError> for BuildError {
    fn from(error: reqwest_wi_auth::FileError) -> Self {
        Self::PolicyFile(error)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn the_text_of_a_policy_error_is_in_the_build_error_and_not_its_source() {
        let policy = PolicyError::NoIssuerForPlatform { platform: "Google" };
        let error = BuildError::from(policy.clone());
        assert_eq!(
            error.to_string(),
            format!("the policy is invalid: {policy}")
        );
        assert!(error.source().is_none());
    }
}
