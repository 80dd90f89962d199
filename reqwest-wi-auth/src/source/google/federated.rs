//! The federated token, for which the subject token is exchanged at the Security Token Service.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::config::{ClientCredentials, SubjectTokenType, is_workforce_pool};
use crate::error::FetchError;
use crate::source::TokenSource;
use crate::source::http::{Endpoint, HttpClient};
use crate::source::subject::Credential;
use crate::source::token_endpoint::TokenForm;
use crate::token::Token;
use crate::watched_file::ClockFn;

/// The scope of federated tokens with which tokens of service accounts are requested.
pub(super) const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// How long a federated token is valid at least when a request with it begins: the time that the request takes.
const MARGIN: Duration = Duration::from_secs(10);

/// Exchanges subject tokens for federated tokens.
pub(super) struct Exchange {
    pub(super) endpoint: Endpoint,
    pub(super) subject: Arc<dyn TokenSource>,
    pub(super) subject_token_type: SubjectTokenType,
    /// The full resource name of the provider.
    pub(super) audience: String,
    pub(super) client: Option<ClientCredentials>,
    /// The parameter `options`: JSON.
    pub(super) options: Option<String>,
}

impl Exchange {
    /// Exchanges the current subject token. If it is rejected, and its source has another one, tries once more.
    pub(super) async fn request(
        &self,
        http: &HttpClient,
        scope: &str,
    ) -> Result<Token, FetchError> {
        let credential = Credential {
            source: &*self.subject,
            endpoint: &self.endpoint,
            name: "the subject token",
        };
        let exchanged = credential.send(is_rejection, |subject| async move {
            let form = TokenForm::new(GRANT_TYPE)
                .with("audience", &self.audience)
                .with("scope", scope)
                .with("requested_token_type", ACCESS_TOKEN)
                .with("subject_token_type", self.subject_token_type.uri())
                .with_optional("options", self.options.as_deref())
                .with_token("subject_token", &subject);
            let form = match &self.client {
                Some(client) => form.with_basic_auth(&client.id, &client.secret),
                None => form,
            };
            form.send(http, &self.endpoint).await?.into_bearer()
        });
        exchanged.await.map_err(|error| match self.advice(&error) {
            Some(advice) => error.with_advice(advice),
            None => error,
        })
    }

    /// Returns what to do about an error response, if that is known.
    fn advice(&self, error: &FetchError) -> Option<String> {
        let FetchError::OAuth {
            error, description, ..
        } = error
        else {
            return None;
        };
        let audience = &self.audience;
        let description = description.as_deref().unwrap_or_default();
        let contains = |text: &str| description.contains(text);
        let advice = match error.as_str() {
            "invalid_grant" if contains("audience in ID Token") => format!(
                "request the subject token for the audience \"https:{audience}\", or for one of the allowed audiences of the \
                 provider"
            ),
            "invalid_grant" if contains("issuer in ID Token") => {
                "the issuer URI of the provider has to equal the `iss` of the subject token exactly; check both, final slash \
                 included"
                    .to_owned()
            }
            "invalid_grant" if contains("stale") => {
                "the subject token has expired, or was issued too long ago; check that its file is replaced and that the \
                 clock of this machine is right"
                    .to_owned()
            }
            "invalid_grant" if contains("credential's issuer") => {
                "Google has to reach the keys of the issuer over the internet, or to have the current ones: `gcloud iam \
                 workload-identity-pools providers update-oidc … --jwk-json-path`"
                    .to_owned()
            }
            "invalid_grant" if contains("signature") => {
                "the keys of the provider may be those of another cluster or outdated: `gcloud iam workload-identity-pools \
                 providers update-oidc … --jwk-json-path`"
                    .to_owned()
            }
            "unauthorized_client" => {
                "compare the claims of the subject token with the attribute condition of the provider: `gcloud iam \
                 workload-identity-pools providers describe …`"
                    .to_owned()
            }
            "invalid_target" => format!(
                "check the `audience` {audience:?} of the configuration, and that the pool and the provider exist and are \
                 enabled: `gcloud iam workload-identity-pools providers describe …`"
            ),
            "invalid_request" if contains("\"audience\"") => format!(
                "the `audience` of the configuration is {audience:?}, expected \
                 \"//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER\" with \
                 the number of the project, not its ID"
            ),
            "invalid_client" => {
                "check `client_id` and `client_secret` of the configuration".to_owned()
            }
            _ => return None,
        };
        Some(advice)
    }
}

