//! Tokens of Google for identities of other issuers (workload identity federation).

mod builder;
mod config;
mod endpoints;
mod federated;
mod service_account;
mod subject_url;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::builder::GoogleFederationBuilder;
use self::federated::{CLOUD_PLATFORM, Exchange, SharedToken};
use self::service_account::{Email, ServiceAccount, is_federated_token_rejected};
use super::fetched::{Description, Fetch, FetchKind, FetchedToken, Timing, require_runtime};
use super::http::{Endpoint, HttpClient};
use super::{TokenProvider, TokenSource};
use crate::error::{Error, FetchError};
use crate::token::Token;
use crate::watched_file::ClockFn;

/// How long the source of the subject token may take, in addition to the requests to Google.
const SUBJECT_MARGIN: Duration = Duration::from_secs(30);

/// Google's workload identity federation: exchanges a token of another issuer, such as the projected service account token of
/// any Kubernetes cluster, for tokens of Google.
///
/// 1. The subject token is exchanged at the Security Token Service for a federated token, which is shared by all audiences and
///    used until it expires. If the subject token is rejected, its source is refreshed, and if it has another token, the
///    exchange is tried once more.
/// 2. With the federated token, tokens of a service account are requested from IAM Credentials: identity tokens for an audience
///    ([`open`](Self::open)), or access tokens ([`open_access_token`](Self::open_access_token)). If the federated token is
///    rejected, the subject token is exchanged again.
///
/// Without a service account, no identity tokens are available, and access tokens are the federated tokens themselves.
///
/// Failed requests are retried after 100 ms, doubling up to 60 s.
///
/// # Credential configurations
///
/// A credential configuration contains no secret, but decides where tokens are sent. Therefore the URLs in it have to be those
/// of Google's services, over https and without a port, unless [`allow_origin`](GoogleFederationBuilder::allow_origin) allows
/// another origin; the file of the subject token may be any. Executables are never run.
///
/// The configuration is read once. The file of the subject token is followed like a
/// [`ProjectedToken`](crate::ProjectedToken).
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, GoogleFederation};
///
/// let google = GoogleFederation::from_env()?; // GOOGLE_APPLICATION_CREDENTIALS
/// let token = google.open("https://auth-server.example").await?;
/// let auth = BearerAuth::for_origin("https://auth-server.example", token)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct GoogleFederation(Arc<Inner>);

struct Inner {
    /// Name of the configuration in errors.
    location: String,
    http: HttpClient,
    exchange: Exchange,
    service_account: Option<ServiceAccount>,
    email: Email,
    federated: SharedToken,
    clock: ClockFn,
}

impl GoogleFederation {
    /// Creates a federation from a credential configuration in a file, which is read once. Blocks the current thread, and sends
    /// no request. [`GoogleFederationBuilder::from_file`] has further settings.
    ///
    /// # Errors
    ///
    /// Returns [`Error::File`] if the file cannot be read, and [`Error::Configuration`] if its content cannot be used.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        GoogleFederationBuilder::from_file(path)?.build()
    }

    /// Creates a federation from a credential configuration in the file in the environment variable
    /// `GOOGLE_APPLICATION_CREDENTIALS`, which is read once. Blocks the current thread, and sends no request.
    /// [`GoogleFederationBuilder::from_env`] has further settings.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if the variable is not set or the content of the file cannot be used, and
    /// [`Error::File`] if the file cannot be read.
    pub fn from_env() -> Result<Self, Error> {
        GoogleFederationBuilder::from_env()?.build()
    }

    /// Returns a builder for a provider of a workload identity pool, with the source of the tokens that it accepts.
    ///
    /// `provider` is the resource name, such as
    /// `projects/123456789012/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`, with or without
    /// `//iam.googleapis.com/`. By default, a provider accepts tokens whose audience is `https://iam.googleapis.com/` and this
    /// name.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{GoogleFederation, ProjectedToken};
    ///
    /// let subject = ProjectedToken::open("/var/run/secrets/tokens/google").await?;
    /// let provider = "projects/123456789012/locations/global/workloadIdentityPools/clusters/providers/kind";
    /// let token = GoogleFederation::builder(provider, subject)
    ///     .service_account("orders@project.iam.gserviceaccount.com")
    ///     .build()?
    ///     .open("https://auth-server.example")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(
        provider: impl Into<String>,
        subject: impl TokenSource,
    ) -> GoogleFederationBuilder {
        GoogleFederationBuilder::new(provider.into(), Arc::new(subject))
    }

    /// Opens a source of identity tokens of the service account for an audience, and waits for the first token. Errors that a
    /// later attempt may correct are retried meanwhile.
    ///
    /// Spawns a task on the current tokio runtime that fetches the next token before the current one expires. The task ends
    /// when the last clone of the source is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if there is no service account. Returns [`Error::Fetch`] after 3 s if no connection can
    /// be established, at once for an error that no later attempt corrects, and otherwise after 30 s. Returns
    /// [`FetchError::NoRuntime`] outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the runtime is not enabled.
    pub async fn open(&self, audience: &str) -> Result<FetchedToken, Error> {
        let account = self.0.service_account()?;
        require_runtime(account.identity_tokens())?;
        self.start(audience).opened().await
    }

    /// Opens a source of identity tokens of the service account for an audience, without waiting for the first token. Requests
    /// that need it wait for up to 10 s, or until no connection could be established for 3 s. Without a service account, each
    /// of them fails.
    ///
    /// Spawns a task like [`open`](Self::open). Outside a tokio runtime, the first use within one spawns the task.
    pub fn start(&self, audience: &str) -> FetchedToken {
        self.start_request(audience.to_owned(), Request::Identity(audience.to_owned()))
    }

    /// Opens a source of access tokens, and waits for the first token like [`open`](Self::open). They are those of the service
    /// account, or federated tokens if there is none.
    ///
    /// Without scopes, the scope is `https://www.googleapis.com/auth/cloud-platform`.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`open`](Self::open), except for a missing service account.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the runtime is not enabled.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{BearerAuth, GoogleFederation};
    ///
    /// let token = GoogleFederation::from_env()?
    ///     .open_access_token(["https://www.googleapis.com/auth/devstorage.read_only"])
    ///     .await?;
    /// let auth = BearerAuth::for_origin("https://storage.googleapis.com", token)?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open_access_token<S: Into<String>>(
        &self,
        scopes: impl IntoIterator<Item = S>,
    ) -> Result<FetchedToken, Error> {
        require_runtime(self.0.access_tokens())?;
        self.start_access_token(scopes).opened().await
    }

    /// Opens a source of access tokens, without waiting for the first token. Requests that need it wait like those of
    /// [`start`](Self::start).
    ///
    /// Without scopes, the scope is `https://www.googleapis.com/auth/cloud-platform`.
    pub fn start_access_token<S: Into<String>>(
        &self,
        scopes: impl IntoIterator<Item = S>,
    ) -> FetchedToken {
        let mut scopes: Vec<String> = scopes.into_iter().map(Into::into).collect();
        if scopes.is_empty() {
            scopes.push(CLOUD_PLATFORM.to_owned());
        }
        self.start_request(scopes.join(" "), Request::Access(scopes))
    }

    fn start_request(&self, audience: String, request: Request) -> FetchedToken {
        let endpoint = match &request {
            Request::Identity(_) => match &self.0.service_account {
                Some(account) => account.identity_tokens(),
                None => &self.0.exchange.endpoint,
            },
            Request::Access(_) => self.0.access_tokens(),
        };
        let description = Description {
            kind: FetchKind::Google,
            audience,
            server: endpoint.to_string(),
        };
        let timing = Timing::for_shared_service();
        let fetch = GoogleFetch {
            federation: self.0.clone(),
            request,
        };
        FetchedToken::start_with_clock(fetch, description, timing, self.0.clock.clone())
    }
}

