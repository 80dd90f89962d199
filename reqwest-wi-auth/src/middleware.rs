//! The adapter for reqwest: attaches the token to the request, and sends the request once more after a 401.

mod kept_request;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use http::{Extensions, HeaderName, StatusCode};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};

use self::kept_request::KeptRequest;
use crate::bearer_auth::{BearerAuth, Resend};
use crate::error::Error;
use crate::origins::OriginRef;
use crate::source::TokenSource;
use crate::telemetry;
use crate::token::Token;

type BoxFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// If there is no token to send, the request fails with a [`reqwest_middleware::Error::Middleware`] whose source is the
/// [`Error`]. [`Error::find`] finds it, even if other middleware has wrapped it.
impl Middleware for BearerAuth {
    /// Written without the macro `async_trait`, so that the future that is boxed is the one that the request needs: that of a
    /// request that is never sent again is smaller.
    fn handle<'s, 'e, 'n, 'f>(
        &'s self,
        request: Request,
        extensions: &'e mut Extensions,
        next: Next<'n>,
    ) -> BoxFuture<'f, reqwest_middleware::Result<Response>>
    where
        's: 'f,
        'e: 'f,
        'n: 'f,
        Self: 'f,
    {
        match self.resend() {
            Resend::Once => self.send(request, extensions, next),
            Resend::Never => self.send_once(request, extensions, next),
        }
    }
}

async fn current_or_refreshed(source: &Arc<dyn TokenSource>) -> reqwest_middleware::Result<Token> {
    if let Ok(token) = source.current() {
        return Ok(token);
    }
    let refreshed = source.refresh(None).await;
    refreshed.map_err(Error::into_middleware_error)
}

// The futures are blocks in boxes, since the arguments of an `async fn` take up its future twice.
impl BearerAuth {
    /// Sends a request.
    fn send_once<'f>(
        &'f self,
        mut request: Request,
        extensions: &'f mut Extensions,
        next: Next<'f>,
    ) -> BoxFuture<'f, reqwest_middleware::Result<Response>> {
        Box::pin(async move {
            let origin = OriginRef::from_url(request.url());
            let source = self.source_for(origin, request.method(), request.headers(), extensions);
            if let Some(source) = source {
                let outer = Attempt::current(extensions);
                let token = self.token_of_attempt(outer.as_deref(), &source).await?;
                self.attach(token, request.headers_mut());
            }
            next.run(request, extensions).await
        })
    }

    /// Sends a request, and sends it once more after a 401 if a source has a newer token.
    ///
    /// If a client has several `BearerAuth`, the outermost one does this for all of them: the inner ones register their
    /// tokens with its [`Attempt`].
    fn send<'f>(
        &'f self,
        mut request: Request,
        extensions: &'f mut Extensions,
        next: Next<'f>,
    ) -> BoxFuture<'f, reqwest_middleware::Result<Response>> {
        Box::pin(async move {
            let origin = OriginRef::from_url(request.url());
            let source = self.source_for(origin, request.method(), request.headers(), extensions);
            let Some(source) = source else {
                return next.run(request, extensions).await;
            };
            let outer = Attempt::current(extensions);
            let token = self.token_of_attempt(outer.as_deref(), &source).await?;
            if let Some(outer) = outer {
                outer.register(self.header(), &source, &token);
                drop(outer);
                self.attach(token, request.headers_mut());
                return next.run(request, extensions).await;
            }
            let Some(kept) = KeptRequest::copy(&mut request) else {
                self.attach(token, request.headers_mut());
                return next.run(request, extensions).await;
            };
            self.attach(token.clone(), request.headers_mut());
            let sent = SentToken::new(self.header().clone(), source.into_owned(), token);
            let attempt = Arc::new(Attempt::new(sent));
            extensions.insert(CurrentAttempt(Arc::downgrade(&attempt)));
            let response = next.clone().run(request, extensions).await?;
            if response.status() != StatusCode::UNAUTHORIZED || !kept.is_answered_by(&response) {
                return Ok(response);
            }
            self.send_again(attempt, kept, response, extensions, next)
                .await
        })
    }

    /// Sends a request once more if a source has a newer token. Otherwise returns the response to the first attempt.
    fn send_again<'f>(
        &'f self,
        attempt: Arc<Attempt>,
        kept: KeptRequest,
        response: Response,
        extensions: &'f mut Extensions,
        next: Next<'f>,
    ) -> BoxFuture<'f, reqwest_middleware::Result<Response>> {
        Box::pin(async move {
            if !attempt.refresh().await {
                telemetry::not_resent(kept.url());
                return Ok(response);
            }
            telemetry::resent(kept.url());
            let Some(mut second) = kept.into_request() else {
                return Ok(response);
            };
            if let Some(token) = attempt.replacement_of_first() {
                self.attach(token, second.headers_mut());
            }
            next.run(second, extensions).await
        })
    }

    /// Returns the token that replaces the one of the first attempt, or else the token of a source.
    async fn token_of_attempt(
        &self,
        attempt: Option<&Attempt>,
        source: &Arc<dyn TokenSource>,
    ) -> reqwest_middleware::Result<Token> {
        match attempt.and_then(|attempt| attempt.replacement(self.header(), source)) {
            Some(token) => Ok(token),
            None => current_or_refreshed(source).await,
        }
    }
}

