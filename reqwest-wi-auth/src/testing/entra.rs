//! A fake of the token endpoint of Microsoft Entra ID.

mod responses;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::RETRY_AFTER;
use http::{HeaderValue, Request, StatusCode};

use self::responses::{AccessTokenRequest, FederatedCredential, Resource};
use super::http_server::{self, Answer, HttpFault, HttpServer};

/// A rejection of a token request by [`FakeEntra`], with the status, `error` and code that the real server uses for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntraError {
    /// AADSTS90002: the tenant does not exist.
    UnknownTenant,
    /// AADSTS700016: the application does not exist in the tenant.
    UnknownApplication,
    /// AADSTS700211: no federated credential of the application has the issuer of the assertion.
    NoMatchingIssuer,
    /// AADSTS700212: no federated credential of the application has the audience of the assertion.
    NoMatchingAudience,
    /// AADSTS700213: no federated credential of the application has the subject of the assertion.
    NoMatchingSubject,
    /// AADSTS7002138: a federated credential has the subject of the assertion in other upper and lower case.
    SubjectInOtherCase,
    /// AADSTS70021: no federated credential of the application matches, as older versions of the server state it.
    NoMatchingCredential,
    /// AADSTS700024: the assertion has expired or is not valid yet.
    AssertionNotValidNow,
    /// AADSTS700027: the signature of the assertion could not be verified.
    InvalidSignature,
    /// AADSTS50027: the assertion is not a JWT.
    MalformedAssertion,
    /// AADSTS7000215: the client secret is wrong.
    InvalidClientSecret,
    /// AADSTS7000216: the request contains no credential of the application.
    MissingCredential,
    /// AADSTS700025: the application is a public client, which has no credential.
    PublicClient,
    /// AADSTS7000112: the application is disabled.
    DisabledApplication,
    /// AADSTS500011: the resource of the scope does not exist in the tenant.
    UnknownResource,
    /// AADSTS501051: the resource requires the assignment of a role, and the application has none.
    NoRoleAssigned,
    /// AADSTS1002012: the scope does not end with `/.default`.
    InvalidScope,
    /// AADSTS28000: the scope names several resources.
    SeveralResources,
    /// AADSTS53003: a conditional access policy blocks the request.
    BlockedByPolicy,
    /// AADSTS90033: the server has a temporary error. The status is 503.
    TemporaryError,
}

/// A fault of a [`FakeEntra`]. It affects every token request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntraFault {
    /// A fault of the HTTP server.
    Http(HttpFault),
    /// Rejects the request, whatever it contains.
    Error(EntraError),
    /// Rejects the request with 429, AADSTS90055 and `Retry-After`, in seconds.
    TooManyRequests(u64),
    /// Rejects the request with a description that contains the assertion, as a server that quotes what it rejects.
    QuotedAssertion,
    /// Returns an access token that is not a JWT, as for resources whose tokens are encrypted.
    OpaqueToken,
    /// Returns a response without an access token.
    MissingToken,
    /// Returns an access token with `token_type` `pop`, which requires a proof of possession.
    OtherTokenType,
}

/// The future of a verification of an assertion. The error states why it is invalid.
type Verification = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

type VerifyFn = Arc<dyn Fn(String) -> Verification + Send + Sync>;