/// Returns whether an exchange may have failed because of the subject token.
fn is_rejection(error: &FetchError) -> bool {
    matches!(error, FetchError::OAuth { error, .. } if error == "invalid_grant" || error == "invalid_request")
}

/// Returns the parameter `options` for a project that pays for the requests of a workforce pool. The error is the end of a
/// sentence about the configuration.
pub(super) fn workforce_options(
    audience: &str,
    project: Option<&str>,
    client: Option<&ClientCredentials>,
) -> Result<Option<String>, String> {
    let Some(project) = project else {
        return Ok(None);
    };
    if !is_workforce_pool(audience) {
        return Err(
            "it has a `workforce_pool_user_project`, but its `audience` is not a provider of a workforce pool; remove that \
             member"
                .to_owned(),
        );
    }
    // The project is that of the client, if there is one.
    let options = client
        .is_none()
        .then(|| serde_json::json!({ "userProject": project }).to_string());
    Ok(options)
}

/// The federated token that the requests for tokens of a service account share, for all audiences. It is used until it
/// expires.
pub(super) struct SharedToken {
    clock: ClockFn,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Until when requests with the token may begin, or `None` if the token is used once.
    usable_until: Option<SystemTime>,
    /// The error of the last exchange and when it ended, if it failed.
    failed: Option<(FetchError, Instant)>,
    running: Option<Running>,
    /// The number of exchanges that have begun.
    exchanges: u64,
}

/// An exchange that other callers wait for.
struct Running {
    number: u64,
    /// Until when they wait: the runtime of the caller that began the exchange may no longer run its tasks.
    deadline: Instant,
    /// Closed when the exchange has ended, or its caller has stopped waiting for it.
    ended: watch::Receiver<()>,
}

/// The part of a caller in an exchange.
enum Part {
    /// The caller begins an exchange.
    Begin(Exchanging),
    /// The caller waits for one that another caller has begun.
    Wait(Instant, watch::Receiver<()>),
}

/// Owned by the caller that has begun an exchange. Lets the other callers continue when it is dropped.
struct Exchanging {
    number: u64,
    _ended: watch::Sender<()>,
}

impl SharedToken {
    pub(super) fn new(clock: ClockFn) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    /// Returns the federated token. Exchanges the subject token if there is no federated token, if it expires soon, or if it
    /// is the rejected one. Concurrent callers share one exchange, and its error.
    pub(super) async fn get(
        &self,
        exchange: &Exchange,
        http: &HttpClient,
        rejected: Option<&Token>,
    ) -> Result<Token, FetchError> {
        let asked = Instant::now();
        loop {
            match self.join(asked, http.limit(), rejected)? {
                Joined::Token(token) => return Ok(token),
                Joined::Part(Part::Wait(deadline, mut ended)) => {
                    // Nothing is ever sent. Either way, the state tells what to do next.
                    let _ = timeout_at(deadline, ended.changed()).await;
                }
                Joined::Part(Part::Begin(exchanging)) => {
                    let result = exchange.request(http, CLOUD_PLATFORM).await;
                    self.record(&exchanging, &result);
                    return result;
                }
            }
        }
    }

    /// Returns the token if it can be used, or the part of the caller in an exchange.
    fn join(
        &self,
        asked: Instant,
        limit: Duration,
        rejected: Option<&Token>,
    ) -> Result<Joined, FetchError> {
        let mut state = self.state();
        if let Some(token) = &state.token
            && Some(token) != rejected
            && state
                .usable_until
                .is_some_and(|until| (self.clock)() < until)
        {
            return Ok(Joined::Token(token.clone()));
        }
        if let Some((error, ended)) = &state.failed
            && *ended >= asked
        {
            return Err(error.clone());
        }
        let now = Instant::now();
        if let Some(running) = &state.running
            && now < running.deadline
            && running.ended.has_changed().is_ok()
        {
            let part = Part::Wait(running.deadline, running.ended.clone());
            return Ok(Joined::Part(part));
        }
        state.exchanges += 1;
        let number = state.exchanges;
        let (sender, ended) = watch::channel(());
        state.running = Some(Running {
            number,
            deadline: now.checked_add(limit).unwrap_or(now),
            ended,
        });
        Ok(Joined::Part(Part::Begin(Exchanging {
            number,
            _ended: sender,
        })))
    }

