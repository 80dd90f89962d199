//! [`Identity`] as an axum extractor.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use http::StatusCode;
use http::request::Parts;

use super::Identity;

impl<S: Sync> FromRequestParts<S> for Identity {
    type Rejection = StatusCode;

    /// Answers 500 where no guard stands before the route, or one that lets requests without a token
    /// through: that is the server's mistake. Behind the latter, take an `Option<Identity>`.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, StatusCode> {
        let identity = parts.extensions.get::<Self>().cloned();
        identity.ok_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Identity {
    type Rejection = std::convert::Infallible;

    /// Nothing where the request came without a token, which an optional guard lets through.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}
