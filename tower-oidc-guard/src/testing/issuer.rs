//! An issuer on loopback.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::server::{Respond, serve};
use super::state::State;
use super::token::TokenSpec;
use crate::jose::algorithm::Algorithm;

/// An issuer on loopback that publishes its documents to everyone, as a Kubernetes API server can be configured to, and
/// signs with RS256 at first.
///
/// It negotiates as strictly as a real API server: a key set requested as `application/json` alone gets 406, a method
/// other than GET 405, an `Authorization` header 401, since it knows no such token. Its responses are held against
/// recorded ones of Kubernetes 1.20 and 1.36, header by header, by this crate's `tests/it/fakes.rs`. The key set and the
/// discovery document can be cached for an hour (`max-age=3600`) and have no `ETag`.
///
/// It stops when dropped; its connections are closed then.
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
        let server = tokio::spawn(serve(listener, || None, respond(&state)));
        Ok(Self {
            state,
            address,
            server,
        })
    }

    /// Closes its connections and its port, as if its process had ended, until it is [started again](Self::restart).
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
        self.server = tokio::spawn(serve(listener, || None, respond(&self.state)));
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

    /// Publishes a new key for that algorithm, as [`rotate_key`](Self::rotate_key) does for the current one.
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

    /// Ignores `Accept` from now on, as most issuers other than Kubernetes do: for clients that ask for key sets as
    /// `application/json` alone.
    pub fn ignore_accept(&self) {
        self.state.ignore_accept();
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

fn respond(state: &Arc<State>) -> Arc<Respond> {
    let state = state.clone();
    Arc::new(move |request| {
        state.respond(request.method(), request.uri().path(), request.headers())
    })
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}
