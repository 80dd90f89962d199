//! The types of tokens that can be exchanged.

use std::fmt;

/// A type of token, as defined by RFC 8693, section 3.
///
/// # Examples
///
/// ```
/// use reqwest_wi_auth::TokenType;
///
/// assert_eq!(TokenType::Jwt.to_string(), "urn:ietf:params:oauth:token-type:jwt");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenType {
    /// A JWT of any kind: `urn:ietf:params:oauth:token-type:jwt`.
    Jwt,
    /// An access token of an OAuth 2.0 server, in any format: `urn:ietf:params:oauth:token-type:access_token`.
    AccessToken,
    /// An ID token of OpenID Connect: `urn:ietf:params:oauth:token-type:id_token`.
    IdToken,
    /// A refresh token of an OAuth 2.0 server: `urn:ietf:params:oauth:token-type:refresh_token`.
    RefreshToken,
    /// An assertion of SAML 1.1, in base64url: `urn:ietf:params:oauth:token-type:saml1`.
    Saml1,
    /// An assertion of SAML 2.0, in base64url: `urn:ietf:params:oauth:token-type:saml2`.
    Saml2,
    /// Another type: its URI.
    Other(String),
}

impl TokenType {
    /// Returns the type with this URI.
    pub(crate) fn from_uri(uri: &str) -> Self {
        [
            Self::Jwt,
            Self::AccessToken,
            Self::IdToken,
            Self::RefreshToken,
            Self::Saml1,
            Self::Saml2,
        ]
        .into_iter()
        .find(|known| known.as_str() == uri)
        .unwrap_or_else(|| Self::Other(uri.to_owned()))
    }

    /// Returns the URI of the type.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
            Self::AccessToken => "urn:ietf:params:oauth:token-type:access_token",
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::RefreshToken => "urn:ietf:params:oauth:token-type:refresh_token",
            Self::Saml1 => "urn:ietf:params:oauth:token-type:saml1",
            Self::Saml2 => "urn:ietf:params:oauth:token-type:saml2",
            Self::Other(uri) => uri,
        }
    }

    /// Returns whether tokens of the type may be sent as bearer tokens. A refresh token is for its authorization server only,
    /// and a SAML assertion is not a bearer token of RFC 6750.
    pub(crate) fn can_be_bearer(&self) -> bool {
        // `Other` may contain the URI of a known type.
        !matches!(
            Self::from_uri(self.as_str()),
            Self::RefreshToken | Self::Saml1 | Self::Saml2
        )
    }
}

impl fmt::Display for TokenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