type TokenFn = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// A fake of the token endpoint of Microsoft Entra ID, on loopback. It stops when it is dropped.
///
/// It has one tenant ([`TENANT_ID`](Self::TENANT_ID)) with one application ([`CLIENT_ID`](Self::CLIENT_ID)). The application
/// has no federated credential until [`set_federated_credential`](Self::set_federated_credential) is called. Its tokens have
/// the claims of real ones, and a signature that has the length of a valid one but is not valid, unless
/// [`set_token_fn`](Self::set_token_fn) is called.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use reqwest_wi_auth::testing::{EntraError, EntraFault, FakeEntra};
/// use reqwest_wi_auth::{AzureWorkloadIdentity, FixedToken, Token, TokenSource as _};
///
/// // A projected token: {"iss": "https://issuer.example", "sub": "system:serviceaccount:shop:orders", …}
/// # use base64::Engine as _;
/// # let claims = r#"{"iss":"https://issuer.example","sub":"system:serviceaccount:shop:orders","aud":"api://AzureADTokenExchange","exp":4000000000}"#;
/// # let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims);
/// # let projected = format!("eyJhbGciOiJub25lIn0.{claims}.c2ln");
/// let entra = FakeEntra::start().await?;
/// entra.set_federated_credential("https://issuer.example", "system:serviceaccount:shop:orders");
/// let azure = AzureWorkloadIdentity::builder()
///     .client_id(FakeEntra::CLIENT_ID)
///     .tenant_id(FakeEntra::TENANT_ID)
///     .authority_host(entra.url())
///     .subject(FixedToken::new(Token::new(projected)?))
///     .build()?;
/// let token = azure.open("api://orders").await?;
/// assert!(token.current().is_ok());
///
/// entra.set_fault(Some(EntraFault::Error(EntraError::NoMatchingSubject)));
/// let error = azure.open("api://stock").await.unwrap_err();
/// assert!(error.to_string().contains("AADSTS700213"));
/// # Ok(())
/// # }
/// ```
///
/// # Behavior and its sources
///
/// As documented by Microsoft ([client credentials with a certificate or a federated credential][flow], [error codes][codes],
/// [federated credentials][federation]):
///
/// - `POST /{tenant}/oauth2/v2.0/token` with a form: `grant_type`, `client_id`, `scope`, `client_assertion_type` and
///   `client_assertion`. The scope is one resource with `/.default`.
/// - The issuer, the subject and the audience of the assertion have to equal those of a federated credential, with regard to
///   upper and lower case. The audience of a federated credential is `api://AzureADTokenExchange` by default.
/// - A response has `token_type`, `expires_in`, `ext_expires_in` and `access_token`. An error has `error`,
///   `error_description`, `error_codes`, `timestamp`, `trace_id` and `correlation_id`.
/// - The audience of a token is the resource as requested if the resource accepts tokens of version 1.0, and the ID of its
///   application if it accepts version 2.0; see [`add_resource`](Self::add_resource).
///
/// As recorded in public bug reports, from 2022 to 2025: the descriptions of the errors, which end with `Trace ID`,
/// `Correlation ID` and `Timestamp`; 401 and `invalid_client` for an assertion that is not accepted; 400 and
/// `unauthorized_client` for an application that does not exist; `error_uri`.
///
/// As expected by the client libraries of Microsoft: the discovery document at
/// `/{tenant}/v2.0/.well-known/openid-configuration`.
///
/// Not known: the status and description for a method other than `POST`, for a repeated parameter, for an unknown
/// `client_assertion_type`, and for an assertion with an invalid signature; which check comes first.
///
/// # Differences from the real server
///
/// The times of an assertion are compared without leeway. The IDs in errors are fixed. Applications have no secrets or
/// certificates, and no other grant exists.
///
/// [flow]: https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow
/// [codes]: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
/// [federation]: https://learn.microsoft.com/entra/workload-id/workload-identity-federation
pub struct FakeEntra {
    url: String,
    state: Arc<State>,
    server: HttpServer,
}

struct State {
    fault: Mutex<Option<EntraFault>>,
    credential: Mutex<Option<FederatedCredential>>,
    resources: Mutex<Vec<Resource>>,
    verify: Mutex<Option<VerifyFn>>,
    token_fn: Mutex<Option<TokenFn>>,
    lifetime: Mutex<Duration>,
    assertions: Mutex<Vec<String>>,
    tokens: AtomicU64,
}

impl FakeEntra {
    /// The ID of the tenant.
    pub const TENANT_ID: &str = "11111111-2222-3333-4444-555555555555";
    /// The ID of the application whose tokens are requested.
    pub const CLIENT_ID: &str = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee";
    /// The audience that an assertion requires.
    pub const AUDIENCE: &str = "api://AzureADTokenExchange";

    /// Starts a server on 127.0.0.1, on a port that the operating system chooses. Spawns a task on the current tokio
    /// runtime.
    ///
    /// The resources `api://orders` and `api://stock` exist. They accept tokens of version 1.0.
    ///
    /// # Errors
    ///
    /// Returns an error if the server cannot listen.
    ///
    /// # Panics
    ///
    /// Panics outside a tokio runtime, or if the I/O of the runtime is not enabled.
    pub async fn start() -> io::Result<Self> {
        let resource = |uri: &str| Resource {
            uri: uri.to_owned(),
            version: EntraTokenVersion::V1,
        };
        let state = Arc::new(State {
            fault: Mutex::default(),
            credential: Mutex::default(),
            resources: Mutex::new(vec![resource("api://orders"), resource("api://stock")]),
            verify: Mutex::default(),
            token_fn: Mutex::default(),
            lifetime: Mutex::new(Duration::from_secs(3600)),
            assertions: Mutex::default(),
            tokens: AtomicU64::new(0),
        });
        let handled = state.clone();
        let server = HttpServer::start(move |request| handle(request, handled.clone())).await?;
        Ok(Self {
            url: server.url(),
            state,
            server,
        })
    }

    /// Returns the URL, for the environment variable `AZURE_AUTHORITY_HOST` or
    /// [`AzureWorkloadIdentityBuilder::authority_host`](crate::AzureWorkloadIdentityBuilder::authority_host).
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the number of requests so far.
    pub fn request_count(&self) -> u64 {
        self.server.request_count()
    }

