//! Requests to the token endpoint of an OAuth 2.0 server (RFC 6749).

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::http::{Endpoint, FORM, HttpClient, Response, Secrets, form_body};
use crate::error::{Error, FetchError};
use crate::token::Token;
use crate::token::jwt::Audiences;

/// The value of `client_assertion_type` for a JWT (RFC 7523, section 2.2).
pub(crate) const JWT_BEARER_ASSERTION: &str =
    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The parameters of a request to a token endpoint, and the credentials among them.
pub(crate) struct TokenForm<'f> {
    parameters: Vec<(&'f str, &'f str)>,
    secrets: Secrets,
    /// The value of the `Authorization` header.
    authorization: Option<HeaderValue>,
}

impl<'f> TokenForm<'f> {
    /// Creates the parameters of a grant.
    pub(crate) fn new(grant_type: &'f str) -> Self {
        Self {
            parameters: vec![("grant_type", grant_type)],
            secrets: Secrets::default(),
            authorization: None,
        }
    }

    /// Adds a parameter that is not secret.
    pub(crate) fn with(mut self, name: &'f str, value: &'f str) -> Self {
        self.parameters.push((name, value));
        self
    }

    /// Adds a parameter that is not secret, if it has a value.
    pub(crate) fn with_optional(self, name: &'f str, value: Option<&'f str>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a parameter for each value. They are not secret.
    pub(crate) fn with_all(self, name: &'f str, values: &'f [String]) -> Self {
        values
            .iter()
            .fold(self, |form, value| form.with(name, value))
    }

    /// Adds a token, such as the one that is exchanged, or an assertion.
    pub(crate) fn with_token(mut self, name: &'f str, token: &'f Token) -> Self {
        self.secrets = with_encoded(self.secrets, token.text());
        self.with(name, token.text())
    }

    /// Adds a client's identifier and secret as parameters.
    pub(crate) fn with_client_secret(mut self, client_id: &'f str, secret: &'f str) -> Self {
        self.secrets = with_encoded(self.secrets, secret);
        self.with("client_id", client_id)
            .with("client_secret", secret)
    }

    /// Adds a client's identifier and secret as HTTP Basic authentication. Both are form-encoded first (RFC 6749, section
    /// 2.3.1).
    pub(crate) fn with_basic_auth(mut self, client_id: &str, secret: &str) -> Self {
        let encoded = encode_basic(client_id, secret);
        self.secrets = with_encoded(self.secrets, secret).with(&encoded);
        let value = Zeroizing::new(format!("Basic {}", encoded.as_str()).into_bytes());
        // Base64 is valid in a header.
        if let Ok(mut value) = HeaderValue::from_maybe_shared(Bytes::from_owner(value)) {
            value.set_sensitive(true);
            self.authorization = Some(value);
        }
        self
    }

    /// Sends the request, and returns the token in the response.
    ///
    /// # Errors
    ///
    /// Returns [`FetchError::OAuth`] if the endpoint rejects the request, and [`FetchError::InvalidResponse`] if the response
    /// contains no token.
    pub(crate) async fn send(
        self,
        http: &HttpClient,
        endpoint: &Endpoint,
    ) -> Result<TokenResponse, FetchError> {
        let body = form_body(self.parameters.iter().copied());
        let began = SystemTime::now();
        let response = http.send(endpoint, self.secrets, |client| {
            let mut request = client
                .post(endpoint.url().clone())
                .header(CONTENT_TYPE, FORM)
                .header(ACCEPT, "application/json")
                .body(body);
            if let Some(authorization) = self.authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            request
        });
        TokenResponse::parse(&response.await?, began)
    }
}

/// Returns `base64(form-encoded client_id ":" form-encoded secret)`.
fn encode_basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let mut pair = Zeroizing::new(form_body([(client_id, secret)]).to_vec());
    // The encoded texts contain no `=`, so the first one is the separator.
    if let Some(separator) = pair.iter_mut().find(|byte| **byte == b'=') {
        *separator = b':';
    }
    Zeroizing::new(STANDARD.encode(&*pair))
}

/// Adds a secret, and what a server may repeat in its place: its encoded form.
fn with_encoded(secrets: Secrets, secret: &str) -> Secrets {
    let encoded = Zeroizing::new(form_body([("", secret)]).to_vec());
    let encoded = std::str::from_utf8(&encoded).unwrap_or_default();
    let encoded = encoded.trim_start_matches('=');
    let lower_case = Zeroizing::new(encoded.to_ascii_lowercase());
    secrets.with(secret).with(encoded).with(&lower_case)
}

/// A token that a token endpoint has issued.
#[derive(Debug)]
pub(crate) struct TokenResponse {
    /// The token. It expires at its `exp`, or after `expires_in`, whichever comes first.
    pub(crate) token: Token,
    /// How the token can be used: `token_type`, such as `Bearer`.
    pub(crate) token_type: Option<Name>,
    /// `issued_token_type`, in the response to a token exchange.
    pub(crate) issued_token_type: Option<Name>,
    /// The audiences of the token, if it is a JWT.
    audiences: Option<Vec<String>>,
    /// A description of the audiences without credentials, for error messages.
    shown_audiences: String,
    /// The URL of the endpoint.
    endpoint: String,
}

/// A name in a response.
#[derive(Clone)]
pub(crate) struct Name {
    pub(crate) text: String,
    /// The text without credentials, for error messages.
    pub(crate) shown: String,
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shown.fmt(f)
    }
}

