//! The authentication of clients (RFC 6749, section 2.3; RFC 7523, section 2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::header::AUTHORIZATION;

use super::form::Form;
use super::{Rejection, VerifyFn};

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Which client is accepted.
#[derive(Clone)]
pub(super) enum ClientPolicy {
    /// A client without an identifier.
    Anonymous,
    Public {
        id: String,
    },
    Secret {
        id: String,
        secret: String,
    },
    Assertion {
        id: String,
        verify: VerifyFn,
    },
}

/// The credentials in a request.
enum Credentials {
    None { id: Option<String> },
    Secret { id: String, secret: String },
    Assertion { id: Option<String>, jwt: String },
}

impl ClientPolicy {
    /// Returns the identifier of the client, or the error if it is not accepted.
    pub(super) async fn authenticate(
        &self,
        request: &Request<Bytes>,
        form: &Form,
    ) -> Result<Option<String>, Rejection> {
        let sent = Credentials::extract(request, form)?;
        let reject = Rejection::invalid_client;
        match (self, sent) {
            (Self::Anonymous, Credentials::None { id: None }) => Ok(None),
            (Self::Anonymous, _) => Err(reject("the client is unknown")),
            (Self::Public { id }, Credentials::None { id: Some(sent) }) if *id == sent => {
                Ok(Some(sent))
            }
            (Self::Public { .. }, _) => Err(reject("the client is unknown")),
            (
                Self::Secret { id, secret },
                Credentials::Secret {
                    id: sent,
                    secret: with,
                },
            ) if *id == sent && *secret == with => Ok(Some(sent)),
            (Self::Secret { .. }, _) => Err(reject("the client or its secret is wrong")),
            (Self::Assertion { id, verify }, Credentials::Assertion { id: sent, jwt }) => {
                if sent.is_some_and(|sent| sent != *id) {
                    return Err(reject("the client is unknown"));
                }
                verify(jwt).await.map_err(Rejection::invalid_client)?;
                Ok(Some(id.clone()))
            }
            (Self::Assertion { .. }, _) => Err(reject("the client assertion is missing")),
        }
    }
}

impl Credentials {
    fn extract(request: &Request<Bytes>, form: &Form) -> Result<Self, Rejection> {
        let id = form.get("client_id").map(str::to_owned);
        let secret = form.get("client_secret").map(str::to_owned);
        let assertion = form.get("client_assertion").map(str::to_owned);
        let assertion_type = form.get("client_assertion_type");
        let mut headers = request.headers().get_all(AUTHORIZATION).iter();
        let header = headers.next();
        let methods = [header.is_some(), secret.is_some(), assertion.is_some()];
        if methods.into_iter().filter(|&is_used| is_used).count() > 1 || headers.next().is_some() {
            return Err(Rejection::invalid_request(
                "the client authenticates with more than one method",
            ));
        }
        if assertion.is_some() != assertion_type.is_some() {
            return Err(Rejection::invalid_request(
                "client_assertion and client_assertion_type require each other",
            ));
        }
        if assertion_type.is_some_and(|found| found != ASSERTION_TYPE) {
            return Err(Rejection::invalid_client(
                "the client_assertion_type is not supported",
            ));
        }
        if let Some(header) = header {
            let (name, secret) = header.to_str().ok().and_then(parse_basic).ok_or_else(|| {
                Rejection::invalid_client("the Authorization header is malformed")
            })?;
            if id.is_some_and(|id| id != name) {
                return Err(Rejection::invalid_request(
                    "client_id is not the client of the Authorization header",
                ));
            }
            return Ok(Self::Secret { id: name, secret });
        }
        match (secret, assertion) {
            (Some(secret), _) => Ok(Self::Secret {
                id: id.ok_or_else(|| {
                    Rejection::invalid_client("the parameter client_id is missing")
                })?,
                secret,
            }),
            (None, Some(jwt)) => Ok(Self::Assertion { id, jwt }),
            (None, None) => Ok(Self::None { id }),
        }
    }
}

/// Parses a header of HTTP Basic authentication whose user name and password are form-encoded, as OAuth requires.
fn parse_basic(header: &str) -> Option<(String, String)> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((form_decode(id)?, form_decode(secret)?))
}

/// Decodes one form-encoded value.
fn form_decode(value: &str) -> Option<String> {
    if value.contains(['&', '=']) {
        return None;
    }
    let (name, _) = form_urlencoded::parse(value.as_bytes()).next()?;
    Some(name.into_owned())
}
