//! An issuer without sockets.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Extensions, Response, StatusCode};
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};

use super::issuer_state::IssuerState;
use super::token::TokenSpec;
use crate::jose::algorithm::Algorithm;

/// An issuer for unit tests, which responds through the HTTP client of a guard and needs no socket.
///
/// It responds as strictly as [`TestIssuer`](super::TestIssuer).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_oidc_guard::{Issuer, OidcGuard, testing::MemoryIssuer};
///
/// let issuer = MemoryIssuer::new("https://cluster.example")?;
/// let guard = OidcGuard::builder()
///     .issuer(Issuer::kubernetes(issuer.url()).audience("me"))
///     .http_client(issuer.client())
///     .any_verified_caller()
///     .build()?;
/// let token = issuer.token().audience("me").mint();
/// assert!(guard.verifier().verify(token).await.is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryIssuer(Arc<IssuerState>);

impl MemoryIssuer {
    /// Creates an issuer with one RS256 key.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn new(url: impl Into<String>) -> io::Result<Self> {
        IssuerState::new(url.into()).map(Arc::new).map(Self)
    }

    /// Returns the URL of the issuer, which is the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Returns an HTTP client whose requests this issuer responds to, whatever host they are for.
    pub fn client(&self) -> ClientWithMiddleware {
        ClientBuilder::new(reqwest::Client::new())
            .with(Responder(self.0.clone()))
            .build()
    }

    /// Returns a token to be minted with the current key.
    pub fn token(&self) -> TokenSpec {
        TokenSpec::new(self.0.current(), &self.0.url)
    }

    /// Publishes a new key of the current key's algorithm and signs with it from now on. The old keys stay published. Returns
    /// the `kid` of the new key.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key(&self) -> io::Result<String> {
        self.0.rotate_key(None)
    }

    /// Publishes a new key for `algorithm` and signs with it from now on. The old keys stay published. Returns the `kid` of
    /// the new key.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key_to(&self, algorithm: Algorithm) -> io::Result<String> {
        self.0.rotate_key(Some(algorithm))
    }

    /// Withdraws all keys but the current one.
    pub fn withdraw_old_keys(&self) {
        self.0.withdraw_old_keys();
    }

    /// Responds to every request with `status`, until [`recover`](Self::recover) is called.
    pub fn fail(&self, status: StatusCode) {
        self.0.set_failure(Some(status));
    }

    /// Ends the effect of [`fail`](Self::fail).
    pub fn recover(&self) {
        self.0.set_failure(None);
    }

    /// Returns how many times the key set has been requested.
    pub fn key_fetches(&self) -> u64 {
        self.0.key_fetches()
    }
}

/// Responds to requests in place of the network.
struct Responder(Arc<IssuerState>);

#[async_trait]
impl Middleware for Responder {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let path = request.url().path();
        let (parts, body) = self
            .0
            .respond(request.method(), path, request.headers())
            .into_parts();
        let mut response = Response::builder()
            .status(parts.status)
            .url(request.url().clone());
        if let Some(headers) = response.headers_mut() {
            headers.extend(parts.headers);
        }
        let response = response.body(body);
        let response = response.map_err(reqwest_middleware::Error::middleware)?;
        Ok(response.into())
    }
}
