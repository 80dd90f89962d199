//! Axum extractors for [`Identity`] and [`Identities`].
//!
//! ```text
//! async fn private(caller: Identity) -> String { … }              // behind a guard that requires a token
//! async fn mixed(caller: Option<Identity>) -> String { … }        // behind a guard with `allow_missing_token`
//! async fn both(callers: Identities) -> String { … }              // behind guards with an `identity_name`
//! ```
//!
//! A request without an identity is answered with 500, because it shows a mistake in the program: the route has no guard, or one
//! that admits requests without a token. That is logged as an error once a minute for each route, and in builds with debug
//! assertions it is the body of the response.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::MatchedPath;
use axum_core::body::Body;
use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{Extensions, HeaderValue, StatusCode};

use super::Identities;
use super::identities::{AdmittedWithoutToken, NamedAdmittedWithoutToken};
use crate::identity::Identity;

/// How long after a log event about a route no other is logged about it.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The most routes that are logged about separately. Routes are part of the program, so there are hardly ever more.
const MAX_ROUTES: usize = 256;

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = IdentityRejection;

    /// Extracts the identity that the guard added to the request.
    ///
    /// # Errors
    ///
    /// Returns an error, which is a response with status 500, if the request has no identity, because the route has no guard
    /// or its guard admits requests without a token. For the latter, extract an `Option<Identity>`.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, IdentityRejection> {
        let identity = parts.extensions.get::<Self>().cloned();
        identity.ok_or_else(|| {
            let reason = Missing::identity(&parts.extensions);
            IdentityRejection::new("Identity", reason, parts)
        })
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = std::convert::Infallible;

    /// Extracts the identity that the guard added to the request, or `None` if the request has no identity: its guard
    /// admitted it without a token, or the route has no guard. The latter is logged at debug level.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        let identity = parts.extensions.get::<Self>().cloned();
        if identity.is_none() && tracing::enabled!(tracing::Level::DEBUG) {
            let reason = Missing::identity(&parts.extensions);
            if reason != Missing::NoToken {
                let path = matched_path(parts);
                tracing::debug!(extracted = "Option<Identity>", path, "{reason}");
            }
        }
        Ok(identity)
    }
}

impl<S: Sync> FromRequestParts<S> for Identities {
    type Rejection = IdentityRejection;

    /// Extracts the identities that guards with an [`identity_name`](crate::OidcGuardBuilder::identity_name) added to the
    /// request. They are empty if such a guard admitted it without a token.
    ///
    /// # Errors
    ///
    /// Returns an error, which is a response with status 500, if the request has passed no such guard.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, IdentityRejection> {
        let extensions = &parts.extensions;
        if let Some(identities) = extensions.get::<Self>() {
            return Ok(identities.clone());
        }
        if extensions.get::<NamedAdmittedWithoutToken>().is_some() {
            return Ok(Self::default());
        }
        let has_unnamed_guard = extensions.get::<Identity>().is_some()
            || extensions.get::<AdmittedWithoutToken>().is_some();
        let reason = if has_unnamed_guard {
            Missing::NoName
        } else {
            Missing::NoGuard
        };
        Err(IdentityRejection::new("Identities", reason, parts))
    }
}

/// The response to a request from which a handler extracts an identity that it does not have.
///
/// Its status is 500. In builds with debug assertions its body is the text of this error; otherwise it has no body.
#[derive(Debug)]
pub struct IdentityRejection {
    /// The name of the type that was extracted.
    extracted: &'static str,
    /// The pattern of the route, if it is known.
    path: Option<String>,
    reason: Missing,
}

/// Why a request does not have the identity that a handler extracts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Missing {
    /// The request has passed no guard.
    NoGuard,
    /// A guard has admitted the request without a token.
    NoToken,
    /// A guard has stored the identity under this name, or would have if there were a token.
    OtherName(&'static str),
    /// A guard has stored the identity without a name.
    NoName,
}

