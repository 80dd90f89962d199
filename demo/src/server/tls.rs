//! TLS with certificate files that are replaced while the server runs.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::serve::Listener;
use reqwest_wi_auth::WatchedFile;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::Error;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// So many connections may be ready and not yet served.
const BACKLOG: usize = 64;

/// Takes connections, and hands those on whose handshake is done.
pub(super) struct TlsListener {
    address: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Starts to take connections: spawns a task, which ends with the listener.
    pub(super) async fn start(
        listener: TcpListener,
        address: SocketAddr,
        certificate: &Path,
        key: &Path,
    ) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificate = Certificate::open(certificate, key, provider.clone()).await?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Error::Tls)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(certificate));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (sender, ready) = mpsc::channel(BACKLOG);
        tokio::spawn(take(listener, TlsAcceptor::from(Arc::new(config)), sender));
        Ok(Self { address, ready })
    }
}

async fn take(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    loop {
        // Waits out what an accept may fail with, as axum does for plain connections.
        let accepted = Listener::accept(&mut listener);
        let (stream, peer) = tokio::select! {
            accepted = accepted => accepted,
            () = sender.closed() => return,
        };
        let (acceptor, sender) = (acceptor.clone(), sender.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // Nobody is left to serve it.
                Ok(Ok(stream)) => drop(sender.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "no handshake"),
                Err(_) => tracing::debug!(%peer, "no handshake in time"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.ready.recv().await {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A certificate and its key, as the files have them, as long as the two belong together.
struct Certificate {
    certificate: WatchedFile<Vec<u8>>,
    key: WatchedFile<Vec<u8>>,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Loaded>,
}

struct Loaded {
    certificate: Arc<Vec<u8>>,
    key: Arc<Vec<u8>>,
    /// Of these or, where these do not belong together, of the last ones that did.
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

    /// The pair of the files as they are; the last good one while they are being replaced.
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
