//! The adapter for reqwest: attaches the token to the request, and sends the request once more after a 401.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use http::{Extensions, HeaderName, StatusCode};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};

use crate::bearer_auth::{BearerAuth, Resend};
use crate::error::Error;
use crate::origins::OriginRef;
use crate::source::TokenSource;
use crate::telemetry;
use crate::token::Token;

/// If there is no token to send, the request fails with a [`reqwest_middleware::Error::Middleware`] whose source is the
/// [`Error`]. [`Error::find`] finds it, even if other middleware has wrapped it.
#[async_trait::async_trait]
impl Middleware for BearerAuth {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let origin = OriginRef::from_url(request.url());
        let source = self.source_for(origin, request.method(), request.headers(), extensions);
        if let Some(source) = source {
            let outer = Attempt::current(extensions);
            if outer.is_none() && self.resend() == Resend::Once {
                let source = source.into_owned();
                // Boxed separately, so that the future of a request that is never sent again stays small.
                return Box::pin(self.send(source, request, extensions, next)).await;
            }
            let replacement = outer
                .as_ref()
                .and_then(|outer| outer.replacement(self.header()));
            let token = match replacement {
                Some(token) => token,
                None => current_or_refreshed(&source).await?,
            };
            if let Some(outer) = outer
                && self.resend() == Resend::Once
            {
                outer.register(self.header(), &source, &token);
            }
            self.attach(token, request.headers_mut());
        }
        next.run(request, extensions).await
    }
}

async fn current_or_refreshed(source: &Arc<dyn TokenSource>) -> reqwest_middleware::Result<Token> {
    if let Ok(token) = source.current() {
        return Ok(token);
    }
    let refreshed = source.refresh(None).await;
    refreshed.map_err(Error::into_middleware_error)
}

impl BearerAuth {
    /// Sends a request, and sends it once more after a 401 if a source has a newer token.
    ///
    /// If a client has several `BearerAuth`, the outermost one does this for all of them: the inner ones register their
    /// tokens with its [`Attempt`].
    async fn send(
        &self,
        source: Arc<dyn TokenSource>,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let token = current_or_refreshed(&source).await?;
        self.attach(token.clone(), request.headers_mut());
        // A request with a streamed body cannot be cloned.
        let Some(mut second) = request.try_clone() else {
            return next.run(request, extensions).await;
        };
        let attempt = Arc::<Attempt>::default();
        attempt.register(self.header(), &source, &token);
        extensions.insert(CurrentAttempt(Arc::downgrade(&attempt)));
        let response = next.clone().run(request, extensions).await?;
        // After a redirect the response may be from another origin, which must not receive the newer token.
        if response.status() != StatusCode::UNAUTHORIZED
            || response.url().origin() != second.url().origin()
        {
            return Ok(response);
        }
        if !attempt.refresh().await {
            telemetry::not_resent(second.url());
            return Ok(response);
        }
        telemetry::resent(second.url());
        if let Some(token) = attempt.replacement(self.header()) {
            self.attach(token, second.headers_mut());
        }
        next.run(second, extensions).await
    }
}

/// The tokens that a request was sent with, and those that replace them when it is sent again.
#[derive(Default)]
struct Attempt(Mutex<Vec<SentToken>>);

struct SentToken {
    header: HeaderName,
    source: Arc<dyn TokenSource>,
    token: Token,
    replacement: Option<Token>,
}

/// A request extension by which an inner `BearerAuth` finds the attempt of the outermost one.
///
/// The reference is weak, so that a retry of the whole request by other middleware begins a new attempt.
#[derive(Clone)]
struct CurrentAttempt(Weak<Attempt>);

impl Attempt {
    fn current(extensions: &Extensions) -> Option<Arc<Self>> {
        extensions.get::<CurrentAttempt>()?.0.upgrade()
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<SentToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the token that the request carries in a header.
    fn register(&self, header: &HeaderName, source: &Arc<dyn TokenSource>, token: &Token) {
        let mut tokens = self.tokens();
        // The header is registered already if middleware in between has retried the request.
        tokens.retain(|sent| sent.header != *header);
        tokens.push(SentToken {
            header: header.clone(),
            source: source.clone(),
            token: token.clone(),
            replacement: None,
        });
    }

    /// Returns the token that replaces the one in a header, or `None` before [`refresh`](Self::refresh).
    fn replacement(&self, header: &HeaderName) -> Option<Token> {
        let tokens = self.tokens();
        let sent = tokens.iter().find(|sent| sent.header == *header)?;
        sent.replacement.clone()
    }

    /// Refreshes all tokens concurrently, since a 401 does not tell which token was rejected. Returns whether any of them
    /// has changed. A token that could not be refreshed is kept.
    async fn refresh(&self) -> bool {
        let rejected: Vec<_> = self
            .tokens()
            .iter()
            .map(|sent| (sent.source.clone(), sent.token.clone()))
            .collect();
        let refreshes = rejected.iter().map(async |(source, token)| {
            let newest = source.refresh(Some(token)).await.ok();
            newest.filter(|newest| newest != token)
        });
        let newest = join_all(refreshes).await;
        let is_any_newer = newest.iter().any(Option::is_some);
        for ((sent, newest), (_, token)) in self.tokens().iter_mut().zip(newest).zip(rejected) {
            sent.replacement = Some(newest.unwrap_or(token));
        }
        is_any_newer
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
