//! The flags and environment variables of `auth-server`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{ArgAction, Args, ValueEnum};
use tower_oidc_guard::{Algorithm, TokenReview, WhenUnavailable};

use super::Limits;
use crate::arguments::{parse_item, parse_typed_item, parse_web_url};
use crate::output::LogFormat;

/// The settings of the server.
#[derive(Debug, Args)]
pub struct ServerSettings {
    /// The address to listen on. Default: all addresses, IPv6 and IPv4, or IPv4 only if the system has no IPv6.
    #[arg(long, env = "ADDRESS")]
    pub address: Option<IpAddr>,

    /// The port to listen on; 0 for any free port.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// A separate port for /healthz, /readyz and /metrics, over plain http. Default: they are served on --port.
    #[arg(long, env = "ADMIN_PORT", value_name = "PORT")]
    pub admin_port: Option<u16>,

    /// The settings of TLS.
    #[command(flatten)]
    pub tls: TlsSettings,

    /// A trusted issuer: `kubernetes` for the cluster in which the server runs, `google` for Google,
    /// `gke:PROJECT/LOCATION/CLUSTER` for a GKE cluster, a URL for any other Kubernetes cluster, `github-actions` for GitHub
    /// Actions, `gitlab:URL` for an instance of GitLab, or `oidc:URL` for any other OIDC issuer. A URL must equal the claim `iss` of the tokens exactly.
    #[arg(
        long,
        env = "ID_ISSUER",
        value_name = "ISSUER",
        value_delimiter = ',',
        required_unless_present = "config",
        value_parser = parse_item
    )]
    pub issuer: Vec<String>,

    /// The issuers without whose keys /readyz returns 503: `all`, `any` for at least one of them, or a list of values of
    /// --issuer.
    #[arg(
        long,
        env = "READY_ISSUERS",
        value_name = "ISSUER",
        value_delimiter = ',',
        default_value = "all",
        value_parser = parse_item
    )]
    pub ready_issuers: Vec<String>,

    /// An accepted audience: a value that a token's claim `aud` must contain.
    #[arg(
        long,
        env = "JWT_AUDIENCE",
        value_delimiter = ',',
        required_unless_present = "config",
        value_parser = parse_item
    )]
    pub audience: Vec<String>,

    /// A YAML or JSON file with the issuers, the policy and the settings of the guard; followed as a whole when it changes.
    /// Cannot be combined with --issuer, --ready-issuers, --audience, --policy-file, --optional, --audit, --token-types,
    /// --algorithms, --leeway, --cache-tokens, --cache-bytes, --api-ca-file, --api-token-file, --token-review,
    /// --token-review-ttl and --insecure-loopback-http.
    #[arg(
        long,
        env = "CONFIG_FILE",
        value_name = "FILE",
        conflicts_with_all = [
            "issuer",
            "ready_issuers",
            "audience",
            "policy_file",
            "optional",
            "audit",
            "token_types",
            "algorithms",
            "cache_tokens",
            "cache_bytes",
            "api_ca_file",
            "api_token_file",
            "unconfirmed",
            "ttl_seconds",
            "leeway",
            "insecure_loopback_http",
        ]
    )]
    pub config: Option<PathBuf>,

    /// A YAML or JSON file with the policy that says which callers are admitted; reloaded when it changes. Default: any
    /// caller with a valid token.
    #[arg(long, env = "POLICY_FILE", value_name = "FILE")]
    pub policy_file: Option<PathBuf>,

    /// A YAML or JSON file with a second policy that is evaluated for each request but not enforced; reloaded when it changes.
    /// The log, the metrics and the audit show the requests that it would decide differently.
    #[arg(long, env = "SHADOW_POLICY", value_name = "FILE")]
    pub shadow_policy: Option<PathBuf>,

    /// Admits requests without a token as anonymous. Requests with an invalid token are still rejected.
    #[arg(long, env = "OPTIONAL", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub optional: bool,

    /// Logs each decision on a request as an event of the target `oidc_guard::audit`: admitted, anonymous or rejected, with
    /// the rule, the issuer, the caller, the ID of the token, the method and the route, but never a token.
    #[arg(long, env = "AUDIT", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub audit: bool,

    /// An accepted token type (header `typ`), such as at+jwt. Default: JWT, or no type. If this is set, tokens without a
    /// type are rejected, and Kubernetes' tokens have none.
    #[arg(
        long,
        env = "TOKEN_TYPES",
        value_name = "TYPE",
        value_delimiter = ',',
        value_parser = parse_item
    )]
    pub token_types: Vec<String>,

    /// An accepted signature algorithm, such as RS256. Default: all that the issuer's key allows.
    #[arg(
        long,
        env = "ALGORITHMS",
        value_name = "ALGORITHM",
        value_delimiter = ',',
        value_parser = parse_typed_item::<AllowedAlgorithm>
    )]
    pub algorithms: Vec<AllowedAlgorithm>,

    /// The largest number of verified tokens in the cache; 0 disables the cache.
    #[arg(
        long,
        env = "CACHE_TOKENS",
        value_name = "TOKENS",
        default_value_t = 4096
    )]
    pub cache_tokens: usize,

    /// The largest total size of the cached tokens, in bytes; 0 disables the cache.
    #[arg(long, env = "CACHE_BYTES", value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub cache_bytes: u64,

    /// For the issuer `kubernetes`: the file with the CA certificate of the API server. Default: where Kubernetes mounts it.
    #[arg(long, env = "API_CA_FILE", value_name = "FILE")]
    pub api_ca_file: Option<PathBuf>,

    /// For the issuer `kubernetes`: the file with the pod's token for the API server. Default: where Kubernetes mounts it.
    #[arg(long, env = "API_TOKEN_FILE", value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,

    /// The settings of token reviews.
    #[command(flatten)]
    pub token_review: TokenReviewSettings,

    /// The tolerated difference between the clocks of issuer and server, in seconds: at most 300.
    #[arg(
        long,
        env = "LEEWAY",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=300)
    )]
    pub leeway: u64,

    /// How long connections are still accepted after SIGTERM, in seconds, while the cluster stops sending requests to this
    /// pod.
    #[arg(
        long,
        env = "DRAIN_SECONDS",
        value_name = "SECONDS",
        default_value_t = 0,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=1800)
    )]
    pub drain_seconds: u64,

    /// How long requests in flight may take after the drain period, in seconds. After that, they are dropped. By default,
    /// Kubernetes gives a pod 30 s to end.
    #[arg(
        long,
        env = "GRACE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 25,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=1800)
    )]
    pub grace_seconds: u64,

    /// The limits on connections.
    #[command(flatten)]
    pub limits: LimitSettings,

    /// The format of the log on standard error.
    #[arg(long, env = "LOG_FORMAT", value_enum, ignore_case = true, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Accepts plain http for issuers on loopback addresses. For tests only.
    #[arg(long)]
    pub insecure_loopback_http: bool,

    /// The settings of the gate.
    #[command(flatten)]
    pub gate: GateSettings,
}

