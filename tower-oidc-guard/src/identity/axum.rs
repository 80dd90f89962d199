//! Axum extractors for [`Identity`].
//!
//! ```text
//! async fn private(caller: Identity) -> String { … }              // behind a guard that requires a token
//! async fn mixed(caller: Option<Identity>) -> String { … }        // behind a guard with `allow_missing_token`
//! ```

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::StatusCode;
use http::request::Parts;

use super::Identity;

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = StatusCode;

    /// Extracts the identity that the guard added to the request.
    ///
    /// # Errors
    ///
    /// Returns the status 500 if the request has no identity, because the route has no guard or its guard admits requests
    /// without a token. For the latter, extract an `Option<Identity>`.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let identity = parts.extensions.get::<Self>().cloned();
        identity.ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = std::convert::Infallible;

    /// Extracts the identity that the guard added to the request, or `None` if the request has no identity: its guard
    /// admitted it without a token, or the route has no guard.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}
