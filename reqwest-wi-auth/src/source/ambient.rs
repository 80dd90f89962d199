//! Chooses a source by what the environment of the process contains.

mod builder;
mod inspect;
mod opened;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout};

pub use self::builder::AmbientBuilder;
use self::builder::Settings;
use self::inspect::Choice;
use self::opened::{Opened, Wait};
use super::{TokenHealth, TokenProvider, TokenSource};
use crate::error::{AmbientError, AmbientFinding, Error};
use crate::telemetry;
use crate::token::Token;

/// How long the inspection of the environment may take.
const INSPECTION_LIMIT: Duration = Duration::from_secs(5);

/// How often the environment is inspected at most after an error.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// Opens a source of tokens for an audience that the environment of the process provides, and waits for the first token. The
/// same code works in a cluster of any kind, on Google Cloud, in GitHub Actions, and on a workstation with
/// [`AmbientBuilder::fallback`].
///
/// See [`Ambient`] for which source is chosen. The choice is logged, and contained in [`AmbientToken::health`].
///
/// # Errors
///
/// Returns [`Error::Ambient`] if no source was chosen, and otherwise the errors of opening it.
///
/// # Panics
///
/// Panics if the timer or the I/O of the tokio runtime is not enabled.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use reqwest_middleware::ClientBuilder;
/// use reqwest_wi_auth::{BearerAuth, ambient};
///
/// let token = ambient("https://auth-server.example").await?;
/// let client = ClientBuilder::new(reqwest::Client::new())
///     .with(BearerAuth::for_origin("https://auth-server.example", token)?)
///     .build();
/// client.get("https://auth-server.example/private").send().await?;
/// # Ok(())
/// # }
/// ```
pub async fn ambient(audience: &str) -> Result<AmbientToken, Error> {
    Ambient::builder().build().open(audience).await
}

/// Chooses a source of tokens by what the environment of the process contains.
///
/// # Order
///
/// 1. Chosen explicitly: the file in the environment variable `WI_TOKEN_FILE`. It contains a JWT for the audience. It has
///    precedence over everything else.
/// 2. Configured for this workload. If there are several, that is an error:
///    - a projected token: a file in `/var/run/secrets/tokens` whose token is for the audience. Two such files are two
///      sources.
///    - Google's workload identity federation: `GOOGLE_APPLICATION_CREDENTIALS` names a file of the type `external_account`
///      with a `service_account_impersonation_url`
///    - Azure workload identity: `AZURE_FEDERATED_TOKEN_FILE`, with `AZURE_CLIENT_ID` and `AZURE_TENANT_ID`
///    - GitHub Actions: `ACTIONS_ID_TOKEN_REQUEST_URL` and `ACTIONS_ID_TOKEN_REQUEST_TOKEN`
/// 3. Provided by the platform. The first one is chosen, since a platform can have both:
///    - Google's metadata server, if `GCE_METADATA_HOST` is set, if the process runs on Cloud Run or App Engine
///      (`K_SERVICE` outside Kubernetes, `CLOUD_RUN_JOB` or `GAE_SERVICE`), or if the machine is one of Google's
///      (`/sys/class/dmi/id/product_name` begins with `Google`). No request is sent to find out. It precedes the next one, as
///      its tokens are accepted outside the cluster as well.
///    - a token request at the Kubernetes API server: `KUBERNETES_SERVICE_HOST`, and a token of the service account in
///      `/var/run/secrets/kubernetes.io/serviceaccount`
/// 4. The [`fallback`](AmbientBuilder::fallback), if one is set.
///
/// Variables that are empty count as not set. Each source can be [switched off](AmbientBuilder::without).
///
/// A source that is configured incompletely, or with an error, is not skipped in favor of a later step, since that would be
/// another identity: it is an error, unless another source of the same step can be used. Credentials that are not meant for
/// this, such as a service account key in `GOOGLE_APPLICATION_CREDENTIALS`, are skipped.
///
/// A file in the directory for projected tokens that is empty or truncated counts as configured, since it may become the token for
/// the audience. Opening a source does not wait for it.
///
/// The environment is inspected when a source is opened, for up to 5 s, and not again after a source was chosen.
///
/// As a [`TokenProvider`], it makes the choice for each audience, at the first request.
///
/// # Examples
///
/// A client of many services, on each platform, and on a workstation with gcloud:
///
/// ```no_run
/// # fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{Ambient, BearerAuth, CommandToken};
///
/// let gcloud = CommandToken::new("gcloud").args(["auth", "print-identity-token"]);
/// let ambient = Ambient::builder().fallback(gcloud).build();
/// let auth = BearerAuth::for_each_origin(ambient, |origin| {
///     origin.ends_with(".services.example").then(|| origin.to_owned())
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "opens no source until `open` or `start` is called"]
pub struct Ambient(Arc<Shared>);