/// The treatment of tokens that the API server has neither confirmed nor refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnconfirmedTokens {
    /// They are accepted, as they are without reviews.
    Accept,
    /// They are refused with 503.
    Refuse,
}

/// The settings of token reviews.
#[derive(Debug, Args)]
pub struct TokenReviewSettings {
    /// For the issuer `kubernetes`: has each token confirmed by the API server (TokenReview), which knows whether its pod, service
    /// account and node still exist, and accepts or refuses tokens while the API server cannot be reached. Requires the role
    /// system:auth-delegator. Default: tokens are not reviewed.
    #[arg(
        long = "token-review",
        env = "TOKEN_REVIEW",
        value_name = "IF_UNAVAILABLE",
        value_enum,
        ignore_case = true
    )]
    pub unconfirmed: Option<UnconfirmedTokens>,

    /// How long a confirmation is used, in seconds, and so how long a token may be admitted after its pod was deleted. Requires
    /// --token-review.
    #[arg(
        long = "token-review-ttl",
        env = "TOKEN_REVIEW_TTL",
        value_name = "SECONDS",
        default_value_t = 60,
        requires = "unconfirmed",
        value_parser = RangedU64ValueParser::<u64>::new().range(1..=600)
    )]
    pub ttl_seconds: u64,
}

impl TokenReviewSettings {
    /// Returns the settings for the guard, or `None` if tokens are not reviewed.
    pub fn token_review(&self) -> Option<TokenReview> {
        let when_unavailable = match self.unconfirmed? {
            UnconfirmedTokens::Accept => WhenUnavailable::Accept,
            UnconfirmedTokens::Refuse => WhenUnavailable::Refuse,
        };
        Some(TokenReview::new(when_unavailable).ttl(Duration::from_secs(self.ttl_seconds)))
    }

