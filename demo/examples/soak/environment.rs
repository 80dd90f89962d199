//! The environment of the programs: the issuer, the volumes with their files, and the servers.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest_wi_auth::testing::Kubelet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::Failure;
use crate::issuer::Issuer;
use crate::record::Record;
use crate::tokens::{AUDIENCE, NAMESPACE, Tokens};

/// How long a response may take. Generous, because the machine may be busy: a request that takes longer is a failure.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be open without a request. Longer than by default: on a busy machine, the client could take so long from
/// one request to the next.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// Shorter than the servers' limit on idle connections, so that they do not close one that is about to be used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// The largest number of cached tokens, small enough that the cache is full soon.
pub(crate) const CACHED_TOKENS: usize = 256;

/// The service account whose requests are admitted or not, as the policies change.
pub(crate) const CHANGING_ACCOUNT: &str = "changing";
/// The service account that no policy admits.
pub(crate) const DENIED_ACCOUNT: &str = "denied";

/// Whether a policy admits the account that it changes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admits {
    /// The policy admits it.
    Yes,
    /// The policy does not.
    No,
}

impl Admits {
    /// Returns the other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Yes => Self::No,
            Self::No => Self::Yes,
        }
    }

    /// Returns the status that the account gets.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Yes => 200,
            Self::No => 403,
        }
    }
}

/// The expected decision of a server about the account that its policy changes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Expectation {
    /// The decision of the current policy.
    pub(crate) admits: Admits,
    /// Whether the server has been seen to decide so.
    pub(crate) is_settled: bool,
    /// The number of changes.
    pub(crate) change: u64,
}

/// A server, and the ways to connect to it.
pub(crate) struct Server {
    /// The name in the report.
    pub(crate) name: &'static str,
    /// The URL, without a slash at its end.
    pub(crate) url: String,
    /// The address, for connections without an HTTP client.
    pub(crate) address: String,
    /// The URL of the admin port.
    pub(crate) admin: String,
    /// The TLS client, for the server that serves TLS.
    pub(crate) tls: Option<TlsConnector>,
    /// Keeps HTTP/1 connections.
    pub(crate) keep_alive: reqwest::Client,
    /// Sends requests on one HTTP/2 connection.
    pub(crate) http2: reqwest::Client,
    /// Opens a connection for each request.
    pub(crate) fresh: reqwest::Client,
    expectation: Mutex<Expectation>,
}

impl Server {
    /// Describes a server that listens.
    pub(crate) fn new(
        name: &'static str,
        address: String,
        admin: &str,
        ca: Option<&Ca>,
    ) -> Result<Self, Failure> {
        let builder = || -> Result<reqwest::ClientBuilder, Failure> {
            let builder = reqwest::Client::builder()
                .no_proxy()
                .timeout(REQUEST_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT);
            Ok(match ca {
                Some(ca) => {
                    let certificate = reqwest::Certificate::from_pem(ca.pem().as_bytes())?;
                    builder.tls_certs_only([certificate])
                }
                None => builder,
            })
        };
        let http2 = match ca {
            Some(_) => builder()?,
            None => builder()?.http2_prior_knowledge(),
        };
        let scheme = if ca.is_some() { "https" } else { "http" };
        Ok(Self {
            name,
            url: format!("{scheme}://{address}"),
            address,
            admin: format!("http://{admin}"),
            tls: ca.map(Ca::connector).transpose()?,
            keep_alive: builder()?.http1_only().build()?,
            http2: http2.build()?,
            fresh: builder()?.http1_only().pool_max_idle_per_host(0).build()?,
            expectation: Mutex::new(Expectation {
                admits: Admits::Yes,
                is_settled: true,
                change: 0,
            }),
        })
    }

    /// Returns what the server is expected to decide about the account that its policy changes about.
    pub(crate) fn expectation(&self) -> Expectation {
        let expectation = self.expectation.lock();
        *expectation.unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what the server is expected to decide.
    pub(crate) fn expect(&self, change: impl FnOnce(&mut Expectation)) {
        let expectation = self.expectation.lock();
        change(&mut expectation.unwrap_or_else(PoisonError::into_inner));
    }
}

/// A certificate authority.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Result<Self, Failure> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(
            params,
            KeyPair::generate()?,
        )?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for loopback. Returns it and its private key, both in PEM.
    pub(crate) fn issue(&self) -> Result<(String, String), Failure> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(["127.0.0.1".to_owned()])?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// Returns a TLS client that trusts only this authority.
    fn connector(&self) -> Result<TlsConnector, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes())?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // A resumed session has the certificate of its first handshake, which may have been replaced.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config).into())
    }
}

