//! Which token goes where, and in which header: what every adapter goes by.

use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, HeaderName, Method};
use reqwest::Url;

use crate::error::Error;
use crate::options::{SkipToken, UseSource};
use crate::origins::{Origin, Origins, PlainHttp, Target};
use crate::source::TokenSource;
use crate::telemetry;
use crate::token::Token;

/// Puts the current token on requests to the origins it was made for, and on no others.
///
/// It is a [`reqwest_middleware::Middleware`], and a [`tower_layer::Layer`] for clients that take
/// [`http::Request`]s. Where there is no token to send, the request is not sent.
///
/// As a middleware, lay it nearest to the client: [`reqwest_middleware::ClientBuilder`] calls first what
/// was added first, so tracing comes first, then retry, then this. Middleware behind it that rewrites
/// the URL sends the token wherever it likes. After a 401 from the same origin, the request is sent once
/// more if the source has another token by then and the body can be sent again (a streamed one cannot).
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
#[must_use]
pub struct BearerAuth {
    origins: Origins,
    header: HeaderName,
    resend: bool,
}

impl BearerAuth {
    /// Sends the source's tokens to this origin: scheme, host and port of the URL, which has no path.
    /// https, or http on loopback (which goes through `HTTP_PROXY` all the same, unless the client is
    /// built with `no_proxy`).
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example(token: impl TokenSource) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://auth-server.example", token)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Origin`] if no token may be sent there.
    pub fn for_origin(origin: &str, source: impl TokenSource) -> Result<Self, Error> {
        Self::with(Origins::default()).and_origin(origin, source)
    }

    /// Sends the source's tokens to this origin, over plain http too. Everyone on the way can read them
    /// and use them until they expire; so can a proxy that `HTTP_PROXY` names, since it gets such
    /// requests whole. For networks that encrypt by themselves, such as a service mesh.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example(token: impl TokenSource) -> Result<(), Error> {
    /// let auth = BearerAuth::insecure_http("http://auth-server.ns.svc", token)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Origin`] if no token may be sent there.
    pub fn insecure_http(origin: &str, source: impl TokenSource) -> Result<Self, Error> {
        Self::with(Origins::default()).and_insecure_http(origin, source)
    }

    /// Sends the source's tokens to every https origin, and to http on loopback. Whoever can make this
    /// client ask another host, by a link or a redirect, gets a token that is good for the rest of its
    /// life.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, TokenSource};
    /// # fn example(token: impl TokenSource) {
    /// let auth = BearerAuth::any_origin(token);
    /// # }
    /// ```
    pub fn any_origin(source: impl TokenSource) -> Self {
        Self::with(Origins::any(Arc::new(source)))
    }

    fn with(origins: Origins) -> Self {
        Self {
            origins,
            header: AUTHORIZATION,
            resend: true,
        }
    }

    /// Sends another source's tokens to one more origin: Kubernetes makes a token for one audience. An
    /// origin named again gets the new source.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example(orders: impl TokenSource, stock: impl TokenSource) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://orders.example", orders)?
    ///     .and_origin("https://stock.example", stock)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Origin`] if no token may be sent there.
    pub fn and_origin(mut self, origin: &str, source: impl TokenSource) -> Result<Self, Error> {
        self.origins
            .add(origin, Arc::new(source), PlainHttp::LoopbackOnly)?;
        Ok(self)
    }

    /// The same with what [`insecure_http`](Self::insecure_http) gives up.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example(orders: impl TokenSource, stock: impl TokenSource) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://orders.example", orders)?
    ///     .and_insecure_http("http://stock.ns.svc", stock)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Origin`] if no token may be sent there.
    pub fn and_insecure_http(
        mut self,
        origin: &str,
        source: impl TokenSource,
    ) -> Result<Self, Error> {
        self.origins
            .add(origin, Arc::new(source), PlainHttp::Allowed)?;
        Ok(self)
    }

