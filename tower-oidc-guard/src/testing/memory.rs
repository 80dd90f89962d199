//! An issuer without sockets.
//!
//! It answers as [`TestIssuer`](super::TestIssuer) does, and is held against the same recordings.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Extensions, Response, StatusCode};
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};

use super::issuer_state::IssuerState;
use super::token::TokenSpec;
use crate::jose::algorithm::Algorithm;

/// An issuer that answers without a socket, through the HTTP client that a guard is given: for unit tests.
///
/// It negotiates as strictly as [`TestIssuer`](super::TestIssuer), and is held against the same recorded responses.
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
    /// An issuer of that URL, with one key for RS256.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn new(url: impl Into<String>) -> io::Result<Self> {
        IssuerState::new(url.into()).map(Arc::new).map(Self)
    }

    /// Its URL, which is the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// A client whose requests are answered by this issuer, whatever host they are for.
    pub fn client(&self) -> ClientWithMiddleware {
        ClientBuilder::new(reqwest::Client::new())
            .with(Answering(self.0.clone()))
            .build()
    }

    /// A token to be minted with the current key.
    pub fn token(&self) -> TokenSpec {
        TokenSpec::new(self.0.current(), &self.0.url)
    }

    /// Publishes a new key of the same algorithm and signs with it from now on; the old ones stay published. Returns
    /// the new key's `kid`.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key(&self) -> io::Result<String> {
        self.0.rotate_key(None)
    }

    /// The same with a key for that algorithm.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key_to(&self, algorithm: Algorithm) -> io::Result<String> {
        self.0.rotate_key(Some(algorithm))
    }

    /// Publishes nothing but the current key from now on.
    pub fn withdraw_old_keys(&self) {
        self.0.withdraw_old_keys();
    }

    /// Answers everything with that status, until it [recovers](Self::recover).
    pub fn fail(&self, status: StatusCode) {
        self.0.set_failure(Some(status));
    }

    /// Answers again as it should.
    pub fn recover(&self) {
        self.0.set_failure(None);
    }

    /// How often the key set has been fetched.
    pub fn key_fetches(&self) -> u64 {
        self.0.key_fetches()
    }
}

struct Answering(Arc<IssuerState>);

#[async_trait]
impl Middleware for Answering {
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
