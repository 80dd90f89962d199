//! Decides which token a request carries, in which header. All adapters use it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderName, Method};
use reqwest::Url;

use crate::error::Error;
use crate::origins::{MappedOrigins, Origin, OriginRef, Origins, PlainHttp, SourceCow};
use crate::source::{TokenProvider, TokenSource};
use crate::telemetry;
use crate::token::Token;

/// A middleware that adds the current token to requests to the configured origins, and to no others. The origins are not
/// derived from the token's audience.
///
/// It is a [`reqwest_middleware::Middleware`], and a tower [`Layer`](tower_layer::Layer) for clients of
/// [`http::Request`]s. For other clients, [`token_for`](Self::token_for) returns the token.
///
/// # Rules
///
/// 1. A request carries a token if its URL has one of the configured origins: the same scheme, host and port.
/// 2. It carries none if it already has the header (the caller's value stays), if its `Host` header does not match its
///    URL, if its URL contains user information, if its method is `CONNECT`, or if it has the extension [`SkipToken`].
/// 3. If there is no token to send, the request is not sent, and fails with an [`Error`].
/// 4. A token that the source does not have yet is awaited.
/// 5. Only as reqwest middleware: after a 401 from the same origin, the request is sent once more if the source has a newer
///    token by then and the body can be cloned (a streamed body cannot). If its method is not safe (POST, for example), the
///    response must also be from the same URL, because a request that was redirected may have been processed. The tower layer
///    never sends a request again.
///
/// # Order of middleware
///
/// Add `BearerAuth` last, so that it is closest to the client: tracing first, then retry, then `BearerAuth`. Each
/// retry then carries the token that is current at that time. Middleware below it (added after it) can read the token, and
/// one that
/// changes the URL sends the token to another server. reqwest follows redirects below all middleware, and removes
/// `Authorization` when a redirect leads to another origin.
///
/// # Proxies
///
/// The client decides whether a request goes through a proxy. An https request is tunnelled, so a proxy cannot read the
/// token. A plain http request, to loopback too, is sent through the proxy in `HTTP_PROXY` as a whole, unless the client
/// was built with `no_proxy` or the host is listed in `NO_PROXY`.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use reqwest_middleware::ClientBuilder;
/// use reqwest_wi_auth::{BearerAuth, ProjectedToken};
///
/// let token = ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?;
/// let client = ClientBuilder::new(reqwest::Client::new())
///     .with(BearerAuth::for_origin("https://auth-server.example", token)?)
///     .build();
/// client.get("https://auth-server.example/private").send().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "adds no tokens unless it is added to a client"]
pub struct BearerAuth {
    origins: Origins,
    header: HeaderName,
    resend: Resend,
}

/// Whether a request is sent again with a newer token after a 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resend {
    Once,
    Never,
}

/// Which token a request carries.
enum Selection<'s> {
    None,
    /// The token of the source for its origin.
    OfOrigin,
    /// The token of the source in [`UseSource`].
    Other(&'s Arc<dyn TokenSource>),
}

/// A request extension that prevents [`BearerAuth`] from adding a token. With tower, insert it with
/// [`http::Request::extensions_mut`].
///
/// # Examples
///
/// ```
/// # fn example(client: reqwest_middleware::ClientWithMiddleware) {
/// use reqwest_wi_auth::SkipToken;
///
/// let request = client.get("https://auth-server.example/healthz").with_extension(SkipToken);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SkipToken;

/// A request extension that replaces the source of the request's token.
///
/// It has no effect on requests to origins that no tokens are sent to.
///
/// # Examples
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

