//! Errors in a guard's configuration.

/// Why a guard does not build.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No issuer is trusted: name one with [`issuer`](crate::OidcGuardBuilder::issuer).
    #[error("no issuer is named; a guard without one would let nobody in")]
    NoIssuer,
    /// An issuer has no audience: it would take tokens that were made for any service.
    #[error("the issuer {issuer:?} has no audience; name this service's with `audience`")]
    NoAudience {
        /// The issuer, as configured.
        issuer: String,
    },
    /// An issuer's setting is not one that can work.
    #[error("the issuer {issuer:?} cannot be used: {reason}")]
    Issuer {
        /// The issuer, as configured.
        issuer: String,
        /// What is wrong.
        reason: String,
    },
    /// This does not run in a cluster: the kubelet sets two variables in every container.
    #[error(
        "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT do not name an API server, so this does not run in a Kubernetes cluster; outside one, name the issuer with `Issuer::kubernetes(url)`"
    )]
    NotInCluster,
    /// An audience of a Kubernetes issuer is the API server's own.
    #[error(
        "the audience {audience:?} is the Kubernetes API server's own: every pod of the cluster has a token for it, so every pod could call; have callers mount a token for an audience of this service's, or accept that with `dangerous_accept_api_server_audience`"
    )]
    ApiServerAudience {
        /// The audience.
        audience: String,
    },
    /// The same issuer is named twice: give it several audiences instead.
    #[error("the issuer {issuer:?} is named twice; name it once, with all its audiences")]
    DuplicateIssuer {
        /// The issuer, as configured.
        issuer: String,
    },
    /// Two settings contradict each other: one would silently replace the other.
    #[error("`{second}` conflicts with `{first}`, which was set before: {advice}")]
    Conflict {
        /// The setting that was made first.
        first: &'static str,
        /// The setting that was made second.
        second: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The headers for tokens are not ones that a token could come in.
    #[error("the headers of `token_from` or `token_from_exactly_one_of` cannot be used: {reason}")]
    TokenHeaders {
        /// What is wrong.
        reason: String,
    },
    /// The policy cannot be used.
    #[error("the policy cannot be used")]
    Policy(#[from] crate::policy::PolicyError),
    /// A policy file cannot be used.
    #[cfg(feature = "policy-file")]
    #[error("the policy file cannot be used")]
    PolicyFile(#[from] reqwest_wi_auth::FileError),
    /// The protected resource is not an https URL without a fragment (RFC 9728, section 1.2).
    #[error("the protected resource {resource:?} is not an https URL without a fragment")]
    Resource {
        /// The resource, as configured.
        resource: String,
    },
    /// It is not said who may call.
    #[error(
        "it is not said who may call; say it with `policy` or, if every caller with a valid token may, with `any_verified_caller`"
    )]
    NoPolicy,
    /// The realm has characters that a challenge cannot carry.
    #[error("the realm {realm:?} has characters other than printable ASCII")]
    Realm {
        /// The realm, as configured.
        realm: String,
    },
    /// The limit on the length of a token is not one that can work.
    #[error("max_token_bytes is {bytes}; expected 1024 (1 KiB) to 1048576 (1 MiB)")]
    MaxTokenBytes {
        /// The limit, as configured.
        bytes: usize,
    },
    /// The cache of verified tokens cannot hold any.
    #[error(
        "cache({tokens}, {bytes}) cannot hold any token; to turn the cache off, call `without_cache` instead"
    )]
    Cache {
        /// The number of tokens, as configured.
        tokens: usize,
        /// The number of bytes, as configured.
        bytes: u64,
    },
    /// The HTTP client for discovery and keys could not be made.
    #[error("the HTTP client could not be made")]
    HttpClient(#[source] reqwest::Error),
}