    /// Returns the setting for a log.
    pub(super) fn describe(&self) -> String {
        match self.unconfirmed {
            None => "off".to_owned(),
            Some(UnconfirmedTokens::Accept) => {
                format!(
                    "ttl {} s, unconfirmed tokens are accepted",
                    self.ttl_seconds
                )
            }
            Some(UnconfirmedTokens::Refuse) => {
                format!("ttl {} s, unconfirmed tokens are refused", self.ttl_seconds)
            }
        }
    }
}

/// A signature algorithm, parsed from its JOSE name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedAlgorithm(pub Algorithm);

impl std::str::FromStr for AllowedAlgorithm {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let algorithm = Algorithm::from_name(name).ok_or(
            "not a supported algorithm; expected an asymmetric one such as RS256, PS256, ES256 or EdDSA",
        )?;
        Ok(Self(algorithm))
    }
}

/// The limits on connections.
#[derive(Debug, Args)]
pub struct LimitSettings {
    /// The largest number of connections that are served at a time; further ones wait.
    #[arg(
        long,
        env = "MAX_CONNECTIONS",
        value_name = "CONNECTIONS",
        default_value_t = 1000,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000)
    )]
    pub max_connections: usize,

    /// How long a connection may be open without a request in flight, in seconds: before the head of the first request has
    /// arrived in full, and between two requests. After that, it is closed.
    #[arg(
        long,
        env = "HEADER_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600)
    )]
    pub header_timeout_seconds: u64,

    /// How long a TLS handshake may take, in seconds.
    #[arg(
        long,
        env = "HANDSHAKE_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = RangedU64ValueParser::<u64>::new().range(1..=3600)
    )]
    pub handshake_timeout_seconds: u64,
}

impl LimitSettings {
    /// Returns the limits for the listener.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            header_timeout: Duration::from_secs(self.header_timeout_seconds),
            handshake_timeout: Duration::from_secs(self.handshake_timeout_seconds),
        }
    }
}

/// The settings of TLS.
#[derive(Debug, Args)]
pub struct TlsSettings {
    /// The PEM file with the server's certificate chain; reloaded when it changes. Default: plain http, for platforms that
    /// terminate TLS in front of the server, as Cloud Run does.
    #[arg(
        long,
        env = "TLS_CERTIFICATE",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_certificate: Option<PathBuf>,

    /// The PEM file with the certificate's private key; reloaded when it changes.
    #[arg(
        long,
        env = "TLS_KEY",
        value_name = "FILE",
        requires = "tls_certificate"
    )]
    tls_key: Option<PathBuf>,
}

/// The settings of a gate that emulates Cloud Run's invoker check.
#[derive(Debug, Args)]
pub struct GateSettings {
    /// Puts a gate in front of the application that requires a Google token for this audience.
    #[arg(
        long,
        env = "GATE_AUDIENCE",
        value_delimiter = ',',
        value_name = "AUDIENCE",
        value_parser = parse_item
    )]
    pub gate_audience: Vec<String>,

    /// A member that the gate admits, such as serviceAccount:NAME@PROJECT.iam.gserviceaccount.com.
    #[arg(
        long,
        env = "GATE_MEMBERS",
        value_delimiter = ',',
        value_name = "MEMBER",
        requires = "gate_audience",
        value_parser = parse_item
    )]
    pub gate_members: Vec<String>,

    /// A YAML or JSON file with the policy of the gate; reloaded when it changes.
    #[arg(
        long,
        env = "GATE_POLICY_FILE",
        value_name = "FILE",
        requires = "gate_audience",
        conflicts_with = "gate_members"
    )]
    pub gate_policy_file: Option<PathBuf>,

    /// Fetches Google's keys from this URL, which may use plain http on a loopback address. For tests only.
    #[arg(long, env = "GOOGLE_KEYS_URL", value_name = "URL", value_parser = parse_web_url)]
    pub google_keys_url: Option<String>,
}

impl TlsSettings {
    /// Returns the files of the certificate and the key, or `None` if TLS is not configured.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.tls_certificate.as_deref().zip(self.tls_key.as_deref())
    }
}
