//! An issuer on loopback.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::issuer_state::{IssuerKind, IssuerState};
use super::kubernetes_http::AcceptHeader;
use super::server::{Respond, serve};
use super::token::TokenSpec;
use crate::issuer::Issuer;
use crate::jose::algorithm::Algorithm;

/// An issuer on loopback, over plain http.
///
/// It publishes its documents to everyone, as a Kubernetes API server can be configured to, and signs with RS256 at first.
/// It responds as strictly as a real API server: with 406 if a key set is requested as `application/json` only, with 405 to
/// a method other than GET, and with 401 to any `Authorization` header, because it accepts no tokens. The discovery document
/// and the key set may be cached for an hour (`max-age=3600`) and have no `ETag`. This crate's tests compare its responses,
/// header by header, with recorded ones of Kubernetes 1.20 and 1.36.
///
/// It stops and closes its connections when it is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_oidc_guard::{Issuer, OidcGuard, testing::TestIssuer};
///
/// let issuer = TestIssuer::start().await?;
/// let guard = OidcGuard::builder()
///     .issuer(Issuer::kubernetes(issuer.url()).audience("me").insecure_loopback_http())
///     .any_verified_caller()
///     .build()?;
/// let token = issuer.token().audience("me").service_account("shop", "orders").mint();
/// assert_eq!(guard.verifier().verify(token).await?.subject(), "system:serviceaccount:shop:orders");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TestIssuer {
    state: Arc<IssuerState>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl TestIssuer {
    /// Starts an issuer on 127.0.0.1, on a port chosen by the system, with one RS256 key. Its documents, responses and tokens
    /// are like those of a Kubernetes cluster. Spawns a task on the current tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port is available, or no key can be generated.
    pub async fn start() -> io::Result<Self> {
        Self::start_with(IssuerState::kubernetes).await
    }

    /// Starts the issuer of a Kubernetes cluster on 127.0.0.1, on a port chosen by the system, with one RS256 key. Its URL on
    /// loopback is the `iss` of its tokens, which have the same claims as recorded ones of Kubernetes 1.36. Spawns a task on the
    /// current tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port is available, or no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, Policy, testing::TestIssuer};
    ///
    /// let cluster = TestIssuer::kubernetes().await?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(cluster.issuer().audience("me"))
    ///     .policy(Policy::members(["system:serviceaccount:shop:web"]))
    ///     .build()?;
    /// let token = cluster.token().audience("me").service_account("shop", "web").pod("web-7d9c").mint();
    /// let caller = guard.verifier().verify(token).await?;
    /// assert_eq!(caller.kubernetes().map(|workload| workload.namespace()), Some("shop"));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn kubernetes() -> io::Result<Self> {
        Self::start_with(IssuerState::kubernetes).await
    }

    /// Starts the issuer of Google's tokens on 127.0.0.1, on a port chosen by the system, with one RS256 key. The `iss` of its
    /// tokens is `https://accounts.google.com`, and its documents and tokens are like Google's. Spawns a task on the current
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port is available, or no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, Policy, testing::TestIssuer};
    ///
    /// let google = TestIssuer::google().await?;
    /// let guard = OidcGuard::builder()
    ///     // `Issuer::google()` with the discovery document of this issuer.
    ///     .issuer(google.issuer().audience("me"))
    ///     .policy(Policy::members(["serviceAccount:orders@project.iam.gserviceaccount.com"]))
    ///     .build()?;
    /// let token = google.token().audience("me").google_service_account("orders@project.iam.gserviceaccount.com");
    /// let caller = guard.verifier().verify(token.mint()).await?;
    /// assert_eq!(caller.issuer(), "https://accounts.google.com");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn google() -> io::Result<Self> {
        Self::start_with(IssuerState::google).await
    }

    /// Starts the issuer of GitHub Actions on 127.0.0.1, on a port chosen by the system, with one RS256 key. The `iss` of its tokens
    /// is `https://token.actions.githubusercontent.com`, and they are like those of a job for a push to `main`. Spawns a task on the
    /// current tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port is available, or no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, testing::TestIssuer};
    ///
    /// let github = TestIssuer::github_actions().await?;
    /// let guard = OidcGuard::builder().issuer(github.issuer().audience("me")).any_verified_caller().build()?;
    /// let token = github.token().audience("me").github_repository("octo-org/octo-repo");
    /// let caller = guard.verifier().verify(token.mint()).await?;
    /// assert_eq!(caller.subject(), "repo:octo-org/octo-repo:ref:refs/heads/main");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn github_actions() -> io::Result<Self> {
        Self::start_with(IssuerState::github_actions).await
    }

    /// Starts an instance of GitLab on 127.0.0.1, on a port chosen by the system, with one RS256 key. Its URL on loopback is the
    /// `iss` of its tokens, which are like those of a job for a push to the protected branch `main`. Spawns a task on the current
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port is available, or no key can be generated.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, testing::TestIssuer};
    ///
    /// let gitlab = TestIssuer::gitlab().await?;
    /// let guard = OidcGuard::builder().issuer(gitlab.issuer().audience("me")).any_verified_caller().build()?;
    /// let token = gitlab.token().audience("me").gitlab_project("my-group/my-project");
    /// let caller = guard.verifier().verify(token.mint()).await?;
    /// assert_eq!(caller.subject(), "project_path:my-group/my-project:ref_type:branch:ref:main");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn gitlab() -> io::Result<Self> {
        Self::start_with(IssuerState::gitlab).await
    }

    async fn start_with(state: fn(String) -> io::Result<IssuerState>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(state(format!("http://{address}"))?);
        let server = tokio::spawn(serve(listener, || None, responder(&state)));
        Ok(Self {
            state,
            address,
            server,
        })
    }

    /// Closes the connections and the port, as at the end of a process, until [`restart`](Self::restart) is called.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_oidc_guard::{Issuer, OidcGuard, testing::TestIssuer};
    /// let mut issuer = TestIssuer::start().await?;
    /// # let trusted = Issuer::oidc(issuer.url()).audience("me").insecure_loopback_http();
    /// # let guard = OidcGuard::builder().issuer(trusted).any_verified_caller().build()?;
    /// issuer.stop().await;
    /// assert!(guard.ready().await.is_err());
    /// issuer.restart().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn stop(&mut self) {
        self.server.abort();
        // An aborted task ends with an error, and its listener is closed then.
        let _ = (&mut self.server).await;
    }

    /// Starts the issuer again at its port, with its keys.
    ///
    /// # Errors
    ///
    /// If another process uses the port by now.
    pub async fn restart(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.server = tokio::spawn(serve(listener, || None, responder(&self.state)));
        Ok(())
    }

    /// Returns the `iss` of its tokens: `https://accounts.google.com` for [`google`](Self::google),
    /// `https://token.actions.githubusercontent.com` for [`github_actions`](Self::github_actions), and the URL on loopback for any
    /// other.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// Returns the URL of the discovery document, on loopback.
    pub fn discovery_url(&self) -> String {
        self.state.discovery_url()
    }

    /// Returns the settings of a guard that trusts this issuer: [`Issuer::google`] for [`google`](Self::google),
    /// [`Issuer::github_actions`] for [`github_actions`](Self::github_actions), [`Issuer::gitlab`] for [`gitlab`](Self::gitlab), and
    /// [`Issuer::kubernetes`] for any other, with this issuer's URL on loopback. Add an audience.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, testing::TestIssuer};
    ///
    /// let (cluster, google) = (TestIssuer::kubernetes().await?, TestIssuer::google().await?);
    /// let guard = OidcGuard::builder()
    ///     .issuer(cluster.issuer().audience("me"))
    ///     .issuer(google.issuer().audience("me"))
    ///     .any_verified_caller()
    ///     .build()?;
    /// assert!(guard.verifier().verify(google.token().audience("me").mint()).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn issuer(&self) -> Issuer {
        let issuer = match self.state.kind {
            IssuerKind::Kubernetes => Issuer::kubernetes(self.url()),
            IssuerKind::Google => Issuer::google().discovery_url(self.discovery_url()),
            IssuerKind::GitHubActions => {
                Issuer::github_actions().discovery_url(self.discovery_url())
            }
            IssuerKind::GitLab => Issuer::gitlab(self.url()),
        };
        issuer.insecure_loopback_http()
    }

    /// Returns a token to be minted with the current key.
    pub fn token(&self) -> TokenSpec {
        self.state.token()
    }

    /// Publishes a new key of the current key's algorithm and signs with it from now on. The old keys stay published.
    /// Returns the `kid` of the new key.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key(&self) -> io::Result<String> {
        self.state.rotate_key(None)
    }

    /// Publishes a new key for `algorithm` and signs with it from now on. The old keys stay published. Returns the `kid` of
    /// the new key.
    ///
    /// # Errors
    ///
    /// If no key can be generated.
    pub fn rotate_key_to(&self, algorithm: Algorithm) -> io::Result<String> {
        self.state.rotate_key(Some(algorithm))
    }

    /// Withdraws all keys but the current one.
    pub fn withdraw_old_keys(&self) {
        self.state.withdraw_old_keys();
    }

    /// Responds to every request with `status`, until [`recover`](Self::recover) is called.
    pub fn fail(&self, status: StatusCode) {
        self.state.set_failure(Some(status));
    }

    /// Ends the effect of [`fail`](Self::fail).
    pub fn recover(&self) {
        self.state.set_failure(None);
    }

    /// Ignores the `Accept` header from now on, as most issuers other than Kubernetes do. Clients that request key sets as
    /// `application/json` only need this, such as openidconnect.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::TestIssuer;
    ///
    /// let issuer = TestIssuer::start().await?;
    /// let url = format!("{}/openid/v1/jwks", issuer.url());
    /// let request = || reqwest::Client::new().get(&url).header("accept", "application/json").send();
    /// assert_eq!(request().await?.status(), 406);
    /// issuer.ignore_accept();
    /// assert_eq!(request().await?.status(), 200);
    /// # Ok(())
    /// # }
    /// ```
    pub fn ignore_accept(&self) {
        self.state.set_accept_header(AcceptHeader::Ignored);
    }

    /// Adds a member to the discovery document, or replaces one. For clients that require more than a guard, such as
    /// `authorization_endpoint`.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::TestIssuer;
    ///
    /// let issuer = TestIssuer::start().await?;
    /// issuer.set_discovery_member("authorization_endpoint", "https://id.example/authorize");
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_discovery_member(&self, name: impl Into<String>, value: impl Into<Value>) {
        self.state.set_discovery_member(name.into(), value.into());
    }

    /// Returns how many times the key set has been requested.
    pub fn key_fetches(&self) -> u64 {
        self.state.key_fetches()
    }
}

fn responder(state: &Arc<IssuerState>) -> Arc<Respond> {
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
