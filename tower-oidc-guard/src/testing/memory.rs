//! An issuer without sockets.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use http::{Extensions, Response, StatusCode};
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};

use super::claims::{GITHUB_ACTIONS, GOOGLE, KUBERNETES};
use super::issuer_state::{IssuerKind, IssuerState};
use super::token::TokenSpec;
use crate::issuer::Issuer;
use crate::jose::algorithm::Algorithm;

/// An issuer for unit tests, which responds through the HTTP client of a guard and needs no socket.
///
/// It responds as strictly as [`TestIssuer`](super::TestIssuer). It works with tokio's time paused.
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
///
/// For a guard with several issuers, see [`client_for`](Self::client_for).
#[derive(Debug)]
pub struct MemoryIssuer(Arc<IssuerState>);

impl MemoryIssuer {
    /// Creates an issuer with one RS256 key and any URL, which may have a path. Its documents, responses and tokens are like
    /// those of a Kubernetes cluster.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn new(url: impl Into<String>) -> io::Result<Self> {
        IssuerState::kubernetes(url.into()).map(Arc::new).map(Self)
    }

    /// Creates the issuer of a Kubernetes cluster with its default name, `https://kubernetes.default.svc.cluster.local`, and
    /// one RS256 key. Its tokens have the same claims as recorded ones of Kubernetes 1.36.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, Policy, testing::MemoryIssuer};
    ///
    /// let cluster = MemoryIssuer::kubernetes()?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(cluster.issuer().audience("me"))
    ///     .policy(Policy::members(["system:serviceaccount:shop:web"]))
    ///     .http_client(cluster.client())
    ///     .build()?;
    /// let token = cluster.token().audience("me").service_account("shop", "web").mint();
    /// assert!(guard.policy().explain(&guard.verifier().verify(token).await?).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn kubernetes() -> io::Result<Self> {
        Self::new(KUBERNETES)
    }

    /// Creates the issuer of Google's tokens, `https://accounts.google.com`, with one RS256 key, for guards with
    /// [`Issuer::google`]. Its documents and tokens are like Google's.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{Issuer, OidcGuard, Policy, testing::MemoryIssuer};
    ///
    /// let google = MemoryIssuer::google()?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::google().audience("me"))
    ///     .policy(Policy::members(["user:ann@example.com"]))
    ///     .http_client(google.client())
    ///     .build()?;
    /// let token = google.token().audience("me").google_account("108204268033311374519", "ann@example.com");
    /// let caller = guard.verifier().verify(token.hosted_domain("example.com").mint()).await?;
    /// assert_eq!(caller.google().and_then(|account| account.hosted_domain()), Some("example.com"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn google() -> io::Result<Self> {
        let state = IssuerState::google(GOOGLE.to_owned());
        state.map(Arc::new).map(Self)
    }

    /// Creates the issuer of GitHub Actions, `https://token.actions.githubusercontent.com`, with one RS256 key, for guards with
    /// [`Issuer::github_actions`]. Its tokens are like those of a job for a push to `main`.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, testing::MemoryIssuer};
    ///
    /// let github = MemoryIssuer::github_actions()?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(github.issuer().audience("me").require_claim("ref", "refs/heads/main"))
    ///     .http_client(github.client())
    ///     .any_verified_caller()
    ///     .build()?;
    /// let token = github.token().audience("me").github_repository("octo-org/octo-repo");
    /// let caller = guard.verifier().verify(token.mint()).await?;
    /// assert_eq!(caller.github_actions().and_then(|job| job.repository()), Some("octo-org/octo-repo"));
    /// assert!(guard.verifier().verify(token.claim("ref", "refs/heads/x").mint()).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn github_actions() -> io::Result<Self> {
        let state = IssuerState::github_actions(GITHUB_ACTIONS.to_owned());
        state.map(Arc::new).map(Self)
    }

    /// Creates an instance of GitLab with any URL and one RS256 key, for guards with [`Issuer::gitlab`]. Its tokens are like those
    /// of a job for a push to the protected branch `main`.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, testing::MemoryIssuer};
    ///
    /// let gitlab = MemoryIssuer::gitlab("https://gitlab.example.com")?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(gitlab.issuer().audience("me").require_claim("ref_protected", "true"))
    ///     .http_client(gitlab.client())
    ///     .any_verified_caller()
    ///     .build()?;
    /// let token = gitlab.token().audience("me").gitlab_project("my-group/my-project");
    /// let caller = guard.verifier().verify(token.mint()).await?;
    /// assert_eq!(caller.gitlab().and_then(|job| job.project_path()), Some("my-group/my-project"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn gitlab(url: impl Into<String>) -> io::Result<Self> {
        let state = IssuerState::gitlab(url.into());
        state.map(Arc::new).map(Self)
    }

    /// Returns the settings of a guard that trusts this issuer: [`Issuer::google`] for [`google`](Self::google),
    /// [`Issuer::github_actions`] for [`github_actions`](Self::github_actions), [`Issuer::gitlab`] for [`gitlab`](Self::gitlab), and
    /// [`Issuer::kubernetes`] for any other. Add an audience. The guard has to use this issuer's [`client`](Self::client).
    ///
    /// ```
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let trusted = MemoryIssuer::kubernetes()?.issuer().audience("https://auth-server.example");
    /// # Ok(())
    /// # }
    /// ```
    pub fn issuer(&self) -> Issuer {
        match self.0.kind {
            IssuerKind::Kubernetes => Issuer::kubernetes(self.url()),
            IssuerKind::Google => Issuer::google(),
            IssuerKind::GitHubActions => Issuer::github_actions(),
            IssuerKind::GitLab => Issuer::gitlab(self.url()),
        }
    }

    /// Returns the URL of the issuer, which is the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Returns an HTTP client whose requests this issuer responds to, whatever host they are for.
    pub fn client(&self) -> ClientWithMiddleware {
        client(Responder::Any(self.0.clone()))
    }

    /// Returns an HTTP client for a guard with several issuers. Each request goes to the issuer whose URL it is for.
    ///
    /// If the URLs of several issuers fit, as with `https://id.example` and `https://id.example/tenant`, the request goes to
    /// the one with the longest path. A request for any other URL fails, like a request to a server that is not reachable.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{Issuer, OidcGuard, testing::MemoryIssuer};
    ///
    /// let cluster = MemoryIssuer::new("https://cluster.example")?;
    /// let google = MemoryIssuer::google()?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::kubernetes("https://cluster.example").audience("me"))
    ///     .issuer(Issuer::google().audience("me"))
    ///     .http_client(MemoryIssuer::client_for([&cluster, &google]))
    ///     .any_verified_caller()
    ///     .build()?;
    /// for issuer in [&cluster, &google] {
    ///     let caller = guard.verifier().verify(issuer.token().audience("me").mint()).await?;
    ///     assert_eq!(caller.issuer(), issuer.url());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn client_for<'i>(issuers: impl IntoIterator<Item = &'i Self>) -> ClientWithMiddleware {
        let issuers = issuers.into_iter().map(|issuer| issuer.0.clone());
        client(Responder::ByUrl(issuers.collect()))
    }

    /// Returns a token to be minted with the current key.
    pub fn token(&self) -> TokenSpec {
        self.0.token()
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

fn client(responder: Responder) -> ClientWithMiddleware {
    ClientBuilder::new(reqwest::Client::new())
        .with(responder)
        .build()
}

/// Responds to requests in place of the network.
enum Responder {
    /// This issuer responds to every request.
    Any(Arc<IssuerState>),
    /// The issuer whose URL a request is for responds to it.
    ByUrl(Vec<Arc<IssuerState>>),
}

impl Responder {
    fn issuer(&self, url: &reqwest::Url) -> Option<&Arc<IssuerState>> {
        match self {
            Self::Any(only) => Some(only),
            Self::ByUrl(issuers) => {
                let owners = issuers
                    .iter()
                    .filter_map(|issuer| Some((issuer.owns(url)?, issuer)));
                let owner = owners.max_by_key(|(length, _)| *length);
                owner.map(|(_, issuer)| issuer)
            }
        }
    }
}

#[async_trait]
impl Middleware for Responder {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let Some(issuer) = self.issuer(request.url()) else {
            let message = format!("no issuer in memory has the URL {}", request.url());
            let error = io::Error::new(io::ErrorKind::HostUnreachable, message);
            return Err(reqwest_middleware::Error::middleware(error));
        };
        let path = request.url().path();
        let response = issuer.respond(request.method(), path, request.headers());
        let (parts, body) = response.into_parts();
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
