//! Access tokens of Microsoft Entra ID for a workload that has a token of another issuer, without a secret.

mod advice;
mod builder;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use self::builder::AzureWorkloadIdentityBuilder;
use super::fetched::{Description, Fetch, FetchKind, FetchedToken, Timing, require_runtime};
use super::http::{Endpoint, HttpClient};
use super::subject::Credential;
use super::token_endpoint::{JWT_BEARER_ASSERTION, TokenForm};
use super::{TokenProvider, TokenSource};
use crate::error::{Error, FetchError};
use crate::token::Token;

/// The end of the scope of a resource, which stands for all permissions that the application has for it.
const DEFAULT_SCOPE: &str = "/.default";

/// How long the source of the assertion may take to return a token, and another one after a rejection.
const SUBJECT_LIMIT: Duration = Duration::from_secs(25);

/// A client of Microsoft Entra ID that exchanges a workload's token, such as the projected token of a Kubernetes service account,
/// for access tokens of an application or a managed identity ([workload identity federation][federation]).
///
/// The application requires a federated identity credential whose issuer, subject and audience equal those of the workload's
/// token. A request is one of the client credentials grant, with the workload's token as the assertion (RFC 7523, section 2.2).
/// The token is read anew for each request, and if Entra rejects it, the file is read once more.
///
/// Requests follow no redirects and use no proxy unless [one is set](AzureWorkloadIdentityBuilder::proxy). A request may take
/// 10 s, and a response may have 64 KiB.
///
/// # Scopes and audiences
///
/// A scope is a resource, the application ID URI or client ID of the application that accepts the tokens, with `/.default`. It is
/// appended if it is missing: `api://orders` becomes `api://orders/.default`. A resource that ends with a slash keeps it:
/// `https://management.azure.com/` becomes `https://management.azure.com//.default`, as Entra requires.
///
/// The audience (`aud`) of a token is not checked, since it depends on the manifest of that application: the resource as in the
/// scope in a token of version 1.0 (the default), and the application's client ID in a token of version 2.0
/// (`"requestedAccessTokenVersion": 2`). The issuers differ as well: `https://sts.windows.net/TENANT/` and
/// `https://login.microsoftonline.com/TENANT/v2.0`. Configure the server that receives the tokens accordingly.
///
/// # Examples
///
/// In a pod on AKS with the label `azure.workload.identity/use: "true"`:
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{AzureWorkloadIdentity, BearerAuth};
///
/// let token = AzureWorkloadIdentity::from_env()?.open("api://orders").await?;
/// let auth = BearerAuth::for_origin("https://orders.example", token)?;
/// # Ok(())
/// # }
/// ```
///
/// [federation]: https://learn.microsoft.com/entra/workload-id/workload-identity-federation
#[derive(Clone)]
pub struct AzureWorkloadIdentity {
    http: HttpClient,
    endpoint: Endpoint,
    client_id: String,
    subject: Arc<dyn TokenSource>,
}

impl AzureWorkloadIdentity {
    /// Creates a client with the settings in the environment variables `AZURE_CLIENT_ID`, `AZURE_TENANT_ID`,
    /// `AZURE_FEDERATED_TOKEN_FILE` and `AZURE_AUTHORITY_HOST`, which Azure's webhook sets in pods. Sends no request, and does
    /// not read the file yet.
    ///
    /// The authority host is https, or http for a host on loopback. If it is not set, it is `https://login.microsoftonline.com/`. It
    /// has to belong to Entra in a public or sovereign cloud, or to be on loopback, since it gets the workload's token; any other can be
    /// set with [`authority_host`](AzureWorkloadIdentityBuilder::authority_host).
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if a variable is not set or cannot be used, and [`Error::Client`] if the HTTP client
    /// cannot be created.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().build()
    }

    /// Returns a builder, which uses the environment for settings that are not set.
    pub fn builder() -> AzureWorkloadIdentityBuilder {
        AzureWorkloadIdentityBuilder::new()
    }

    /// Opens a source of tokens for a [scope](#scopes-and-audiences), and waits for the first token. Failed requests are retried
    /// meanwhile.
    ///
    /// Spawns a task on the current tokio runtime that fetches the next token before the current one expires. The task ends when
    /// the last clone of the source is dropped.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Fetch`] after 3 s if no connection can be established, and otherwise after 30 s, or at once if a retry
    /// cannot help. Returns [`Error::Configuration`] if the scope is empty or contains several resources.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the runtime is not enabled.
    pub async fn open(&self, scope: &str) -> Result<FetchedToken, Error> {
        require_runtime(&self.endpoint)?;
        self.start(scope).opened().await
    }

    /// Opens a source of tokens for a [scope](#scopes-and-audiences), without waiting for the first token. Requests that need it
    /// wait for up to 10 s, or until no connection could be established for 3 s.
    ///
    /// Spawns a task like [`open`](Self::open). Outside a tokio runtime, the first use within one spawns the task.
    pub fn start(&self, scope: &str) -> FetchedToken {
        let parsed = parse_scope(scope);
        let description = Description {
            kind: FetchKind::Azure,
            audience: parsed.clone().unwrap_or_else(|_| scope.to_owned()),
            server: self.endpoint.to_string(),
        };
        let request = AccessTokenRequest {
            azure: self.clone(),
            scope: parsed,
        };
        FetchedToken::start(request, description, Timing::for_shared_service())
    }
}

