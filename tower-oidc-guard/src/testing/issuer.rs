//! An issuer of one's own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::server::serve;
use super::state::State;
use super::token::TokenSpec;
use crate::verify::algorithm::Algorithm;

/// An issuer on loopback that publishes what a Kubernetes API server publishes, and signs with RS256 at
/// first.
///
/// It stops when dropped.
#[derive(Debug)]
pub struct TestIssuer {
    state: Arc<State>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl TestIssuer {
    /// Starts an issuer on 127.0.0.1, on a port of the system's choice, with one key. Spawns a task on
    /// the current tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port can be had, or no key be generated.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let url = format!("http://{address}");
        let state = Arc::new(State::new(url)?);
        let server = tokio::spawn(serve(listener, state.clone()));
        Ok(Self {
            state,
            address,
            server,
        })
    }

    /// Takes no more connections, as if it were gone, until it is [started again](Self::restart).
    pub async fn stop(&mut self) {
        self.server.abort();
        // An aborted task ends with an error, and with it the listener.
        let _ = (&mut self.server).await;
    }

    /// Starts it again at its port, with its keys.
    ///
    /// # Errors
    ///
    /// If the port is taken by now.
    pub async fn restart(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.server = tokio::spawn(serve(listener, self.state.clone()));
        Ok(())
    }

    /// Its URL, which is the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// A token to be minted with the current key.
    pub fn token(&self) -> TokenSpec {
        let key = self.state.current();
        TokenSpec::new(key, &self.state.url)
    }

    /// Publishes a new key of the same algorithm and signs with it from now on; the old ones stay published. Returns
    /// the new key's `kid`.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key(&self) -> io::Result<String> {
        self.state.rotate_key(None)
    }

    /// The same with a key for that algorithm. A guard hears of a new algorithm with the discovery document, which it
    /// keeps for an hour.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key_to(&self, algorithm: Algorithm) -> io::Result<String> {
        self.state.rotate_key(Some(algorithm))
    }

    /// Answers everything with that status, until it [recovers](Self::recover).
    pub fn fail(&self, status: StatusCode) {
        self.state.fail(Some(status));
    }

    /// Answers again as it should.
    pub fn recover(&self) {
        self.state.fail(None);
    }

    /// Publishes nothing but the current key from now on.
    pub fn withdraw_old_keys(&self) {
        self.state.withdraw_old_keys();
    }

    /// How often the key set has been fetched.
    pub fn key_fetches(&self) -> u64 {
        self.state.key_fetches()
    }
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