struct Shared {
    settings: Settings,
    /// Held by the thread that inspects the environment. There is one at a time, since a read of a file may block for ever.
    inspection: Arc<Semaphore>,
}

/// A source of tokens among which [`Ambient`] chooses. `Display` shows its name in log events and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AmbientSource {
    /// The file in `WI_TOKEN_FILE`: `token-file`.
    TokenFile,
    /// A file in the directory for projected tokens: `projected-token`.
    ProjectedToken,
    /// Google's workload identity federation: `google-federation`.
    GoogleFederation,
    /// Azure workload identity: `azure`.
    Azure,
    /// GitHub Actions: `github-actions`.
    GitHubActions,
    /// Google's metadata server: `metadata-server`.
    MetadataServer,
    /// A token request at the Kubernetes API server: `token-request`.
    TokenRequest,
    /// The source that was passed to [`AmbientBuilder::fallback`]: `fallback`.
    Fallback,
}

impl fmt::Display for AmbientSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenFile => "token-file",
            Self::ProjectedToken => "projected-token",
            Self::GoogleFederation => "google-federation",
            Self::Azure => "azure",
            Self::GitHubActions => "github-actions",
            Self::MetadataServer => "metadata-server",
            Self::TokenRequest => "token-request",
            Self::Fallback => "fallback",
        })
    }
}

impl Ambient {
    fn new(settings: Settings) -> Self {
        Self(Arc::new(Shared {
            settings,
            inspection: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Returns a builder with the default settings.
    pub fn builder() -> AmbientBuilder {
        AmbientBuilder::new()
    }

    /// Opens a source of tokens for an audience, and waits for the first token.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Ambient`] if no source was chosen, and otherwise the errors of opening it, such as those of
    /// [`ProjectedToken::open`](crate::ProjectedToken::open) and [`MetadataServer::open`](crate::MetadataServer::open).
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the tokio runtime is not enabled.
    pub async fn open(&self, audience: &str) -> Result<AmbientToken, Error> {
        let token = self.start(audience);
        token.resolve(Wait::FirstToken).await?;
        Ok(token)
    }

    /// Opens a source of tokens for an audience, without waiting. The first request that needs a token inspects the environment
    /// and waits for the token. If no source can be chosen, the environment is inspected again by later requests, at most once
    /// per second.
    ///
    /// The source requires a tokio runtime, like [`CommandToken`](crate::CommandToken).
    pub fn start(&self, audience: &str) -> AmbientToken {
        AmbientToken(Arc::new(Inner {
            ambient: self.clone(),
            audience: audience.to_owned(),
            resolved: OnceLock::new(),
            resolving: tokio::sync::Mutex::default(),
            last_failure: Mutex::default(),
        }))
    }

    /// Inspects the environment, on a thread that may block, and chooses a source.
    async fn choose(&self, audience: &str) -> Result<Choice, Error> {
        let inspection = self.inspect_on_thread(audience.to_owned());
        let timed_out = AmbientError::Timeout {
            limit: INSPECTION_LIMIT,
        };
        match timeout(INSPECTION_LIMIT, inspection).await {
            Ok(choice) => choice,
            Err(_) => Err(timed_out.into()),
        }
    }

    /// Inspects the environment on a separate thread, so that neither the runtime nor its end waits for a read that blocks.
    async fn inspect_on_thread(&self, audience: String) -> Result<Choice, Error> {
        let failed = |reason: String| Error::Configuration {
            location: "the environment".to_owned(),
            reason,
        };
        let permit = self.0.inspection.clone().acquire_owned().await;
        let permit = permit.map_err(|error| failed(error.to_string()))?;
        let (sender, receiver) = oneshot::channel();
        let shared = self.0.clone();
        let inspect = move || {
            let choice = inspect::choose(&shared.settings, &audience);
            drop(permit);
            // The receiver is gone if the time limit has passed.
            let _ = sender.send(choice);
        };
        let thread = std::thread::Builder::new().name("ambient".to_owned());
        let started = thread.spawn(inspect);
        started.map_err(|error| failed(format!("no thread could be started: {error}")))?;
        let panicked = |_| failed("its inspection panicked".to_owned());
        receiver.await.map_err(panicked)?
    }
}

impl TokenProvider for Ambient {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        Ok(Arc::new(self.start(audience)))
    }
}

impl fmt::Debug for Ambient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ambient").field(&self.0.settings).finish()
    }
}

/// A token source that was chosen by the environment. Created by [`ambient`] and [`Ambient`].
///
/// Clones share the same source.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// let token = reqwest_wi_auth::ambient("https://auth-server.example").await?;
/// let health = token.health();
/// if let Some(source) = health.source {
///     println!("tokens come from {source}: {}", health.reason);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct AmbientToken(Arc<Inner>);

struct Inner {
    ambient: Ambient,
    audience: String,
    resolved: OnceLock<Resolved>,
    /// Locked while the environment is inspected. The description of the last choice that was logged.
    resolving: tokio::sync::Mutex<Option<String>>,
    /// The error of the last attempt to choose and open a source, and when it ended.
    last_failure: Mutex<Option<(Instant, Error)>>,
}

/// The chosen source.
struct Resolved {
    source: AmbientSource,
    reason: String,
    not_chosen: Vec<AmbientFinding>,
    opened: Opened,
}

/// The state of an [`AmbientToken`]: the chosen source, why it was chosen and others were not, and the state of its token.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AmbientHealth {
    /// The chosen source, or `None` if none was chosen yet.
    pub source: Option<AmbientSource>,
    /// A description of what was found of it in the environment, or the error if none was chosen.
    pub reason: String,
    /// The other sources, and why they were not chosen.
    pub not_chosen: Vec<AmbientFinding>,
    /// The state of the token. For a [`fallback`](AmbientBuilder::fallback), `last_rotation` is `None`.
    pub token: TokenHealth,
}