    /// Returns the assertions of the token requests since the last call, including those that were rejected.
    pub fn take_assertions(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state.assertions))
    }

    /// Sets the fault of further responses, or none.
    pub fn set_fault(&self, fault: Option<EntraFault>) {
        *lock(&self.state.fault) = fault;
    }

    /// Sets the federated credential of the application: the issuer and the subject that an assertion requires. Its audience
    /// is [`AUDIENCE`](Self::AUDIENCE).
    pub fn set_federated_credential(&self, issuer: &str, subject: &str) {
        *lock(&self.state.credential) = Some(FederatedCredential {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        });
    }

    /// Removes the federated credential of the application, so that no assertion is accepted.
    pub fn remove_federated_credential(&self) {
        *lock(&self.state.credential) = None;
    }

    /// Sets the function that verifies the signature of an assertion, and returns why it is invalid. Default: signatures are
    /// not verified.
    ///
    /// The issuer, subject, audience and times of the assertion are checked in any case.
    pub fn set_assertion_fn<F, R>(&self, verify: F)
    where
        F: Fn(String) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        *lock(&self.state.verify) = Some(Arc::new(move |assertion| Box::pin(verify(assertion))));
    }

    /// Adds a resource: an application that accepts tokens, with its application ID URI and the version of the tokens that it
    /// accepts.
    pub fn add_resource(&self, application_id_uri: &str, version: EntraTokenVersion) {
        let mut resources = lock(&self.state.resources);
        resources.retain(|resource| resource.uri != application_id_uri);
        resources.push(Resource {
            uri: application_id_uri.to_owned(),
            version,
        });
    }

    /// Sets the lifetime of tokens. Default: 1 h. Fractions of a second are ignored.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        *lock(&self.state.lifetime) = lifetime;
    }

    /// Sets the function that returns the token for a resource, which is the scope without `/.default`. Default: a token with
    /// the claims of real ones, and an invalid signature.
    pub fn set_token_fn(&self, token: impl Fn(&str) -> String + Send + Sync + 'static) {
        *lock(&self.state.token_fn) = Some(Arc::new(token));
    }
}

impl fmt::Debug for FakeEntra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeEntra")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// The version of access tokens that a resource accepts (`api.requestedAccessTokenVersion` in its manifest).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntraTokenVersion {
    /// `aud` is the resource as requested, and `iss` is `https://sts.windows.net/{tenant}/`.
    V1,
    /// `aud` is the ID of the resource's application, and `iss` is `https://login.microsoftonline.com/{tenant}/v2.0`.
    V2,
}

async fn handle(request: Request<Bytes>, state: Arc<State>) -> Answer {
    let path = request.uri().path();
    if let Some(tenant) = responses::discovery_tenant(path) {
        return Ok(responses::discovery(&request, tenant));
    }
    let Some(tenant) = responses::token_tenant(path) else {
        return Ok(http_server::empty(StatusCode::NOT_FOUND));
    };
    let form = responses::Form::parse(&request);
    let assertion = form.get("client_assertion").unwrap_or_default().to_owned();
    if !assertion.is_empty() {
        lock(&state.assertions).push(assertion.clone());
    }
    let fault = lock(&state.fault).clone();
    match &fault {
        Some(EntraFault::Http(fault)) => return fault.clone().respond().await,
        Some(EntraFault::Error(error)) => return Ok(responses::error(*error, &form, tenant)),
        Some(EntraFault::TooManyRequests(seconds)) => {
            let mut response = responses::too_many_requests();
            let value = HeaderValue::from(*seconds);
            response.headers_mut().insert(RETRY_AFTER, value);
            return Ok(response);
        }
        Some(EntraFault::QuotedAssertion) => return Ok(responses::quoted(&assertion)),
        _ => {}
    }
    let credential = lock(&state.credential).clone();
    let resources = lock(&state.resources).clone();
    let now = SystemTime::now();
    let checked = responses::check(
        &request,
        &form,
        tenant,
        credential.as_ref(),
        &resources,
        now,
    );
    let token_request = match checked {
        Ok(token_request) => token_request,
        Err(response) => return Ok(*response),
    };
    let verify = lock(&state.verify).clone();
    if let Some(verify) = verify
        && verify(assertion).await.is_err()
    {
        return Ok(responses::error(
            EntraError::InvalidSignature,
            &form,
            tenant,
        ));
    }
    if fault == Some(EntraFault::MissingToken) {
        return Ok(responses::success(None, "Bearer", Duration::ZERO));
    }
    let token = match fault {
        Some(EntraFault::OpaqueToken) => "opaque-access-token".to_owned(),
        _ => create_token(&state, &token_request),
    };
    let token_type = match fault {
        Some(EntraFault::OtherTokenType) => "pop",
        _ => "Bearer",
    };
    let lifetime = *lock(&state.lifetime);
    Ok(responses::success(Some(&token), token_type, lifetime))
}

fn create_token(state: &State, request: &AccessTokenRequest) -> String {
    let token_fn = lock(&state.token_fn).clone();
    match token_fn {
        Some(token_fn) => token_fn(&request.resource.uri),
        None => {
            let lifetime = *lock(&state.lifetime);
            let count = state.tokens.fetch_add(1, Ordering::Relaxed);
            responses::access_token(request, lifetime, count)
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