#[derive(Deserialize)]
struct Body {
    access_token: Option<String>,
    token_type: Option<String>,
    issued_token_type: Option<String>,
    // Not an untagged enum, which cannot read numbers if another crate enables the feature `arbitrary_precision` of serde_json.
    expires_in: Option<Value>,
}

/// Returns the duration of a number of seconds. Some servers return it as a text.
fn seconds(value: &Value) -> Option<Duration> {
    // Limited, so that it can be added to a time.
    const MAX: f64 = 1e10;
    let seconds: f64 = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    if !seconds.is_finite() {
        return None;
    }
    Duration::try_from_secs_f64(seconds.min(MAX)).ok()
}

impl TokenResponse {
    fn parse(response: &Response, requested_at: SystemTime) -> Result<Self, FetchError> {
        let body: Body = response.json()?;
        let Some(access_token) = body.access_token.map(Zeroizing::new) else {
            // Some servers return errors with the status 200.
            return Err(match response.error() {
                error @ FetchError::OAuth { .. } => error,
                _ => response.invalid("JSON without `access_token`"),
            });
        };
        let token = Token::opaque(access_token.as_bytes()).map_err(|error| {
            let reason = match error {
                Error::InvalidToken { reason } => reason.to_string(),
                other => other.to_string(),
            };
            response.invalid(format!("its `access_token` is not a token: {reason}"))
        })?;
        let token = match body.expires_in {
            None => token,
            Some(expires_in) => {
                let lifetime = seconds(&expires_in).ok_or_else(|| {
                    response.invalid("its `expires_in` is not a number of seconds")
                })?;
                match requested_at.checked_add(lifetime) {
                    Some(expiry) => token.with_max_expiry(expiry),
                    None => token,
                }
            }
        };
        let name = |text: Option<String>| {
            text.map(|text| Name {
                shown: response.redacted(&text),
                text,
            })
        };
        let audiences = Token::parse_jwt(access_token.as_bytes());
        let audiences = audiences.ok().map(|(_, audiences)| audiences);
        let shown = Audiences(audiences.as_deref().unwrap_or_default()).to_string();
        Ok(Self {
            token,
            audiences,
            shown_audiences: response.redacted(&shown),
            token_type: name(body.token_type),
            issued_token_type: name(body.issued_token_type),
            endpoint: response.endpoint().to_owned(),
        })
    }

    /// Returns the token if it can be sent as a bearer token.
    ///
    /// # Errors
    ///
    /// Returns [`FetchError::InvalidResponse`] if its `token_type` is not `Bearer`.
    pub(crate) fn into_bearer(self) -> Result<Token, FetchError> {
        self.require_bearer()?;
        Ok(self.token)
    }

    /// Checks that the token can be sent as a bearer token, according to the endpoint.
    ///
    /// # Errors
    ///
    /// Returns [`FetchError::InvalidResponse`] if its `token_type` is not `Bearer`.
    pub(crate) fn require_bearer(&self) -> Result<(), FetchError> {
        let found = match &self.token_type {
            Some(found) if found.text.eq_ignore_ascii_case("bearer") => return Ok(()),
            Some(found) => format!("a token with the `token_type` {:?}", found.shown),
            None => "a token without `token_type`".to_owned(),
        };
        Err(self.invalid(format!("{found}, expected \"Bearer\"")))
    }

    /// Checks that the token is for one of these audiences, if it is a JWT. There is no check of an opaque token, or if no
    /// audience is expected.
    ///
    /// # Errors
    ///
    /// Returns [`FetchError::WrongAudience`] if it is for others, or for none.
    pub(crate) fn require_audience(&self, expected: &[&str]) -> Result<(), FetchError> {
        let Some(found) = &self.audiences else {
            return Ok(());
        };
        if expected.is_empty() || found.iter().any(|found| expected.contains(&found.as_str())) {
            return Ok(());
        }
        Err(FetchError::WrongAudience {
            endpoint: self.endpoint.clone(),
            expected: expected.join(" or "),
            found: self.shown_audiences.clone(),
        })
    }

    /// Returns an error about the response: what was found, and what was expected.
    pub(crate) fn invalid(&self, reason: String) -> FetchError {
        FetchError::InvalidResponse {
            endpoint: self.endpoint.clone(),
            reason,
        }
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_of_seconds_may_be_a_text_and_has_to_be_finite_and_not_negative() {
        for (value, expected) in [
            (json!(3600), Some(3600)),
            (json!(3599.5), Some(3599)),
            (json!("3600"), Some(3600)),
            (json!(" 3600 "), Some(3600)),
            (json!(0), Some(0)),
            (json!(u64::MAX), Some(10_000_000_000)),
            (json!(-1), None),
            (json!("-1"), None),
            (json!(""), None),
            (json!("soon"), None),
            (json!("NaN"), None),
            (json!("1e400"), None),
            (json!(true), None),
            (json!([3600]), None),
        ] {
            let found = seconds(&value).map(|duration| duration.as_secs());
            assert_eq!(found, expected, "{value}");
        }
    }

    #[test]
    fn the_identifier_and_the_secret_of_a_client_are_encoded_separately() {
        // The example of RFC 6749, section 2.3.1.
        let encoded = encode_basic("s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw");
        assert_eq!(
            encoded.as_str(),
            "czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"
        );
        let encoded = encode_basic("a:b=c", "d:e=f");
        let decoded = STANDARD.decode(encoded.as_str()).unwrap();
        assert_eq!(decoded, b"a%3Ab%3Dc:d%3Ae%3Df");
    }
}