impl AmbientToken {
    /// Returns which source was chosen and why, and the state of its token. Performs no I/O.
    pub fn health(&self) -> AmbientHealth {
        if let Some(resolved) = self.0.resolved.get() {
            return AmbientHealth {
                source: Some(resolved.source),
                reason: resolved.reason.clone(),
                not_chosen: resolved.not_chosen.clone(),
                token: resolved.opened.health(),
            };
        }
        let last_error = self.last_failure().map(|(_, error)| error);
        AmbientHealth {
            source: None,
            reason: match &last_error {
                Some(error) => error.to_string(),
                None => "the environment was not inspected yet".to_owned(),
            },
            not_chosen: Vec::new(),
            token: TokenHealth {
                present: false,
                expires_at: None,
                last_rotation: None,
                last_error,
            },
        }
    }

    /// Ends the task of the source for all clones, and waits until it has ended, for up to 1 s. The last token is sent until it
    /// expires. Has no effect on a [`fallback`](AmbientBuilder::fallback).
    pub async fn shutdown(&self) {
        if let Some(resolved) = self.0.resolved.get() {
            resolved.opened.shutdown().await;
        }
    }

    fn last_failure(&self) -> Option<(Instant, Error)> {
        let last = self.0.last_failure.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Chooses and opens the source, unless that was done already. Concurrent callers share one attempt.
    async fn resolve(&self, wait: Wait) -> Result<&Resolved, Error> {
        if let Some(resolved) = self.0.resolved.get() {
            return Ok(resolved);
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(AmbientError::NoRuntime.into());
        }
        let mut logged = self.0.resolving.lock().await;
        if let Some(resolved) = self.0.resolved.get() {
            return Ok(resolved);
        }
        if let Some((at, error)) = self.last_failure()
            && at.elapsed() < MIN_INTERVAL
        {
            return Err(error);
        }
        let result = self.choose_and_open(wait, &mut logged).await;
        let failure = result.as_ref().err().cloned();
        let failure = failure.map(|error| (Instant::now(), error));
        let mut last_failure = self.0.last_failure.lock();
        match &mut last_failure {
            Ok(last) => **last = failure,
            Err(poisoned) => **poisoned.get_mut() = failure,
        }
        drop(last_failure);
        let resolved = result?;
        Ok(self.0.resolved.get_or_init(|| resolved))
    }

    async fn choose_and_open(
        &self,
        wait: Wait,
        logged: &mut Option<String>,
    ) -> Result<Resolved, Error> {
        let audience = &self.0.audience;
        let choice = self.0.ambient.choose(audience).await?;
        let description = format!("{}: {}", choice.source, choice.reason);
        if logged.as_ref() != Some(&description) {
            let (reason, not_chosen) = (&choice.reason, &choice.not_chosen);
            telemetry::ambient_source_chosen(audience, choice.source, reason, not_chosen);
            *logged = Some(description);
        }
        Ok(Resolved {
            source: choice.source,
            reason: choice.reason,
            not_chosen: choice.not_chosen,
            opened: choice.candidate.open(audience, wait).await?,
        })
    }
}

#[async_trait]
impl TokenSource for AmbientToken {
    fn current(&self) -> Result<Token, Error> {
        match self.0.resolved.get() {
            Some(resolved) => resolved.opened.as_source().current(),
            None => Err(Error::NotFetched {
                location: format!("the environment for {:?}", self.0.audience),
            }),
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let resolved = self.resolve(Wait::No).await?;
        resolved.opened.as_source().refresh(rejected).await
    }
}

impl fmt::Debug for AmbientToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.0.resolved.get().map(|resolved| resolved.source);
        f.debug_struct("AmbientToken")
            .field("audience", &self.0.audience)
            .field("source", &source)
            .finish_non_exhaustive()
    }
}
