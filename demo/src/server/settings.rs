//! What can be said to the server, by flag or environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Parser};

/// Answers anyone on /, and on /private and /whoami callers with a valid token of the issuer for one of the audiences.
#[derive(Debug, Parser)]
#[command(name = "auth-server", version)]
pub struct ServerSettings {
    /// The address to listen at.
    #[arg(long, env = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub address: IpAddr,

    /// The port to listen at; 0 for one of the system's choice.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,

    /// Certificate and key.
    #[command(flatten)]
    pub tls: TlsSettings,

    /// Whose tokens are taken; several with commas between them. `kubernetes` is the cluster that this runs in, `google`
    /// is Google, `gke:PROJECT/LOCATION/CLUSTER` a cluster there, `oidc:URL` any other issuer, and a URL the issuer of a
    /// Kubernetes cluster, to the letter as its tokens name it.
    #[arg(
        long,
        env = "ID_ISSUER",
        value_name = "ISSUER",
        value_delimiter = ',',
        required = true
    )]
    pub issuer: Vec<String>,

    /// An audience that tokens may be made for; several with commas between them.
    #[arg(long, env = "JWT_AUDIENCE", value_delimiter = ',', required = true)]
    pub audience: Vec<String>,

    /// Who may call: a YAML or JSON file, which is followed. Without it, whoever has a valid token may.
    #[arg(long, env = "POLICY_FILE", value_name = "FILE")]
    pub policy_file: Option<PathBuf>,

    /// For the issuer `kubernetes`: the file of the CA of the API server's certificate.
    #[arg(long, env = "API_CA_FILE", value_name = "FILE")]
    pub api_ca_file: Option<PathBuf>,

    /// For the issuer `kubernetes`: the file of the pod's token for the API server.
    #[arg(long, env = "API_TOKEN_FILE", value_name = "FILE")]
    pub api_token_file: Option<PathBuf>,

    /// How far the issuer's clock may differ, in seconds: 300 at most.
    #[arg(long, env = "LEEWAY", default_value_t = 60)]
    pub leeway: u64,

    /// How long connections are still taken after SIGTERM, in seconds, until all in the cluster know that this pod is
    /// going.
    #[arg(long, env = "DRAIN_SECONDS", default_value_t = 0)]
    pub drain_seconds: u64,

    /// How long requests in flight may take at the end, in seconds. A pod has 30 by default.
    #[arg(long, env = "GRACE_SECONDS", default_value_t = 25)]
    pub grace_seconds: u64,

    /// Take an issuer on this machine over plain http: for trying things out.
    #[arg(long)]
    pub insecure_loopback_http: bool,

    /// The gate before the server.
    #[command(flatten)]
    pub gate: GateSettings,
}

/// The server's certificate.
#[derive(Debug, Args)]
pub struct TlsSettings {
    /// The file of the server's certificate and those of its CAs, in PEM; followed. Without it, plain http is served,
    /// for who ends TLS before it, as Cloud Run does.
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
    /// Stands a gate before the server, which wants a token of Google's for this audience; several with commas between
    /// them.
    #[arg(
        long,
        env = "GATE_AUDIENCE",
        value_delimiter = ',',
        value_name = "AUDIENCE"
    )]
    pub gate_audience: Vec<String>,

    /// Who may pass the gate; several with commas between them.
    #[arg(
        long,
        env = "GATE_MEMBERS",
        value_delimiter = ',',
        value_name = "MEMBER"
    )]
    pub gate_members: Vec<String>,

    /// The same from a YAML or JSON file, which is followed.
    #[arg(
        long,
        env = "GATE_POLICY_FILE",
        value_name = "FILE",
        conflicts_with = "gate_members"
    )]
    pub gate_policy_file: Option<PathBuf>,

    /// Takes Google's keys from here, on this machine over plain http too: for trying things out without Google.
    #[arg(long, env = "GOOGLE_KEYS_URL", value_name = "URL")]
    pub google_keys_url: Option<String>,
}

impl ServerSettings {
    /// Where to listen.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl TlsSettings {
    /// Certificate and key.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        self.tls_certificate.as_deref().zip(self.tls_key.as_deref())
    }
}
