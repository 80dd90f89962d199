//! TLS with certificate files that may be replaced while the server runs.

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

use crate::{Error, error_chain};

/// The protocols that are offered to clients by ALPN: HTTP/2 first.
const ALPN_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Returns a TLS acceptor that uses the current content of a certificate file and a key file.
///
/// # Errors
///
/// If a file cannot be read, or the key is not the certificate's.
pub(super) async fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let resolver = FileCertResolver::open(certificate, key, provider.clone()).await?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Error::Tls)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = ALPN_PROTOCOLS.map(Vec::from).to_vec();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Resolves each handshake to the certificate and the key that two files contain.
///
/// The files are replaced one after the other. In between, when they do not match, the previous pair stays in use.
struct FileCertResolver {
    certificate: WatchedFile<Vec<u8>>,
    key: WatchedFile<Vec<u8>>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    certificate: Arc<Vec<u8>>,
    key: Arc<Vec<u8>>,
    /// Created from `certificate` and `key` or, if these do not match, from the last contents that did.
    pair: Arc<CertifiedKey>,
}

impl FileCertResolver {
    async fn open(
        certificate: &Path,
        key: &Path,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let parse = |content: &[u8]| {
            if content.is_empty() {
                Err("the file is empty".into())
            } else {
                Ok(content.to_vec())
            }
        };
        let certificate = WatchedFile::open(certificate, parse).await;
        let certificate =
            certificate.map_err(Error::file("--tls-certificate (TLS_CERTIFICATE)"))?;
        let key = WatchedFile::open(key, parse).await;
        let key = key.map_err(Error::file("--tls-key (TLS_KEY)"))?;
        let (certificate_pem, key_pem) = (certificate.current(), key.current());
        let pair = load(&certificate_pem, &key_pem, &provider).map_err(Error::Tls)?;
        let loaded = Loaded {
            certificate: certificate_pem,
            key: key_pem,
            pair: Arc::new(pair),
        };
        Ok(Self {
            certificate,
            key,
            provider,
            current: ArcSwap::from_pointee(loaded),
        })
    }

    /// Returns the pair that the files contain now, or the previous one if the files do not match.
    fn pair(&self) -> Arc<CertifiedKey> {
        let current = self.current.load_full();
        let (certificate, key) = (self.certificate.current(), self.key.current());
        if Arc::ptr_eq(&certificate, &current.certificate) && Arc::ptr_eq(&key, &current.key) {
            return current.pair.clone();
        }
        let pair = match load(&certificate, &key, &self.provider) {
            Ok(pair) => {
                tracing::info!("using a new certificate");
                Arc::new(pair)
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(
                    error,
                    "the new certificate and key cannot be used; keeping the previous ones"
                );
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
    let unreadable = |what: &str| rustls::Error::General(format!("cannot read a {what} in PEM"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(|_| unreadable("certificate"))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| unreadable("private key"))?;
    CertifiedKey::from_der(chain, key, provider)
}

impl ResolvesServerCert for FileCertResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.pair())
    }
}

impl fmt::Debug for FileCertResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileCertResolver")
            .field("certificate_file", &self.certificate.path())
            .finish_non_exhaustive()
    }
}
