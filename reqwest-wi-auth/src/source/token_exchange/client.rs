//! How the client authenticates at the token endpoint.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::source::TokenSource;
use crate::source::token_endpoint::{JWT_BEARER_ASSERTION, TokenForm};
use crate::token::Token;

/// The identifier of the client, and how it authenticates.
#[derive(Clone)]
pub(super) struct ClientAuthentication {
    pub(super) id: Option<String>,
    pub(super) method: Method,
}

#[derive(Clone)]
pub(super) enum Method {
    /// The client does not authenticate.
    None,
    /// HTTP Basic authentication (RFC 6749, section 2.3.1).
    Basic(Zeroizing<String>),
    /// A parameter with the secret.
    Post(Zeroizing<String>),
    /// A JWT (RFC 7523, section 2.2).
    Assertion(Arc<dyn TokenSource>),
}

impl ClientAuthentication {
    /// Returns the source of assertions, if the client authenticates with them.
    pub(super) fn assertion(&self) -> Option<&dyn TokenSource> {
        match &self.method {
            Method::Assertion(source) => Some(&**source),
            _ => None,
        }
    }

    /// Returns whether the client uses HTTP Basic authentication with an identifier or a secret that form encoding changes.
    pub(super) fn is_encoded(&self) -> bool {
        let Method::Basic(secret) = &self.method else {
            return false;
        };
        let id = self.id.as_deref().unwrap_or_default();
        !(is_unreserved(id) && is_unreserved(secret))
    }

    /// Adds the identifier and the credentials of the client to a request.
    pub(super) fn add_to<'f>(
        &'f self,
        form: TokenForm<'f>,
        assertion: Option<&'f Token>,
    ) -> TokenForm<'f> {
        let id = self.id.as_deref();
        match (&self.method, assertion) {
            (Method::Basic(secret), _) => form.with_basic_auth(id.unwrap_or_default(), secret),
            (Method::Post(secret), _) => form.with_client_secret(id.unwrap_or_default(), secret),
            (Method::Assertion(_), Some(assertion)) => form
                .with_optional("client_id", id)
                .with("client_assertion_type", JWT_BEARER_ASSERTION)
                .with_token("client_assertion", assertion),
            (Method::None | Method::Assertion(_), _) => form.with_optional("client_id", id),
        }
    }
}

/// Returns whether form encoding leaves a text as it is.
fn is_unreserved(text: &str) -> bool {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"*-._".contains(&byte);
    text.bytes().all(is_unreserved)
}

/// Describes the authentication without credentials.
impl fmt::Display for ClientAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "the client {id:?}")?,
            None => f.write_str("a client without an identifier")?,
        }
        f.write_str(match self.method {
            Method::None => " and no credentials",
            Method::Basic(_) => " and its secret by HTTP Basic authentication",
            Method::Post(_) => " and its secret as a parameter",
            Method::Assertion(_) => " and a client assertion",
        })
    }
}

impl fmt::Debug for ClientAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
