//! Servers, clients, tokens, volumes and certificates for the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::testing::{TestIssuer, TokenSpec};

use crate::process::{MAX_POLLS, POLL_INTERVAL, Process};

pub(crate) const AUDIENCE: &str = "https://auth-server.example";
pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_auth-server");
pub(crate) const CLIENT: &str = env!("CARGO_BIN_EXE_auth-client");
/// The flags of a server on any free port of 127.0.0.1.
pub(crate) const ON_LOOPBACK: [&str; 4] = ["--address", "127.0.0.1", "--port", "0"];
/// The environment of a program that needs none.
pub(crate) const NO_VARIABLES: [(&str, &str); 0] = [];

impl Process {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `-TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.id().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Waits for a line that contains `text`, and returns it.
    pub(crate) async fn wait_for_line(&self, text: &str) -> String {
        for _ in 0..MAX_POLLS {
            if let Some(line) = self.lines().into_iter().find(|line| line.contains(text)) {
                return line;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        panic!("no line with {text:?}: {:?}", self.lines());
    }

    /// Waits until the process has ended and all that it printed has been read. Returns its exit code, or `None` if a signal
    /// ended it.
    pub(crate) async fn wait_for_exit(&mut self) -> Option<i32> {
        /// A process that it has started may keep the streams open, so the wait for their end is short.
        const MAX_POLLS_OF_STREAMS: usize = 200;
        for _ in 0..MAX_POLLS {
            if let Some(status) = self.child.try_wait().unwrap() {
                for _ in 0..MAX_POLLS_OF_STREAMS {
                    if Arc::strong_count(&self.lines) == 1 {
                        break;
                    }
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                return status.code();
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        panic!("still running after 20 s");
    }
}

/// Returns the flags of a server that trusts an issuer on loopback, and these in addition.
pub(crate) fn trusting<'a>(issuer: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = [
        "--insecure-loopback-http",
        "--audience",
        AUDIENCE,
        "--issuer",
        issuer,
    ];
    [&flags[..], more].concat()
}

/// A server on loopback.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: String,
}

impl Server {
    /// Starts a server that trusts an issuer on loopback.
    pub(crate) async fn start(issuer: &str, more: &[&str]) -> Self {
        let arguments = [&ON_LOOPBACK[..], &trusting(issuer, more)].concat();
        Self::start_with(&arguments, &NO_VARIABLES).await
    }

    /// Starts a server with these arguments and environment variables alone.
    pub(crate) async fn start_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let process = Process::start(SERVER, arguments, variables);
        let address = process.wait_for_address().await;
        Self { process, address }
    }

    /// Returns the URL of a path, which starts with `/` or is empty.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Requests a path with a token, and returns the status.
    pub(crate) async fn status(&self, path: &str, token: &str) -> u16 {
        get_status(&self.url(path), token).await
    }
}

/// Starts a client with these arguments.
pub(crate) fn start_client(arguments: &[&str]) -> Process {
    Process::start(CLIENT, arguments, &NO_VARIABLES)
}

pub(crate) fn http_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Requests a URL with a token, and returns the status.
pub(crate) async fn get_status(url: &str, token: &str) -> u16 {
    let response = http_client().get(url).bearer_auth(token).send().await;
    response.unwrap().status().as_u16()
}

/// Returns a token of the service account `gke-sa` in `id-namespace`.
pub(crate) fn service_account_token(issuer: &TestIssuer, audience: &str) -> TokenSpec {
    let token = issuer.token().audience(audience);
    token.service_account("id-namespace", "gke-sa")
}

/// A projected volume in a temporary directory, with one token in the file `gke-sa`.
pub(crate) struct TokenVolume {
    pub(crate) kubelet: Kubelet,
    _folder: tempfile::TempDir,
}

impl TokenVolume {
    pub(crate) fn new(token: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = Kubelet::new(folder.path()).unwrap();
        kubelet.write([("gke-sa", token)]).unwrap();
        Self {
            kubelet,
            _folder: folder,
        }
    }

    /// Returns the path of the token.
    pub(crate) fn token_path(&self) -> String {
        path_string(self.kubelet.path("gke-sa"))
    }
}

/// A certificate authority.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns the CA's own private key, in PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.0.key().serialize_pem()
    }

    /// Issues a certificate for loopback. Returns it and its private key, both in PEM.
    pub(crate) fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let certificate = params.unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

pub(crate) fn path_string(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

/// Replaces a file atomically.
pub(crate) fn replace_file(path: &PathBuf, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}
