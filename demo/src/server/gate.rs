//! A gate in front of the application that requires a Google token, like Cloud Run's invoker check.
//!
//! For each request:
//!
//! 1. The token is taken from `X-Serverless-Authorization` or, if the request has no such header, from `Authorization`.
//! 2. A request without a token gets 403, as on Cloud Run. A token that is not valid gets 401, and a caller that the policy
//!    does not allow gets 403.
//! 3. The signature of the token is removed before the request reaches the application, which can see the caller but cannot
//!    use the token.

use axum::Router;
use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tower_oidc_guard::{Issuer, OidcGuard, Policy, PolicyFile, Rejection};

use super::guard::google_issuer;
use super::settings::GateSettings;
use crate::{Error, X_SERVERLESS_AUTHORIZATION};

/// The name under which the gate stores its caller's identity in the request's extensions.
pub(super) const GATE_IDENTITY: &str = "gate";
/// Replaces the signature of a token that the gate has checked.
const REMOVED_SIGNATURE: &str = "SIGNATURE_REMOVED_BY_GATE";

/// Admits requests with a Google token for the configured audience, from callers that the policy allows.
#[derive(Debug, Clone)]
pub struct Gate(OidcGuard);

impl Gate {
    /// Creates a gate for the issuer's tokens and the policy.
    ///
    /// # Errors
    ///
    /// [`Error::Guard`] if the issuer or the policy is invalid.
    pub fn new(issuer: Issuer, policy: Policy) -> Result<Self, Error> {
        let guard = OidcGuard::builder()
            .issuer(issuer)
            .policy(policy)
            .token_from([X_SERVERLESS_AUTHORIZATION, AUTHORIZATION])
            .identity_name(GATE_IDENTITY)
            .realm("gate")
            .rejection_response(|rejection, mut response| {
                if matches!(
                    rejection,
                    Rejection::MissingToken | Rejection::UnsupportedScheme(_)
                ) {
                    *response.status_mut() = StatusCode::FORBIDDEN;
                    return response.map(|_| "403 - Forbidden".into());
                }
                response
            })
            .build()?;
        Ok(Self(guard))
    }

    /// Creates the gate that the settings describe. Returns `None` if no audience is configured for it.
    pub(super) async fn from_settings(settings: &GateSettings) -> Result<Option<Self>, Error> {
        if settings.gate_audience.is_empty() {
            return Ok(None);
        }
        let google = google_issuer(settings.google_keys_url.as_deref());
        let issuer = settings.gate_audience.iter().fold(google, Issuer::audience);
        let policy = match &settings.gate_policy_file {
            Some(path) => {
                let file = PolicyFile::open(path).await;
                file.map_err(Error::file("--gate-policy-file (GATE_POLICY_FILE)"))?
                    .policy()
            }
            None => Policy::members(&settings.gate_members),
        };
        Self::new(issuer, policy).map(Some)
    }

    /// Puts the gate in front of these routes.
    pub fn protect(&self, routes: Router) -> Router {
        routes
            .layer(from_fn(remove_checked_signature))
            .layer(self.0.layer())
    }
}

/// Removes the signature of the token that the gate has checked.
async fn remove_checked_signature(mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    let checked = if headers.contains_key(X_SERVERLESS_AUTHORIZATION) {
        X_SERVERLESS_AUTHORIZATION
    } else {
        AUTHORIZATION
    };
    remove_signature(headers, &checked);
    next.run(request).await
}

fn remove_signature(headers: &mut HeaderMap, name: &HeaderName) {
    let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let unsigned = value
        .rsplit_once('.')
        .map(|(signed, _)| format!("{signed}.{REMOVED_SIGNATURE}"));
    let unsigned = unsigned.and_then(|value| HeaderValue::try_from(value).ok());
    match unsigned {
        Some(mut value) => {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        None => drop(headers.remove(name)),
    }
}
