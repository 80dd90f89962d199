//! The server's flags and environment variables.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{ArgAction, Args, Parser};
use tower_oidc_guard::Algorithm;

use super::Limits;
use crate::arguments::{item, parsed_item, web_url};

/// Answers anyone on /, and on /private and /whoami callers with a valid token of a trusted issuer for one of the audiences.
///
/// Lists are separated by commas. An environment variable that is empty counts as not set.
#[derive(Debug, Parser)]
#[command(name = "auth-server", version)]
pub struct ServerSettings {
    /// The address to listen at. Default: all of them, IPv6 and IPv4, or IPv4 only where the system has no IPv6.
    #[arg(long, env = "ADDRESS")]
    pub address: Option<IpAddr>,

    /// The port to listen at; 0 for one that the system chooses.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// A port of its own for /healthz, /readyz and /metrics, over plain http. Default: they are served at --port.
    #[arg(long, env = "ADMIN_PORT", value_name = "PORT")]
    pub admin_port: Option<u16>,

    /// The server's certificate.
    #[command(flatten)]
    pub tls: TlsSettings,

    /// Whose tokens are accepted. `kubernetes` is the cluster that this runs in, `google` is Google,
    /// `gke:PROJECT/LOCATION/CLUSTER` a cluster there, `oidc:URL` any other issuer, and a URL the issuer of a Kubernetes
    /// cluster, exactly as its tokens name it.
    #[arg(
        long,
        env = "ID_ISSUER",
        value_name = "ISSUER",
        value_delimiter = ',',
        required = true,
        value_parser = item
    )]
    pub issuer: Vec<String>,

    /// An accepted audience of tokens.
    #[arg(
        long,
        env = "JWT_AUDIENCE",
        value_delimiter = ',',
        required = true,
        value_parser = item
    )]
    pub audience: Vec<String>,

    /// Who may call: a YAML or JSON file, which is followed. Without it, everyone with a valid token may.
    #[arg(long, env = "POLICY_FILE", value_name = "FILE")]
    pub policy_file: Option<PathBuf>,

    /// Admits requests without a token, as anonymous ones. A request whose token is not valid is refused all the same.
    #[arg(long, env = "OPTIONAL", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub optional: bool,

    /// An accepted type of tokens (`typ`), such as at+jwt. Default: JWT, or none. With this set, a token without a type, as
    /// Kubernetes makes them, is refused.
    #[arg(
        long,
        env = "TOKEN_TYPES",
        value_name = "TYPE",
        value_delimiter = ',',
        value_parser = item
    )]
    pub token_types: Vec<String>,

    /// An accepted signature algorithm, such as RS256. Default: those that the key allows.
    #[arg(
        long,
        env = "ALGORITHMS",
        value_name = "ALGORITHM",
        value_delimiter = ',',
        value_parser = parsed_item::<AllowedAlgorithm>
    )]
    pub algorithms: Vec<AllowedAlgorithm>,

    /// How many verified tokens are cached; 0 switches the cache off.
    #[arg(
        long,
        env = "CACHE_TOKENS",
        value_name = "TOKENS",
        default_value_t = 4096
    )]
    pub cache_tokens: usize,

    /// How many bytes the cached tokens may take; 0 switches the cache off.
    #[arg(long, env = "CACHE_BYTES", value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub cache_bytes: u64,

    /// For the issuer `kubernetes`: the file of the CA of the API server's certificate.
    #[arg(long, env = "API_CA_FILE", value_name = "FILE")]
    pub api_ca_file: Option<PathBuf>,

    /// For the issuer `kubernetes`: the file of the pod's token for the API server.
    #[arg(long, env = "API_TOKEN_FILE", value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,

    /// How far the issuer's clock may differ, in seconds: 300 at most.
    #[arg(
        long,
        env = "LEEWAY",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=300)
    )]
    pub leeway: u64,

    /// How long connections are still accepted after SIGTERM, in seconds, until everything in the cluster knows that this
    /// pod is going.
    #[arg(
        long,
        env = "DRAIN_SECONDS",
        value_name = "SECONDS",
        default_value_t = 0,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=1800)
    )]
    pub drain_seconds: u64,

    /// How long requests in flight may take after that, in seconds; then they are dropped. A pod has 30 s by default.
    #[arg(
        long,
        env = "GRACE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 25,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=1800)
    )]
    pub grace_seconds: u64,

    /// What connections may take.
    #[command(flatten)]
    pub limits: LimitSettings,

    /// Accepts an issuer on this machine over plain http: for trying things out.
    #[arg(long)]
    pub insecure_loopback_http: bool,

    /// The gate before the server.
    #[command(flatten)]
    pub gate: GateSettings,
}