/// The file of the client's token.
pub(crate) const TOKEN_FILE: &str = "gke-sa";
/// The policy file.
pub(crate) const POLICY_FILE: &str = "policy.yaml";
/// The configuration file.
pub(crate) const CONFIGURATION_FILE: &str = "guard.yaml";
/// The shadow policy.
pub(crate) const SHADOW_POLICY_FILE: &str = "shadow.yaml";
/// The certificate.
pub(crate) const CERTIFICATE_FILE: &str = "tls.crt";
/// The private key.
pub(crate) const KEY_FILE: &str = "tls.key";

/// The volumes, as a kubelet writes them.
#[derive(Debug)]
pub(crate) struct Volumes {
    /// The client's token.
    pub(crate) token: Kubelet,
    /// The policy file.
    pub(crate) policy: Kubelet,
    /// The configuration file and the shadow policy.
    pub(crate) configuration: Kubelet,
    /// The certificate and its private key.
    pub(crate) tls: Kubelet,
}

impl Volumes {
    /// Creates the volumes in a folder.
    pub(crate) fn create(folder: &Path) -> Result<Self, Failure> {
        Ok(Self {
            token: Kubelet::new(folder.join("token"))?,
            policy: Kubelet::new(folder.join("policy"))?,
            configuration: Kubelet::new(folder.join("configuration"))?,
            tls: Kubelet::new(folder.join("tls"))?,
        })
    }
}

/// All that the callers and the disturbances share.
pub(crate) struct Environment {
    pub(crate) record: Arc<Record>,
    pub(crate) issuer: Issuer,
    pub(crate) tokens: Tokens,
    pub(crate) volumes: Volumes,
    pub(crate) ca: Ca,
    /// The server with a policy file and TLS, and the one with a configuration file.
    pub(crate) servers: [Server; 2],
    /// Whether callers send tokens for which a server fetches keys. They do not before the issuer signs with a key that it
    /// has not published before: such fetches are limited, so that they would delay the one that is needed.
    pub(crate) sends_tokens_of_unknown_keys: AtomicBool,
}

/// Returns a policy that admits all service accounts of the namespace but one or two.
pub(crate) fn policy(issuer: &str, admits: Admits) -> String {
    let account = |name: &str| format!("\"system:serviceaccount:{NAMESPACE}:{name}\"");
    let mut denied = account(DENIED_ACCOUNT);
    if admits == Admits::No {
        denied = format!("{denied}, {}", account(CHANGING_ACCOUNT));
    }
    format!(
        "allow:\n  - {{ issuer: \"{issuer}\", members: [\"system:serviceaccounts:{NAMESPACE}\"] }}\n\
         deny:\n  - {{ issuer: \"{issuer}\", members: [{denied}] }}\n"
    )
}

/// Returns a configuration with that policy. `change` is its number: other settings change as well, and every other configuration
/// has a second issuer, which cannot be reached.
pub(crate) fn configuration(issuer: &str, admits: Admits, change: u64) -> String {
    let policy = policy(issuer, admits);
    let jitter = change % 3;
    let timeout = 2 + change % 2;
    let second = if change % 2 == 1 {
        "  - { platform: kubernetes, url: \"http://127.0.0.1:1\", audiences: [second], insecure_loopback_http: true }\n"
    } else {
        ""
    };
    format!(
        "issuers:\n  - {{ platform: kubernetes, url: \"{issuer}\", audiences: [\"{AUDIENCE}\"], \
         insecure_loopback_http: true, leeway_seconds: 0, unknown_key_jitter_seconds: {jitter}, \
         fetch_timeout_seconds: {timeout} }}\n{second}{policy}realm: \"realm-{change}\"\n\
         cache: {{ tokens: {CACHED_TOKENS}, bytes: 16777216 }}\n"
    )
}
