//! The CA of a cluster, and the API server's certificate.

use std::io;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The names and addresses that the certificate is for.
const NAMES: [&str; 5] = [
    "127.0.0.1",
    "::1",
    "localhost",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
];

/// A CA, and a server's TLS settings with a certificate signed by it.
pub(super) struct Certified {
    pub(super) ca_pem: String,
    pub(super) config: Arc<ServerConfig>,
}

impl Certified {
    pub(super) fn new() -> io::Result<Self> {
        Self::generate().map_err(io::Error::other)
    }

    fn generate() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(NAMES.map(String::from))?.signed_by(&key, &ca)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Self {
            ca_pem: ca.pem(),
            config: Arc::new(config),
        })
    }
}