impl BearerAuth {
    /// Creates a middleware that sends the tokens of a source to one origin.
    ///
    /// `origin` is a URL without a path, such as `https://auth-server.example:8443`. Its scheme is https, or http if the
    /// host is on loopback (`localhost`, `127.0.0.0/8` or `[::1]`).
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOrigin`] if tokens cannot be sent to the URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, FixedToken, Token};
    /// # fn main() -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://auth-server.example", FixedToken::new(Token::opaque("s3cr3t")?))?;
    ///
    /// assert!(auth.token_for("https://auth-server.example/private")?.is_some());
    /// assert!(auth.token_for("http://auth-server.example/private")?.is_none());
    /// assert!(auth.token_for("https://other.example/private")?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_origin(origin: &str, source: impl TokenSource) -> Result<Self, Error> {
        Self::with_origins(Origins::default()).and_origin(origin, source)
    }

    /// Creates a middleware that sends the tokens of a source to one origin, even over plain http.
    ///
    /// Use it only on networks that are encrypted by other means, such as a service mesh. Otherwise anyone on the network
    /// path, and a proxy in `HTTP_PROXY`, can read the tokens and use them until they expire.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOrigin`] if tokens cannot be sent to the URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, FixedToken, Token};
    /// # fn main() -> Result<(), Error> {
    /// let source = FixedToken::new(Token::opaque("s3cr3t")?);
    /// assert!(BearerAuth::for_origin("http://auth-server.ns.svc", source.clone()).is_err());
    ///
    /// let auth = BearerAuth::insecure_http("http://auth-server.ns.svc", source)?;
    /// assert!(auth.token_for("http://auth-server.ns.svc/private")?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn insecure_http(origin: &str, source: impl TokenSource) -> Result<Self, Error> {
        Self::with_origins(Origins::default()).and_insecure_http(origin, source)
    }

    /// Creates a middleware that sends the tokens of a source to every https origin, and over plain http to loopback.
    ///
    /// Anyone who can make the client send a request to their server, by a link or a redirect, gets a token that they can
    /// use until it expires.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, FixedToken, Token};
    /// # fn main() -> Result<(), Error> {
    /// let auth = BearerAuth::any_origin(FixedToken::new(Token::opaque("s3cr3t")?));
    ///
    /// assert!(auth.token_for("https://any.example/")?.is_some());
    /// assert!(auth.token_for("http://any.example/")?.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn any_origin(source: impl TokenSource) -> Self {
        Self::with_origins(Origins::any(Arc::new(source)))
    }

    /// Creates a middleware for a client that talks to many services: a function returns the audience for each origin, and
    /// a provider issues the tokens.
    ///
    /// `audience` is called with an origin without a path, such as `https://orders.example` or `https://orders.example:8443`:
    /// in lower case, and without the port if it is the default of the scheme. It returns the audience of the tokens for it, or
    /// `None` if requests to it carry no token. It is called for https origins, and for http ones on loopback.
    ///
    /// Return an audience only for origins of services that you know. If anyone can make the client send a
    /// request to a host of their choice, by a link or a redirect, they get a token for the audience that the function returns
    /// for it: harmless if that audience is the host itself, but not if it is an audience that other services accept.
    ///
    /// # Calls of the function
    ///
    /// The function is called at the first request to an origin, and its result is remembered if it is an audience. It is called
    /// again if the source was dropped, and if requests to more than 1,000 origins carry tokens. If the result is `None`, it is
    /// called for each request. It should return the same result each time, and not block.
    ///
    /// # Sources
    ///
    /// The first request for an audience creates a source with [`TokenProvider::token_source`], which origins with the same
    /// audience share, and waits for its token. Concurrent requests create one source. If the provider returns an error, the
    /// request fails with it, and the next request calls the provider again. The provider is called with a lock held: it must
    /// not block, or send requests through the same client.
    ///
    /// Up to [`max_audiences`](Self::max_audiences) sources exist at a time. Each has its token in memory, and usually a
    /// task that renews it although there are no requests. A further one replaces the source that was used least
    /// recently.
    ///
    /// Requests to many made-up hosts cannot make the program create sources without limit, each of which would fetch a token:
    /// `max_audiences` and 100 more can be created at once, and after that `max_audiences` per minute. Beyond that, requests
    /// that need a further source fail with [`Error::TooManyAudiences`], and sources that were used within the last minute are not affected.
    ///
    /// Clones of the middleware share the sources.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_middleware::ClientBuilder;
    /// use reqwest_wi_auth::{BearerAuth, MetadataServer};
    ///
    /// // The audience of each service is its origin.
    /// let auth = BearerAuth::for_each_origin(MetadataServer::new()?, |origin| {
    ///     origin.ends_with(".services.example").then(|| origin.to_owned())
    /// });
    /// let client = ClientBuilder::new(reqwest::Client::new()).with(auth).build();
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_each_origin(
        provider: impl TokenProvider,
        audience: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::with_origins(Origins::default()).and_each_other_origin(provider, audience)
    }

    /// Creates a middleware like [`for_each_origin`](Self::for_each_origin) that sends tokens over plain http too: the function
    /// is called for every http and https origin.
    ///
    /// Use it only on networks that are encrypted by other means, as explained for
    /// [`insecure_http`](Self::insecure_http).
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, TokenProvider};
    /// # fn example(provider: impl TokenProvider) {
    /// // Services in the cluster, whose connections the service mesh encrypts.
    /// let auth = BearerAuth::insecure_http_for_each_origin(provider, |origin| {
    ///     let host = origin.strip_prefix("http://")?;
    ///     host.ends_with(".shop.svc").then(|| host.to_owned())
    /// });
    /// # }
    /// ```
    pub fn insecure_http_for_each_origin(
        provider: impl TokenProvider,
        audience: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::with_origins(Origins::default())
            .and_insecure_http_for_each_other_origin(provider, audience)
    }

    fn with_origins(origins: Origins) -> Self {
        telemetry::describe();
        Self {
            origins,
            header: AUTHORIZATION,
            resend: Resend::Once,
        }
    }

    /// Adds an origin that the tokens of another source are sent to. If an origin is added twice, the last source is used.
    ///
    /// Use one source per audience, since a token is issued for one audience.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOrigin`] if tokens cannot be sent to the URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, FixedToken, Token};
    /// # fn main() -> Result<(), Error> {
    /// let (orders, stock) = (Token::opaque("for-orders")?, Token::opaque("for-stock")?);
    /// let auth = BearerAuth::for_origin("https://orders.example", FixedToken::new(orders.clone()))?
    ///     .and_origin("https://stock.example", FixedToken::new(stock.clone()))?;
    ///
    /// assert_eq!(auth.token_for("https://orders.example/1")?, Some(orders));
    /// assert_eq!(auth.token_for("https://stock.example/1")?, Some(stock));
    /// # Ok(())
    /// # }
    /// ```
    pub fn and_origin(mut self, origin: &str, source: impl TokenSource) -> Result<Self, Error> {
        self.origins
            .insert(origin, Arc::new(source), PlainHttp::LoopbackOnly)?;
        Ok(self)
    }

    /// Adds an origin that the tokens of another source are sent to, even over plain http. If an origin is added twice, the
    /// last source is used.
    ///
    /// Use it only on networks that are encrypted by other means, as explained for
    /// [`insecure_http`](Self::insecure_http).
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidOrigin`] if tokens cannot be sent to the URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example(orders: impl TokenSource, stock: impl TokenSource) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://orders.example", orders)?
    ///     .and_insecure_http("http://stock.ns.svc", stock)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn and_insecure_http(
        mut self,
        origin: &str,
        source: impl TokenSource,
    ) -> Result<Self, Error> {
        self.origins
            .insert(origin, Arc::new(source), PlainHttp::Allowed)?;
        Ok(self)
    }

    /// Adds the origins for which a function returns an audience, other than those that were or will be added by themselves. See
    /// [`for_each_origin`](Self::for_each_origin).
    ///
    /// Replaces the function of an earlier call, and the source of [`any_origin`](Self::any_origin).
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, FixedToken, TokenProvider};
    /// # fn example(partner: FixedToken, provider: impl TokenProvider) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://api.partner.example", partner)?
    ///     .and_each_other_origin(provider, |origin| {
    ///         origin.ends_with(".services.example").then(|| origin.to_owned())
    ///     });
    /// # Ok(())
    /// # }
    /// ```
    pub fn and_each_other_origin(
        self,
        provider: impl TokenProvider,
        audience: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with_mapped_origins(MappedOrigins::new(
            Arc::new(provider),
            Arc::new(audience),
            PlainHttp::LoopbackOnly,
        ))
    }

    /// Adds origins like [`and_each_other_origin`](Self::and_each_other_origin), and sends tokens over plain http too.
    ///
    /// Use it only on networks that are encrypted by other means, as explained for
    /// [`insecure_http`](Self::insecure_http).
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, FixedToken, TokenProvider};
    /// # fn example(partner: FixedToken, provider: impl TokenProvider) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://api.partner.example", partner)?
    ///     .and_insecure_http_for_each_other_origin(provider, |origin| {
    ///         origin.ends_with(".shop.svc").then(|| origin.to_owned())
    ///     });
    /// # Ok(())
    /// # }
    /// ```
    pub fn and_insecure_http_for_each_other_origin(
        self,
        provider: impl TokenProvider,
        audience: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with_mapped_origins(MappedOrigins::new(
            Arc::new(provider),
            Arc::new(audience),
            PlainHttp::Allowed,
        ))
    }

    fn with_mapped_origins(mut self, mapped: MappedOrigins) -> Self {
        self.origins.set_mapped(mapped);
        self
    }

    /// Sets how many sources [`for_each_origin`](Self::for_each_origin) keeps at a time, one for each audience. Default: 100. At
    /// least one is kept.
    ///
    /// Has no effect on other origins. Call it after `for_each_origin` or `and_each_other_origin`, and before the middleware is
    /// used or cloned: sources that exist already are not kept.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, TokenProvider};
    /// # fn example(provider: impl TokenProvider) {
    /// let auth = BearerAuth::for_each_origin(provider, |origin| Some(origin.to_owned())).max_audiences(1000);
    /// # }
    /// ```
    pub fn max_audiences(mut self, max_audiences: usize) -> Self {
        self.origins.set_max_audiences(max_audiences);
        self
    }

    /// Disables sending a request again after a 401.
    ///
    /// This saves the copy of each request that is kept for it. Concerns the reqwest middleware only: the tower layer
    /// never sends a request again.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example(token: impl TokenSource) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://auth-server.example", token)?.without_resend();
    /// # Ok(())
    /// # }
    /// ```
    pub fn without_resend(mut self) -> Self {
        self.resend = Resend::Never;
        self
    }

    /// Returns the token that a request to this URL carries, or `None` if no tokens are sent to its origin. For clients
    /// without middleware, such as `reqwest::blocking`, ureq, or a tonic interceptor.
    ///
    /// Does not wait for a token: a source that has none yet, such as a [`CommandToken`](crate::CommandToken) before its
    /// first [`refresh`](TokenSource::refresh), returns an error. Performs no I/O, except that
    /// [`ProjectedToken`](crate::ProjectedToken#runtimes) and
    /// [`FetchedToken`](crate::FetchedToken#runtimes) replace an expired token if this is called outside a tokio runtime.
    ///
    /// # Errors
    ///
    /// Returns the error of [`TokenSource::current`], and [`Error::InvalidOrigin`] if the argument is not a URL.
    ///
    /// # Examples
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, FixedToken, Token};
    /// # fn main() -> Result<(), Error> {
    /// # let source = FixedToken::new(Token::opaque("s3cr3t")?);
    /// # let auth = BearerAuth::for_origin("https://auth-server.example", source)?;
    /// let token = auth.token_for("https://auth-server.example/private")?.expect("tokens are sent to this origin");
    /// assert_eq!(token.header(), "Bearer s3cr3t");
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_for(&self, url: &str) -> Result<Option<Token>, Error> {
        let parsed = Url::parse(url).map_err(|_| Error::invalid_origin(url, "not a URL"))?;
        let origin = OriginRef::from_url(&parsed);
        let source = origin.and_then(|origin| match self.origins.configured(origin) {
            Some(source) => Some(Cow::Borrowed(source)),
            None => Some(Cow::Owned(self.origins.mapped(origin)?.into_source())),
        });
        if source.is_none() {
            telemetry::not_attached(origin);
        }
        source
            .map(|source: SourceCow<'_>| source.current())
            .transpose()
    }

    /// Sets the header that carries the token.
    ///
    /// Not public, because reqwest removes no other header than `Authorization` at a redirect to another origin. See
    /// [`TokenClientBuilder`](crate::TokenClientBuilder).
    pub(crate) fn in_header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }

    pub(crate) fn resend(&self) -> Resend {
        self.resend
    }

    /// Returns the source of the token that a request to this origin carries, or `None` if the request carries no token of
    /// this middleware.
    #[inline]
    pub(crate) fn source_for<'s>(
        &'s self,
        origin: Option<OriginRef<'_>>,
        method: &Method,
        headers: &HeaderMap,
        extensions: &'s Extensions,
    ) -> Option<SourceCow<'s>> {
        let found = origin.and_then(|origin| Some((origin, self.origins.configured(origin)?)));
        let Some((origin, source)) = found else {
            return self.mapped_source_for(origin, method, headers, extensions);
        };
        self.select_source(origin, source, method, headers, extensions)
            .map(Cow::Borrowed)
    }

    /// Returns the source of the token that a request to an origin without a configured source carries, which is created on
    /// demand, or `None`. Not inlined, so that requests to configured origins do not carry its cost.
    #[inline(never)]
    fn mapped_source_for<'s>(
        &'s self,
        origin: Option<OriginRef<'_>>,
        method: &Method,
        headers: &HeaderMap,
        extensions: &'s Extensions,
    ) -> Option<SourceCow<'s>> {
        let found = origin.and_then(|origin| Some((origin, self.origins.mapped(origin)?)));
        let Some((origin, mapped)) = found else {
            telemetry::not_attached(origin);
            return None;
        };
        // The source is created only for a request that carries its token.
        match self.selection(origin, method, headers, extensions) {
            Selection::None => None,
            Selection::Other(source) => Some(Cow::Borrowed(source)),
            Selection::OfOrigin => Some(Cow::Owned(mapped.into_source())),
        }
    }

    /// Returns the source of the token that a request carries, or `None` if the request carries no token of this
    /// middleware. `source` is the configured source for the origin of the request.
    #[inline]
    pub(crate) fn select_source<'s>(
        &self,
        origin: OriginRef<'_>,
        source: &'s Arc<dyn TokenSource>,
        method: &Method,
        headers: &HeaderMap,
        extensions: &'s Extensions,
    ) -> Option<&'s Arc<dyn TokenSource>> {
        match self.selection(origin, method, headers, extensions) {
            Selection::None => None,
            Selection::Other(source) => Some(source),
            Selection::OfOrigin => Some(source),
        }
    }

    /// Decides which token a request carries to an origin that tokens are sent to.
    #[inline]
    fn selection<'s>(
        &self,
        origin: OriginRef<'_>,
        method: &Method,
        headers: &HeaderMap,
        extensions: &'s Extensions,
    ) -> Selection<'s> {
        // A value that the caller has set stays.
        if headers.contains_key(&self.header) {
            return Selection::None;
        }
        // A CONNECT request is read by a proxy.
        if *method == Method::CONNECT || !origin.matches_host_headers(headers) {
            telemetry::not_attached_to_request(origin);
            return Selection::None;
        }
        if extensions.is_empty() {
            return Selection::OfOrigin;
        }
        if extensions.get::<SkipToken>().is_some() {
            return Selection::None;
        }
        let other = extensions
            .get::<UseSource>()
            .filter(|other| other.header == self.header);
        other.map_or(Selection::OfOrigin, |other| Selection::Other(&other.source))
    }

    /// Returns the origin of a URL with its source, if that is not created on demand. Returns `None` if no tokens are sent to
    /// the origin.
    pub(crate) fn origin_entry(
        &self,
        url: &str,
    ) -> Option<(Origin, Option<&Arc<dyn TokenSource>>)> {
        let url = Url::parse(url).ok()?;
        self.origins.entry(OriginRef::from_url(&url)?)
    }

    pub(crate) fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Sets the header to a token.
    #[inline]
    pub(crate) fn attach(&self, token: Token, headers: &mut HeaderMap) {
        headers.insert(&self.header, token.into_header());
    }
}

impl fmt::Debug for BearerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerAuth")
            .field("origins", &self.origins.descriptions().collect::<Vec<_>>())
            .field("header", &self.header)
            .field("resend", &self.resend)
            .finish_non_exhaustive()
    }
}

impl UseSource {
    /// Creates an extension that replaces the source of the token in `Authorization`.
    pub fn new(source: impl TokenSource) -> Self {
        Self {
            source: Arc::new(source),
            header: AUTHORIZATION,
        }
    }

    /// Sets the header whose token comes from the source, for clients of a
    /// [`TokenClientBuilder`](crate::TokenClientBuilder). Default: `Authorization`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn example(
    /// #     client: reqwest_middleware::ClientWithMiddleware,
    /// #     platform: impl reqwest_wi_auth::TokenSource,
    /// # ) {
    /// use http::HeaderName;
    /// use reqwest_wi_auth::UseSource;
    ///
    /// let header = HeaderName::from_static("x-serverless-authorization");
    /// let request = client
    ///     .get("https://auth-server.example/admin")
    ///     .with_extension(UseSource::new(platform).in_header(header));
    /// # }
    /// ```
    #[must_use]
    pub fn in_header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }
}

impl fmt::Debug for UseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UseSource")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