impl Missing {
    /// Returns why there is no [`Identity`] in a request with these extensions.
    fn identity(extensions: &Extensions) -> Self {
        let named = extensions.get::<Identities>();
        let anonymous = extensions.get::<NamedAdmittedWithoutToken>();
        let name = named
            .and_then(Identities::last_name)
            .or_else(|| anonymous.map(|NamedAdmittedWithoutToken(name)| *name));
        match name {
            _ if extensions.get::<AdmittedWithoutToken>().is_some() => Self::NoToken,
            Some(name) => Self::OtherName(name),
            None => Self::NoGuard,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGuard => f.write_str(
                "the request has no identity, because no guard's layer was applied to this route; add `.route_layer(guard.layer())` to the router after the route: it applies to the routes that were added before it",
            ),
            Self::NoToken => f.write_str(
                "the request has no identity, because the guard admitted it without a token (`allow_missing_token`, `allow_cors_preflight`, or a policy that allows `allUsers`); extract `Option<Identity>` instead",
            ),
            Self::OtherName(name) => write!(
                f,
                "the request has no `Identity`, because the guard of this route stores it under the name {name:?} (`identity_name`); extract `Identities` and call `get({name:?})`"
            ),
            Self::NoName => f.write_str(
                "the request has no `Identities`, because the guard of this route has no `identity_name`; extract `Identity`, or set a name",
            ),
        }
    }
}

impl IdentityRejection {
    /// Creates a rejection, and logs it unless another one for the same route was logged within the last minute.
    fn new(extracted: &'static str, reason: Missing, parts: &Parts) -> Self {
        let rejection = Self {
            extracted,
            path: matched_path(parts).map(str::to_owned),
            reason,
        };
        // Checked first, so that an event that nobody receives does not prevent a later one.
        if tracing::enabled!(tracing::Level::ERROR) {
            let key = (extracted, reason, rejection.path.clone());
            if let Some(requests) = LOGGED.count(key, Instant::now()) {
                let path = rejection.path.as_deref();
                tracing::error!(extracted, path, requests, "{reason}");
            }
        }
        rejection
    }
}

/// Returns the pattern of the route that a request has matched, or `None` if it was not routed by axum.
fn matched_path(parts: &Parts) -> Option<&str> {
    parts
        .extensions
        .get::<MatchedPath>()
        .map(MatchedPath::as_str)
}

impl fmt::Display for IdentityRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot extract `{}`", self.extracted)?;
        if let Some(path) = &self.path {
            write!(f, " on the route {path}")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for IdentityRejection {}

impl IntoResponse for IdentityRejection {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        if cfg!(debug_assertions) {
            let plain_text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, plain_text);
            *response.body_mut() = Body::from(self.to_string());
        }
        response
    }
}

/// The rejections of this process.
static LOGGED: LoggedRoutes = LoggedRoutes(Mutex::new(BTreeMap::new()));

/// The type that was extracted, why it was missing, and the pattern of the route.
type RouteKey = (&'static str, Missing, Option<String>);

/// When each route was last logged about, so that a flood of requests is not a flood of log events.
struct LoggedRoutes(Mutex<BTreeMap<RouteKey, Logged>>);

struct Logged {
    last: Instant,
    /// The number of requests since then.
    requests: u64,
}

impl LoggedRoutes {
    /// Counts a request. If an event is to be logged, returns the number of requests since the last one, this one included.
    fn count(&self, mut key: RouteKey, now: Instant) -> Option<u64> {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if routes.len() >= MAX_ROUTES && !routes.contains_key(&key) {
            key.2 = None;
        }
        let Some(logged) = routes.get_mut(&key) else {
            let (last, requests) = (now, 0);
            routes.insert(key, Logged { last, requests });
            return Some(1);
        };
        logged.requests += 1;
        if now.saturating_duration_since(logged.last) < LOG_INTERVAL {
            return None;
        }
        logged.last = now;
        Some(std::mem::take(&mut logged.requests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_is_logged_about_once_a_minute_with_the_number_of_requests() {
        let routes = LoggedRoutes(Mutex::default());
        let key = |path: &str| ("Identity", Missing::NoGuard, Some(path.to_owned()));
        let start = Instant::now();
        assert_eq!(routes.count(key("/a"), start), Some(1));
        assert_eq!(routes.count(key("/b"), start), Some(1));
        for _ in 0..10_000 {
            assert_eq!(routes.count(key("/a"), start), None);
        }
        assert_eq!(routes.count(key("/a"), start + LOG_INTERVAL), Some(10_001));
        let other = ("Identity", Missing::NoToken, Some("/a".to_owned()));
        assert_eq!(routes.count(other, start), Some(1), "another reason");
    }

    #[test]
    fn the_number_of_routes_that_are_remembered_is_limited() {
        let routes = LoggedRoutes(Mutex::default());
        let now = Instant::now();
        let key = |path: usize| ("Identity", Missing::NoGuard, Some(path.to_string()));
        let logged = (0..10_000).filter(|path| routes.count(key(*path), now).is_some());
        assert_eq!(logged.count(), MAX_ROUTES + 1);
        assert!(routes.0.lock().unwrap().len() <= MAX_ROUTES + 1);
    }
}
