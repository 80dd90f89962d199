//! Describes what a guard accepts, for operators who look for the reason of a rejection.

use http::HeaderName;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};

use crate::jose::TokenError;
use crate::rejection::Rejection;
use crate::verifier::{TokenVerifier, VerifyError, alternatives};

/// Returns what is accepted instead of a request that was rejected in this way, or what to compare or to change. Returns `None`
/// if the rejection does not depend on a setting, or if the policy decided.
///
/// `issuer` is the label of the token's issuer, if that is a trusted one. The text contains nothing from the request.
pub(super) fn expected(
    rejection: &Rejection,
    issuer: Option<&str>,
    verifier: &TokenVerifier,
    token_headers: &[HeaderName],
) -> Option<String> {
    let error = match *rejection {
        Rejection::MissingToken | Rejection::UnsupportedScheme(_) => {
            let headers: Vec<_> = token_headers.iter().map(header_with_token).collect();
            let headers = headers.iter().map(String::as_str);
            return Some(format!("expected {}", alternatives(headers, 3)));
        }
        Rejection::MalformedRequest(_) | Rejection::NotAllowed | Rejection::InsufficientScope => {
            return None;
        }
        Rejection::InvalidToken(error) => VerifyError::InvalidToken(error),
        Rejection::KeysUnavailable { retry_after } => VerifyError::KeysUnavailable { retry_after },
        Rejection::TokenReviewUnavailable { retry_after } => {
            VerifyError::TokenReviewUnavailable { retry_after }
        }
    };
    verifier.expected(error, issuer)
}

/// Returns which part of the request or of the token is at fault, in fixed words, if the reason alone does not state it.
pub(super) fn detail(rejection: &Rejection) -> Option<String> {
    match rejection {
        Rejection::MalformedRequest(detail)
        | Rejection::InvalidToken(TokenError::Malformed(detail)) => Some((*detail).to_owned()),
        Rejection::UnsupportedScheme(found) => Some(found.to_string()),
        _ => None,
    }
}

fn header_with_token(name: &HeaderName) -> String {
    let name = match name {
        name if *name == AUTHORIZATION => "Authorization",
        name if *name == PROXY_AUTHORIZATION => "Proxy-Authorization",
        other => other.as_str(),
    };
    format!("`{name}: Bearer TOKEN`")
}
