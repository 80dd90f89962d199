//! The reqwest adapter: puts the token on the request, and sends it once more after a 401.

use std::fmt;
use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{Extensions, StatusCode};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};

use crate::error::Error;
use crate::origins::Origins;
use crate::source::TokenSource;
use crate::token::Token;

/// Puts the current token on requests to the origins it was made for, and on no others.
///
/// Lay it nearest to the client: [`reqwest_middleware::ClientBuilder`] calls first what was added first,
/// so tracing comes first, then retry, then this. Middleware behind it that rewrites the URL sends the
/// token wherever it likes.
///
/// A request that carries an `Authorization` header already keeps it. After a 401 from the same origin,
/// the request is sent once more if the source has another token by then and the body can be sent again
/// (a streamed one cannot).
///
/// Where there is no token, the request is not sent: the error is a
/// [`reqwest_middleware::Error::Middleware`] that can be downcast to [`Error`].
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
        Self {
            origins: Origins::new(),
            resend: true,
        }
        .and_origin(origin, source)
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
        self.origins.add(origin, Arc::new(source))?;
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
}

#[async_trait::async_trait]
impl Middleware for BearerAuth {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let source = match self.origins.source(request.url()) {
            Some(source) if !request.headers().contains_key(AUTHORIZATION) => source,
            _ => return next.run(request, extensions).await,
        };
        let token = match source.current() {
            Ok(token) => token,
            Err(_) => source
                .refresh(None)
                .await
                .map_err(reqwest_middleware::Error::middleware)?,
        };
        request
            .headers_mut()
            .insert(AUTHORIZATION, token.header().clone());
        let again = self.resend.then(|| request.try_clone()).flatten();
        let Some(again) = again else {
            return next.run(request, extensions).await;
        };
        let response = next.clone().run(request, extensions).await?;
        match renewed(source, &token, again, &response).await {
            Some(again) => next.run(again, extensions).await,
            None => Ok(response),
        }
    }
}

/// The request with another token, where sending it again can help and is safe.
async fn renewed(
    source: &Arc<dyn TokenSource>,
    rejected: &Token,
    mut request: Request,
    response: &Response,
) -> Option<Request> {
    if response.status() != StatusCode::UNAUTHORIZED {
        return None;
    }
    // After a redirect the answer may be another host's, which is not to be told the token.
    if response.url().origin() != request.url().origin() {
        return None;
    }
    let token = source
        .refresh(Some(rejected))
        .await
        .ok()
        .filter(|token| token != rejected)?;
    tracing::debug!("sending again with a newer token after a 401");
    request
        .headers_mut()
        .insert(AUTHORIZATION, token.header().clone());
    Some(request)
}

impl fmt::Debug for BearerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BearerAuth")
            .field("origins", &self.origins.names().collect::<Vec<_>>())
            .field("resend", &self.resend)
            .finish_non_exhaustive()
    }
}