/// The tokens that a request was sent with, and those that replace them when it is sent again.
struct Attempt(Mutex<SentTokens>);

struct SentTokens {
    /// The token of the outermost `BearerAuth`. Apart from the others, since most requests have no other.
    first: SentToken,
    others: Vec<SentToken>,
}

struct SentToken {
    header: HeaderName,
    source: Arc<dyn TokenSource>,
    token: Token,
    replacement: Option<Token>,
}

impl SentToken {
    fn new(header: HeaderName, source: Arc<dyn TokenSource>, token: Token) -> Self {
        Self {
            header,
            source,
            token,
            replacement: None,
        }
    }
}

/// A request extension by which an inner `BearerAuth` finds the attempt of the outermost one.
///
/// The reference is weak, so that a retry of the whole request by other middleware begins a new attempt.
#[derive(Clone)]
struct CurrentAttempt(Weak<Attempt>);

impl Attempt {
    fn new(first: SentToken) -> Self {
        let others = Vec::new();
        Self(Mutex::new(SentTokens { first, others }))
    }

    fn current(extensions: &Extensions) -> Option<Arc<Self>> {
        extensions.get::<CurrentAttempt>()?.0.upgrade()
    }

    fn tokens(&self) -> MutexGuard<'_, SentTokens> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the token that the request carries in a header.
    fn register(&self, header: &HeaderName, source: &Arc<dyn TokenSource>, token: &Token) {
        let sent = SentToken::new(header.clone(), source.clone(), token.clone());
        let mut tokens = self.tokens();
        // The header is registered already if middleware in between has retried the request.
        match tokens.find_mut(header) {
            Some(known) => *known = sent,
            None => tokens.others.push(sent),
        }
    }

    /// Returns the token that replaces the one from this source in a header, or `None` before [`refresh`](Self::refresh).
    ///
    /// Middleware in between may have sent the request to another origin, whose token is from another source.
    fn replacement(&self, header: &HeaderName, source: &Arc<dyn TokenSource>) -> Option<Token> {
        let mut tokens = self.tokens();
        let sent = tokens.find_mut(header)?;
        let is_same_source = Arc::ptr_eq(&sent.source, source);
        sent.replacement.clone().filter(|_| is_same_source)
    }

    /// Returns the token that replaces the one of the outermost `BearerAuth`, or `None` before [`refresh`](Self::refresh).
    fn replacement_of_first(&self) -> Option<Token> {
        self.tokens().first.replacement.clone()
    }

    /// Refreshes all tokens concurrently, since a 401 does not tell which token was rejected. Returns whether any of them
    /// has changed. A token that could not be refreshed is kept.
    async fn refresh(&self) -> bool {
        let rejected: Vec<_> = self
            .tokens()
            .iter_mut()
            .map(|sent| (sent.source.clone(), sent.token.clone()))
            .collect();
        let refreshes = rejected.iter().map(async |(source, token)| {
            let newest = source.refresh(Some(token)).await.ok();
            newest.filter(|newest| newest != token)
        });
        let newest = join_all(refreshes).await;
        let is_any_newer = newest.iter().any(Option::is_some);
        let mut tokens = self.tokens();
        for ((sent, newest), (_, token)) in tokens.iter_mut().zip(newest).zip(rejected) {
            sent.replacement = Some(newest.unwrap_or(token));
        }
        is_any_newer
    }
}

impl SentTokens {
    fn iter_mut(&mut self) -> impl Iterator<Item = &mut SentToken> {
        std::iter::once(&mut self.first).chain(&mut self.others)
    }

    fn find_mut(&mut self, header: &HeaderName) -> Option<&mut SentToken> {
        if self.first.header == *header {
            return Some(&mut self.first);
        }
        self.others.iter_mut().find(|sent| sent.header == *header)
    }
}

/// Runs futures concurrently, and returns their results in order.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|cx| {
        let mut is_pending = false;
        for (future, output) in &mut futures {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => is_pending = true,
                }
            }
        }
        if is_pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    futures
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}
