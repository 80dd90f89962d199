//! What can be said for one request: extension types.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use http::header::AUTHORIZATION;

use crate::source::TokenSource;

/// As an extension of a request: it carries no token.
///
/// ```
/// # fn example(client: reqwest_middleware::ClientWithMiddleware) {
/// use reqwest_wi_auth::SkipToken;
///
/// let request = client.get("https://auth-server.example/healthz").with_extension(SkipToken);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SkipToken;

/// As an extension of a request: its token comes from this source, if it goes to an origin that tokens
/// are sent to at all.
///
/// ```
/// # fn example(client: reqwest_middleware::ClientWithMiddleware, admin: impl reqwest_wi_auth::TokenSource) {
/// use reqwest_wi_auth::UseSource;
///
/// let request = client.get("https://auth-server.example/admin").with_extension(UseSource::new(admin));
/// # }
/// ```
#[derive(Clone)]
pub struct UseSource {
    source: Arc<dyn TokenSource>,
    header: HeaderName,
}

impl UseSource {
    /// Another source for the token in `Authorization`.
    pub fn new(source: impl TokenSource) -> Self {
        Self {
            source: Arc::new(source),
            header: AUTHORIZATION,
        }
    }

    /// The same for another header's token.
    ///
    /// ```
    /// # fn example(platform: impl reqwest_wi_auth::TokenSource) {
    /// # use reqwest_wi_auth::UseSource;
    /// let option = UseSource::new(platform)
    ///     .in_header(http::HeaderName::from_static("x-serverless-authorization"));
    /// # }
    /// ```
    #[must_use]
    pub fn in_header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }

    pub(crate) fn for_header(&self, header: &HeaderName) -> Option<&Arc<dyn TokenSource>> {
        (self.header == *header).then_some(&self.source)
    }
}

impl fmt::Debug for UseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UseSource")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