    /// Records the result of an exchange, unless another one has replaced it because it took too long.
    fn record(&self, exchanging: &Exchanging, result: &Result<Token, FetchError>) {
        let mut state = self.state();
        if state.running.as_ref().map(|running| running.number) != Some(exchanging.number) {
            return;
        }
        state.running = None;
        match result {
            Ok(token) => {
                state.usable_until = self.usable_until(token);
                state.token = Some(token.clone());
                state.failed = None;
            }
            Err(error) => state.failed = Some((error.clone(), Instant::now())),
        }
    }

    /// Returns until when requests with a new token may begin. Returns `None` if its expiry is not known: Google's response has
    /// none if the token is about to expire.
    fn usable_until(&self, token: &Token) -> Option<SystemTime> {
        // The expiry is a time of the system's clock, which is not the one in use in tests.
        let lifetime = token.expires_at()?.duration_since(SystemTime::now()).ok()?;
        (self.clock)().checked_add(lifetime.checked_sub(MARGIN)?)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of a look at the state.
enum Joined {
    Token(Token),
    Part(Part),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::error::Error;
    use crate::origins::PlainHttp;
    use crate::source::http::HttpSettings;

    /// A source whose first refresh does not end, like that of a task whose runtime is not driven.
    struct Stalled(Arc<AtomicU32>);

    #[async_trait]
    impl TokenSource for Stalled {
        fn current(&self) -> Result<Token, Error> {
            let location = "current".to_owned();
            Err(Error::NotFetched { location })
        }

        async fn refresh(&self, _rejected: Option<&Token>) -> Result<Token, Error> {
            let refreshes = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            if refreshes == 1 {
                std::future::pending::<()>().await;
            }
            let location = format!("refresh {refreshes}");
            Err(Error::NotFetched { location })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_that_does_not_continue_does_not_block_other_callers() {
        let endpoint = Endpoint::parse("https://sts.example/", PlainHttp::LoopbackOnly).unwrap();
        let stalled_subject = Arc::<AtomicU32>::default();
        let exchange = Exchange {
            endpoint,
            subject: Arc::new(Stalled(stalled_subject.clone())),
            subject_token_type: SubjectTokenType::Jwt,
            audience: "provider".to_owned(),
            client: None,
            options: None,
        };
        let http = HttpClient::new(HttpSettings::default()).unwrap();
        let shared = SharedToken::new(Arc::new(SystemTime::now));
        let mut stalled = Box::pin(shared.get(&exchange, &http, None));
        tokio::select! {
            biased;
            _ = &mut stalled => panic!("the first exchange does not end"),
            () = std::future::ready(()) => {}
        }
        let began = Instant::now();
        let error = shared.get(&exchange, &http, None).await.unwrap_err();
        assert!(error.to_string().contains("refresh 2"), "{error}");
        assert_eq!(began.elapsed(), http.limit(), "after waiting for the first");
        // The error is only for callers that asked before it.
        tokio::time::advance(Duration::from_millis(1)).await;
        let error = shared.get(&exchange, &http, None).await.unwrap_err();
        assert!(error.to_string().contains("refresh 3"), "{error}");
        // A caller that no longer waits for its exchange lets others begin one at once.
        tokio::time::advance(Duration::from_millis(1)).await;
        let mut dropped = Box::pin(shared.get(&exchange, &http, None));
        stalled_subject.store(0, Ordering::SeqCst);
        tokio::select! {
            biased;
            _ = &mut dropped => panic!("this exchange does not end"),
            () = std::future::ready(()) => {}
        }
        drop(dropped);
        let began = Instant::now();
        let error = shared.get(&exchange, &http, None).await.unwrap_err();
        assert!(error.to_string().contains("refresh 2"), "{error}");
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(stalled);
    }
}