    /// Never sends a request again after a 401: saves the clone that is kept of each request for it.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error, TokenSource};
    /// # fn example(token: impl TokenSource) -> Result<(), Error> {
    /// let auth = BearerAuth::for_origin("https://auth-server.example", token)?.without_resend();
    /// # Ok(())
    /// # }
    /// ```
    pub fn without_resend(mut self) -> Self {
        self.resend = false;
        self
    }

    /// The token that a request to this URL would carry, without I/O: for clients that have no
    /// middleware, such as `reqwest::blocking`, ureq, or a tonic interceptor. Nothing where the URL is of
    /// no origin that tokens are sent to.
    ///
    /// ```
    /// # use reqwest_wi_auth::{BearerAuth, Error};
    /// # fn example(auth: BearerAuth) -> Result<(), Error> {
    /// if let Some(token) = auth.token_for("https://auth-server.example/private")? {
    ///     let header = ("authorization", token.header());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// What [`TokenSource::current`] says; [`Error::Origin`] for what is no URL.
    pub fn token_for(&self, url: &str) -> Result<Option<Token>, Error> {
        let parsed = Url::parse(url).map_err(|_| {
            let url = url.rsplit('@').next().unwrap_or_default().to_owned();
            Error::Origin {
                url,
                reason: "it is not a URL",
            }
        })?;
        let target = Target::of_url(&parsed);
        let source = target.and_then(|target| self.origins.source(target));
        if source.is_none() {
            telemetry::not_attached(target);
        }
        source.map(|source| source.current()).transpose()
    }

    /// Other headers than `Authorization` are for clients whose redirects are known.
    pub(crate) fn in_header(mut self, header: HeaderName) -> Self {
        self.header = header;
        self
    }

    pub(crate) fn resends(&self) -> bool {
        self.resend
    }

    /// Returns the source of the token that a request to this target carries.
    ///
    /// `None` if the request passes untouched: its target is not an origin that tokens are sent to, its `Host` header
    /// names another host, it is a `CONNECT` (which is read by a proxy), the caller has set the header, or its
    /// extensions say so.
    #[inline]
    pub(crate) fn source_for<'s>(
        &'s self,
        target: Option<Target<'_>>,
        method: &Method,
        headers: &HeaderMap,
        options: &'s Extensions,
    ) -> Option<&'s Arc<dyn TokenSource>> {
        let named = target.and_then(|target| Some((target, self.origins.source(target)?)));
        let Some((target, source)) = named else {
            telemetry::not_attached(target);
            return None;
        };
        self.allowed(target, source, method, headers, options)
    }

    /// Returns the source of the token that a request carries whose target is known to be sent tokens of `source`.
    #[inline]
    pub(crate) fn allowed<'s>(
        &self,
        target: Target<'_>,
        source: &'s Arc<dyn TokenSource>,
        method: &Method,
        headers: &HeaderMap,
        options: &'s Extensions,
    ) -> Option<&'s Arc<dyn TokenSource>> {
        // A header that the caller has set stays.
        if headers.contains_key(&self.header) {
            return None;
        }
        if *method == Method::CONNECT || !target.agrees_with_host(headers) {
            telemetry::not_attached(Some(target));
            return None;
        }
        if options.is_empty() {
            return Some(source);
        }
        if options.get::<SkipToken>().is_some() {
            return None;
        }
        let chosen = options
            .get::<UseSource>()
            .and_then(|chosen| chosen.for_header(&self.header));
        Some(chosen.unwrap_or(source))
    }

    /// Returns the origin that a URL names, with its source, if tokens are sent to it.
    pub(crate) fn origin_of(&self, url: &str) -> Option<(Origin, &Arc<dyn TokenSource>)> {
        let url = Url::parse(url).ok()?;
        self.origins.find(Target::of_url(&url)?)
    }

    pub(crate) fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Sets the header to a token.
    #[inline]
    pub(crate) fn put(&self, token: Token, headers: &mut HeaderMap) {
        headers.insert(&self.header, token.into_header());
    }
}

impl fmt::Debug for BearerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerAuth")
            .field("origins", &self.origins.names().collect::<Vec<_>>())
            .field("header", &self.header)
            .field("resend", &self.resend)
            .finish_non_exhaustive()
    }
}