/// The audience is a [scope](AzureWorkloadIdentity#scopes-and-audiences), with or without `/.default`.
impl TokenProvider for AzureWorkloadIdentity {
    fn token_source(&self, audience: &str) -> Result<Arc<dyn TokenSource>, Error> {
        parse_scope(audience)?;
        Ok(Arc::new(self.start(audience)))
    }
}

impl fmt::Debug for AzureWorkloadIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureWorkloadIdentity")
            .field("endpoint", &self.endpoint)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Returns the scope of a resource: with `/.default` at its end.
fn parse_scope(scope: &str) -> Result<String, Error> {
    let scope = scope.trim();
    if scope.is_empty() || scope.contains(char::is_whitespace) {
        return Err(Error::Configuration {
            location: format!("the scope {scope:?}"),
            reason: "expected one resource, such as api://orders or api://orders/.default"
                .to_owned(),
        });
    }
    Ok(if scope.ends_with(DEFAULT_SCOPE) {
        scope.to_owned()
    } else {
        format!("{scope}{DEFAULT_SCOPE}")
    })
}

/// A request for an access token for one scope.
struct AccessTokenRequest {
    azure: AzureWorkloadIdentity,
    scope: Result<String, Error>,
}

impl AccessTokenRequest {
    async fn send(&self, scope: &str, assertion: &Token) -> Result<Token, FetchError> {
        let azure = &self.azure;
        let form = TokenForm::new("client_credentials")
            .with("client_id", &azure.client_id)
            .with("scope", scope)
            .with("client_assertion_type", JWT_BEARER_ASSERTION)
            .with_token("client_assertion", assertion);
        let response = form.send(&azure.http, &azure.endpoint).await;
        response.and_then(|response| response.into_bearer())
    }
}

#[async_trait]
impl Fetch for AccessTokenRequest {
    async fn fetch(&self) -> Result<Token, Error> {
        let scope = self.scope.as_ref().map_err(Clone::clone)?;
        let credential = Credential {
            source: &*self.azure.subject,
            endpoint: &self.azure.endpoint,
            name: "the federated token",
        };
        let request = |assertion: Token| async move { self.send(scope, &assertion).await };
        let token = credential.send(may_reject_assertion, request).await;
        token.map_err(|error| with_advice(error).into())
    }

    fn limit(&self) -> Duration {
        // The request is repeated once after a rejection.
        let limit = self.azure.http.limit().saturating_mul(2);
        limit.saturating_add(SUBJECT_LIMIT)
    }
}

/// Returns whether an error may be caused by the assertion.
fn may_reject_assertion(error: &FetchError) -> bool {
    let FetchError::OAuth { error, .. } = error else {
        return false;
    };
    matches!(
        error.as_str(),
        "invalid_client" | "invalid_grant" | "invalid_request"
    )
}

fn with_advice(mut error: FetchError) -> FetchError {
    let FetchError::OAuth {
        description: Some(description),
        ..
    } = &error
    else {
        return error;
    };
    let (advice, is_temporary) = (
        advice::advice(description),
        advice::is_temporary(description),
    );
    if is_temporary {
        error = error.into_temporary();
    }
    match advice {
        Some(advice) => error.with_advice(advice),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_one_resource_with_default() {
        for (scope, expected) in [
            ("api://orders", "api://orders/.default"),
            ("api://orders/.default", "api://orders/.default"),
            (" api://orders\n", "api://orders/.default"),
            (
                "https://management.azure.com/",
                "https://management.azure.com//.default",
            ),
            (
                "https://management.azure.com//.default",
                "https://management.azure.com//.default",
            ),
            (
                "7e307b14-2a27-4f66-ada8-ec6400eb4977",
                "7e307b14-2a27-4f66-ada8-ec6400eb4977/.default",
            ),
        ] {
            assert_eq!(parse_scope(scope).unwrap(), expected);
        }
        for scope in [
            "",
            " ",
            "api://orders api://stock",
            "api://orders/.default\tapi://stock/.default",
        ] {
            let error = parse_scope(scope).unwrap_err();
            assert!(
                !error.is_transient() && error.to_string().contains("one resource"),
                "{error}"
            );
        }
    }
}