/// An algorithm by its JOSE name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedAlgorithm(pub Algorithm);

impl std::str::FromStr for AllowedAlgorithm {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let algorithm = Algorithm::from_name(name).ok_or(
            "it is not a known asymmetric algorithm, such as RS256, PS256, ES256 or EdDSA",
        )?;
        Ok(Self(algorithm))
    }
}

/// What connections may take.
#[derive(Debug, Args)]
pub struct LimitSettings {
    /// How many connections are served at once; further ones wait.
    #[arg(
        long,
        env = "MAX_CONNECTIONS",
        value_name = "CONNECTIONS",
        default_value_t = 1000,
        value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000)
    )]
    pub max_connections: usize,

    /// How long a connection may be without a request, in seconds: until the head of the first one has arrived in full, and
    /// between two. Then it is closed.
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
    /// Returns the limits.
    pub fn limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            header_timeout: Duration::from_secs(self.header_timeout_seconds),
            handshake_timeout: Duration::from_secs(self.handshake_timeout_seconds),
        }
    }
}

/// The server's certificate.
#[derive(Debug, Args)]
pub struct TlsSettings {
    /// The file of the server's certificate and those of its CAs, in PEM; followed. Without it, plain http is served, for
    /// platforms that end TLS before the server, as Cloud Run does.
    #[arg(
        long,
        env = "TLS_CERTIFICATE",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_certificate: Option<PathBuf>,

    /// The file of the certificate's private key, in PEM; followed.
    #[arg(
        long,
        env = "TLS_KEY",
        value_name = "FILE",
        requires = "tls_certificate"
    )]
    tls_key: Option<PathBuf>,
}

/// A gate that plays Cloud Run's check of who may invoke a service.
#[derive(Debug, Args)]
pub struct GateSettings {
    /// Puts a gate before the server, which requires a token of Google's for this audience.
    #[arg(
        long,
        env = "GATE_AUDIENCE",
        value_delimiter = ',',
        value_name = "AUDIENCE",
        value_parser = item
    )]
    pub gate_audience: Vec<String>,

    /// Who may pass the gate.
    #[arg(
        long,
        env = "GATE_MEMBERS",
        value_delimiter = ',',
        value_name = "MEMBER",
        requires = "gate_audience",
        value_parser = item
    )]
    pub gate_members: Vec<String>,

    /// Who may pass the gate, from a YAML or JSON file, which is followed.
    #[arg(
        long,
        env = "GATE_POLICY_FILE",
        value_name = "FILE",
        requires = "gate_audience",
        conflicts_with = "gate_members"
    )]
    pub gate_policy_file: Option<PathBuf>,

    /// Fetches Google's keys from here, on this machine over plain http too: for trying things out without Google.
    #[arg(long, env = "GOOGLE_KEYS_URL", value_name = "URL", value_parser = web_url)]
    pub google_keys_url: Option<String>,
}

impl TlsSettings {
    /// Returns the files of the certificate and its key, if TLS is served.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.tls_certificate.as_deref().zip(self.tls_key.as_deref())
    }
}
