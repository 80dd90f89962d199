//! TLS with certificate files that are replaced while the server runs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use reqwest_wi_auth::WatchedFile;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::Error;

/// The protocols that are offered to clients (ALPN): HTTP/2 first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Returns an acceptor with the certificate and the key of these files, which are followed.
///
/// # Errors
///
/// If a file cannot be read, or the two do not belong together.
pub(super) async fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificate = Certificate::open(certificate, key, provider.clone()).await?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    config.alpn_protocols = PROTOCOLS.map(Vec::from).to_vec();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The certificate and the key of two files, as long as the two belong together.
struct Certificate {
    certificate: WatchedFile<Vec<u8>>,
    key: WatchedFile<Vec<u8>>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    certificate: Arc<Vec<u8>>,
    key: Arc<Vec<u8>>,
    /// Made of these two or, where they do not belong together, of the last ones that did.
    pair: Arc<CertifiedKey>,
}

impl Certificate {
    async fn open(
        certificate: &Path,
        key: &Path,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let pem = |content: &[u8]| match content.is_empty() {
            true => Err("it is empty".into()),
            false => Ok(content.to_vec()),
        };
        let certificate = WatchedFile::open(certificate, pem).await?;
        let key = WatchedFile::open(key, pem).await?;
        let (chain, secret) = (certificate.current(), key.current());
        let pair = load(&chain, &secret, &provider).map_err(Error::Tls)?;
        let loaded = Loaded {
            certificate: chain,
            key: secret,
            pair: Arc::new(pair),
        };
        Ok(Self {
            certificate,
            key,
            provider,
            current: ArcSwap::from_pointee(loaded),
        })
    }

    /// Returns the pair that the files contain now, or the last good one while they are being replaced.
    fn pair(&self) -> Arc<CertifiedKey> {
        let current = self.current.load_full();
        let (certificate, key) = (self.certificate.current(), self.key.current());
        if Arc::ptr_eq(&certificate, &current.certificate) && Arc::ptr_eq(&key, &current.key) {
            return current.pair.clone();
        }
        let pair = match load(&certificate, &key, &self.provider) {
            Ok(pair) => {
                tracing::info!("a new certificate is in use");
                Arc::new(pair)
            }
            Err(error) => {
                tracing::warn!(%error, "the new certificate cannot be used; the old one stays");
                current.pair.clone()
            }
        };
        self.current.store(Arc::new(Loaded {
            certificate,
            key,
            pair: pair.clone(),
        }));
        pair
    }
}

fn load(
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, rustls::Error> {
    let unreadable = |what: &str| rustls::Error::General(format!("no {what} in PEM can be read"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|_| unreadable("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unreadable("private key"))?;
    CertifiedKey::from_der(chain, key, provider)
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair())
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("file", &self.certificate.path())
            .finish_non_exhaustive()
    }
}
