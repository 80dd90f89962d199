//! The gate that a platform stands before a service: Cloud Run's check of who may invoke it.

use axum::Router;
use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tower_oidc_guard::{Issuer, OidcGuard, Policy, PolicyFile, Rejection};

use super::settings::GateSettings;
use super::trust::google;
use crate::{Error, SERVERLESS};

/// Where the gate's caller stands.
pub(super) const SLOT: &str = "gate";
/// What stands in the place of the signature of a token that the platform has used.
const REMOVED: &str = "SIGNATURE_REMOVED_BY_GATE";

/// Lets members in whose Google token is for one of its audiences. Anonymous callers get a 403, as there.
#[derive(Debug, Clone)]
pub struct Gate(OidcGuard);

impl Gate {
    /// A gate of that issuer and policy.
    ///
    /// # Errors
    ///
    /// [`Error::Guard`] where they do not make one.
    pub fn new(issuer: Issuer, policy: Policy) -> Result<Self, Error> {
        let guard = OidcGuard::builder()
            .issuer(issuer)
            .policy(policy)
            .token_from([SERVERLESS, AUTHORIZATION])
            .identity_name(SLOT)
            .realm("gate")
            .rejection_response(|rejection, mut answer| {
                if *rejection == Rejection::MissingToken {
                    *answer.status_mut() = StatusCode::FORBIDDEN;
                    return answer.map(|_| "403 - Forbidden".into());
                }
                answer
            })
            .build()?;
        Ok(Self(guard))
    }

    pub(super) async fn from_settings(settings: &GateSettings) -> Result<Option<Self>, Error> {
        if settings.gate_audience.is_empty() {
            return Ok(None);
        }
        let google = google(settings.google_keys_url.as_deref());
        let issuer = settings.gate_audience.iter().fold(google, Issuer::audience);
        let policy = match &settings.gate_policy_file {
            Some(path) => PolicyFile::open(path).await?.policy(),
            None => Policy::members(&settings.gate_members),
        };
        Self::new(issuer, policy).map(Some)
    }

    /// Stands before these routes.
    pub fn before(&self, routes: Router) -> Router {
        routes
            .layer(from_fn(without_used_signature))
            .layer(self.0.layer())
    }
}

/// The application sees who called, and cannot use the token again.
async fn without_used_signature(mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    let used = match headers.contains_key(SERVERLESS) {
        true => SERVERLESS,
        false => AUTHORIZATION,
    };
    remove_signature(headers, &used);
    next.run(request).await
}

fn remove_signature(headers: &mut HeaderMap, name: &HeaderName) {
    let Some(value) = headers.get(name).and_then(|value| value.to_str().ok()) else {
        return;
    };
    let unsigned = value
        .rsplit_once('.')
        .map(|(signed, _)| format!("{signed}.{REMOVED}"));
    let unsigned = unsigned.and_then(|value| HeaderValue::try_from(value).ok());
    match unsigned {
        Some(mut value) => {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        None => drop(headers.remove(name)),
    }
}
