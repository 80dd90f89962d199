//! The response to a TokenRequest.

use std::borrow::Cow;

use http::StatusCode;
use serde::Deserialize;

use super::Target;
use super::account::Account;
use crate::error::{Error, FetchError};
use crate::json_object::{Object, optional_object};
use crate::source::http::Response;
use crate::timestamp::parse_timestamp;
use crate::token::Token;
use crate::token::jwt::Audiences;

/// A `TokenRequest` with a token.
#[derive(Deserialize)]
struct Granted<'r> {
    #[serde(borrow, default, deserialize_with = "optional_object")]
    status: Option<GrantedStatus<'r>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GrantedStatus<'r> {
    /// Borrowed from the body, so that no copy of the token stays in memory.
    #[serde(borrow)]
    token: Option<Cow<'r, str>>,
    expiration_timestamp: Option<String>,
}

/// A `Status`: the error of an API server.
#[derive(Deserialize)]
struct Failure {
    kind: String,
    #[serde(default)]
    message: String,
    #[serde(default, deserialize_with = "optional_object")]
    details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    kind: Option<String>,
}

/// Returns the token in a response.
///
/// # Errors
///
/// Returns the error that the response states, with what to do, and [`FetchError::InvalidResponse`] or
/// [`FetchError::WrongAudience`] if there is no token for the audience in it.
pub(super) fn token(response: &Response, target: &Target) -> Result<Token, FetchError> {
    if !response.status().is_success() {
        return Err(rejected(response, target));
    }
    let granted: Granted<'_> = response.json()?;
    let Some(GrantedStatus {
        token: Some(token),
        expiration_timestamp,
    }) = granted.status
    else {
        return Err(response.invalid(
            "JSON without a token; expected a TokenRequest of authentication.k8s.io/v1 with status.token",
        ));
    };
    let (token, audiences) = match Token::parse_jwt(token.as_bytes()) {
        Ok(parsed) => parsed,
        Err(Error::InvalidToken { reason }) => {
            return Err(response.invalid(format!("status.token is not a token: {reason}")));
        }
        Err(_) => return Err(response.invalid("status.token is not a token")),
    };
    if !audiences.contains(&target.audience) {
        return Err(FetchError::WrongAudience {
            endpoint: target.endpoint.to_string(),
            expected: target.audience.clone(),
            found: response.redacted(&Audiences(&audiences).to_string()),
        });
    }
    match expiration_timestamp {
        // A token may be valid for longer than stated: the API server extends the tokens for itself.
        Some(text) => match parse_timestamp(&text) {
            Some(expires_at) => Ok(token.with_max_expiry(expires_at)),
            None => Err(response.invalid(format!(
                "status.expirationTimestamp is {:?}, expected a time in the format of RFC 3339",
                response.redacted(&text)
            ))),
        },
        None if token.expires_at().is_some() => Ok(token),
        None => Err(response
            .invalid("a token that does not expire; expected status.expirationTimestamp or exp")),
    }
}

/// Returns the error that a response states, with what to do.
fn rejected(response: &Response, target: &Target) -> FetchError {
    let error = response.error();
    let failure = serde_json::from_slice::<Object<Failure>>(response.body());
    let failure = failure.ok().map(|Object(failure)| failure);
    let failure = failure.filter(|failure| failure.kind == "Status");
    match advice(response.status(), failure.as_ref(), target) {
        Some(advice) => error.with_advice(advice),
        None => error,
    }
}

/// Returns what to do about an error.
fn advice(status: StatusCode, failure: Option<&Failure>, target: &Target) -> Option<String> {
    let Account { namespace, name } = &target.account;
    let Some(failure) = failure else {
        let is_redirect = status.is_redirection();
        return (status.is_client_error() && !is_redirect).then(|| {
            "the response is not one of a Kubernetes API server; check its URL (the setting `api_server`, or KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT)"
                .to_owned()
        });
    };
    let kind = failure
        .details
        .as_ref()
        .and_then(|details| details.kind.as_deref());
    match (status, kind) {
        (StatusCode::UNAUTHORIZED, _) => Some(target.rejected_credential()),
        (StatusCode::FORBIDDEN, _) if failure.message.contains("cannot create resource") => {
            Some(target.missing_role())
        }
        (StatusCode::NOT_FOUND, Some("serviceaccounts")) => Some(format!(
            "the service account {namespace}/{name} does not exist or was deleted; create it with `kubectl create serviceaccount {name} --namespace={namespace}`, or correct the setting `service_account`"
        )),
        (StatusCode::NOT_FOUND, Some("namespaces")) => Some(format!(
            "the namespace {namespace} does not exist; correct the setting `namespace`"
        )),
        (StatusCode::NOT_FOUND, Some("pods")) | (StatusCode::CONFLICT, _) => target.missing_pod(),
        (StatusCode::NOT_FOUND, _) => Some(
            "expected the API server of a Kubernetes cluster of version 1.20 or newer at this URL"
                .to_owned(),
        ),
        (StatusCode::BAD_REQUEST, _) if failure.message.contains("serviceaccount name") => {
            target.other_pod()
        }
        _ => None,
    }
}
