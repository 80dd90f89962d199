//! An API server of Kubernetes that answers what real ones answered, over TLS with a CA of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1", "::1"].map(String::from);
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }
}

/// A path that was asked for, and the bearer token that came with the request.
pub type Asked = (String, Option<String>);

/// It stops when dropped.
pub struct ApiServer {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is answered to a path: a status line and a body.
pub type Answers = fn(&Path, &str) -> (String, Vec<u8>);

/// Answers with the recorded documents in that folder.
pub fn recorded(folder: &Path, path: &str) -> (String, Vec<u8>) {
    let name = match path {
        "/.well-known/openid-configuration" => "discovery.json",
        "/openid/v1/jwks" => "jwks.json",
        _ => return ("404 Not Found".to_owned(), Vec::new()),
    };
    (
        "200 OK".to_owned(),
        std::fs::read(folder.join(name)).unwrap(),
    )
}

impl ApiServer {
    /// Answers whoever sends this token, or another of these, and 401 to all others.
    pub async fn start(
        at: &str,
        ca: &Ca,
        folder: &Path,
        tokens: &[&str],
        answers: Answers,
    ) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (acceptor, told, folder) = (ca.acceptor(), asked.clone(), folder.to_owned());
        let tokens: Vec<_> = tokens.iter().map(|&token| token.to_owned()).collect();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap_or(b'\n'));
                }
                let request = String::from_utf8(request).unwrap();
                let path = request.split(' ').nth(1).unwrap().to_owned();
                let sent = request
                    .lines()
                    .find_map(|line| line.strip_prefix("authorization: Bearer "));
                let is_known = sent.is_some_and(|sent| tokens.iter().any(|token| token == sent));
                let (status, body) = match is_known {
                    true => answers(&folder, &path),
                    false => ("401 Unauthorized".to_owned(), Vec::new()),
                };
                told.lock().unwrap().push((path, sent.map(str::to_owned)));
                let head = format!(
                    "HTTP/1.1 {status}\r\ncache-control: public, max-age=3600\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&body).await;
                let _ = stream.shutdown().await;
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}
