//! Where the token comes from, what passes without one, and how refusals are answered.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Response};

use super::OidcGuardBuilder;
use super::answer::Answer;
use super::slots::Slot;
use crate::rejection::Rejection;

/// A function that makes an answer of a refusal.
pub(super) struct Render(pub(super) Arc<Answer>);

impl fmt::Debug for Render {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Render")
    }
}

impl OidcGuardBuilder {
    /// Takes the token from these headers: from the first of them that has one. Default: `Authorization`.
    ///
    /// `Authorization` and `Proxy-Authorization` have it behind the scheme `Bearer` and one space; headers that platforms
    /// have made for tokens (`X-Serverless-Authorization`, `X-Goog-IAP-JWT-Assertion`) may have it with or without.
    ///
    /// The values of these headers are marked as [sensitive](http::HeaderValue::set_sensitive) in the request that the
    /// service gets, so that a handler which logs its headers does not log the token.
    ///
    /// An empty list, a repeated header, or a second call of this or of
    /// [`token_from_exactly_one_of`](Self::token_from_exactly_one_of) does not build.
    ///
    /// ```
    /// # use {http::{HeaderName, header::AUTHORIZATION}, tower_oidc_guard::OidcGuard};
    /// const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");
    /// let builder = OidcGuard::builder().token_from([SERVERLESS, AUTHORIZATION]);
    /// ```
    pub fn token_from(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers_by("token_from", headers, false)
    }

    /// Takes the token from one of these headers; a request with a token in more than one of them is malformed (400).
    ///
    /// An empty list, a repeated header, or a second call of this or of [`token_from`](Self::token_from) does not build.
    ///
    /// ```
    /// # use {http::header::{AUTHORIZATION, PROXY_AUTHORIZATION}, tower_oidc_guard::OidcGuard};
    /// let builder = OidcGuard::builder().token_from_exactly_one_of([PROXY_AUTHORIZATION, AUTHORIZATION]);
    /// ```
    pub fn token_from_exactly_one_of(self, headers: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers_by("token_from_exactly_one_of", headers, true)
    }

    fn headers_by(
        mut self,
        setting: &'static str,
        headers: impl IntoIterator<Item = HeaderName>,
        exactly_one: bool,
    ) -> Self {
        match self.headers_set_by {
            Some(first) => self.conflicts(first, setting, "name all headers in one call"),
            None => {
                self.headers_set_by = Some(setting);
                self.intake.headers.names = headers.into_iter().collect();
                self.intake.headers.exactly_one = exactly_one;
            }
        }
        self
    }

    /// Takes the token's headers off the request before the service sees it.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().strip_token();
    /// ```
    pub fn strip_token(mut self) -> Self {
        self.intake.strip = true;
        self
    }

    /// Lets requests without a token pass, without an identity: no policy is asked about them, so the service behind has to
    /// look whether there is an [`Identity`](crate::Identity). A request with a token that is refused, or with a malformed
    /// header, is refused all the same.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().allow_missing_token();
    /// ```
    pub fn allow_missing_token(mut self) -> Self {
        self.intake.optional = true;
        self
    }

    /// Lets CORS preflights pass, which browsers send without a token: `OPTIONS` with `Origin` and
    /// `Access-Control-Request-Method`. A preflight with `Authorization`, or with another header that a token may come in,
    /// is malformed (400). Not needed if the layer that answers preflights is in front of the guard.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().allow_cors_preflight();
    /// ```
    pub fn allow_cors_preflight(mut self) -> Self {
        self.intake.preflight = true;
        self
    }

    /// Puts the identity into a slot of that name, in [`Identities`](crate::Identities), instead of as
    /// [`Identity`](crate::Identity) into the request's extensions: for two guards, one behind the other. Each clears
    /// its own slot first, and leaves the other's alone. A second call does not build.
    ///
    /// ```
    /// # use {http::HeaderName, tower_oidc_guard::OidcGuard};
    /// const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");
    /// let gate = OidcGuard::builder().token_from([SERVERLESS]).identity_name("gate");
    /// ```
    pub fn identity_name(mut self, name: &'static str) -> Self {
        if self.intake.slot != Slot::Default {
            self.conflicts(
                "identity_name",
                "identity_name",
                "a guard puts the identity into one slot",
            );
        }
        self.intake.slot = Slot::Named(name);
        self
    }

    /// Sets the realm of challenges (RFC 9110, section 11.5): printable ASCII. Default: `protected`. If called again, the last
    /// realm counts.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().realm("orders");
    /// ```
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Leaves the `error_description` out of challenges, and the message out of gRPC answers.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().without_error_description();
    /// ```
    pub fn without_error_description(mut self) -> Self {
        self.without_description = true;
        self
    }

    /// Names the protected resource (RFC 9728), an https URL: challenges then say where its metadata are, and
    /// [`OidcGuard::resource_metadata`](crate::OidcGuard::resource_metadata) answers there. A second call does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().protected_resource("https://orders.example");
    /// ```
    pub fn protected_resource(mut self, resource: impl Into<String>) -> Self {
        if self.resource.is_some() {
            let advice = "a guard protects one resource";
            self.conflicts("protected_resource", "protected_resource", advice);
        }
        self.resource = Some(resource.into());
        self
    }

    /// Sets a function that makes the response to a refused request from the reason and from the response that would be
    /// sent otherwise. It is not called for gRPC requests. A second call does not build.
    ///
    /// A response without `Cache-Control` gets `no-store`, as the original one has.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().rejection_response(|rejection, answer| answer.map(|_| rejection.reason().into()));
    /// ```
    pub fn rejection_response(
        mut self,
        render: impl Fn(&Rejection, Response<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        if self.render.is_some() {
            let advice = "a guard has one function for the responses to rejected requests";
            self.conflicts("rejection_response", "rejection_response", advice);
        }
        self.render = Some(Render(Arc::new(render)));
        self
    }
}