impl Inner {
    /// Returns the service account, which identity tokens require.
    fn service_account(&self) -> Result<&ServiceAccount, Error> {
        self.service_account
            .as_ref()
            .ok_or_else(|| Error::Configuration {
                location: self.location.clone(),
                reason: "it has no service account, which identity tokens require; add it with `gcloud iam \
                     workload-identity-pools create-cred-config … --service-account=EMAIL` or `service_account`, or use \
                     access tokens"
                    .to_owned(),
            })
    }

    /// Returns the endpoint of access tokens.
    fn access_tokens(&self) -> &Endpoint {
        match &self.service_account {
            Some(account) => account.access_tokens(),
            None => &self.exchange.endpoint,
        }
    }

    /// Sends a request with the federated token. If that token is rejected, sends the request once more with another one.
    async fn with_federated<F>(&self, request: impl Fn(Token) -> F) -> Result<Token, FetchError>
    where
        F: Future<Output = Result<Token, FetchError>>,
    {
        let federated = self.federated.get(&self.exchange, &self.http, None).await?;
        match request(federated.clone()).await {
            Err(error) if is_federated_token_rejected(&error) => {
                let rejected = Some(&federated);
                let newer = self
                    .federated
                    .get(&self.exchange, &self.http, rejected)
                    .await?;
                request(newer).await
            }
            result => result,
        }
    }
}

/// A token that is requested.
enum Request {
    /// An identity token for this audience.
    Identity(String),
    /// An access token with these scopes.
    Access(Vec<String>),
}

struct GoogleFetch {
    federation: Arc<Inner>,
    request: Request,
}

#[async_trait]
impl Fetch for GoogleFetch {
    async fn fetch(&self) -> Result<Token, Error> {
        let federation = &*self.federation;
        let http = &federation.http;
        let token = match &self.request {
            Request::Identity(audience) => {
                let account = federation.service_account()?;
                let request = |federated: Token| async move {
                    account
                        .request_identity_token(http, &federated, audience, federation.email)
                        .await
                };
                federation.with_federated(request).await
            }
            Request::Access(scopes) => match &federation.service_account {
                Some(account) => {
                    let request = |federated: Token| async move {
                        account.request_access_token(http, &federated, scopes).await
                    };
                    federation.with_federated(request).await
                }
                None => federation.exchange.request(http, &scopes.join(" ")).await,
            },
        };
        Ok(token?)
    }

    fn limit(&self) -> Duration {
        // Two exchanges, each with two subject tokens, and two requests to IAM Credentials.
        let requests = self.federation.http.limit().saturating_mul(6);
        requests.saturating_add(SUBJECT_MARGIN)
    }
}

impl TokenProvider for GoogleFederation {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        self.0.service_account()?;
        Ok(Arc::new(self.start(audience)))
    }
}

impl fmt::Debug for GoogleFederation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoogleFederation")
            .field("audience", &self.0.exchange.audience)
            .field("token_url", &self.0.exchange.endpoint)
            .field(
                "service_account",
                &self.0.service_account.as_ref().map(ServiceAccount::email),
            )
            .finish_non_exhaustive()
    }
}
