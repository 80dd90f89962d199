//! The reqwest adapter: attaches the token to the request, and sends the request once more after a 401.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;

use http::{Extensions, HeaderName, StatusCode};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};

use crate::bearer_auth::BearerAuth;
use crate::error::Error;
use crate::origins::Target;
use crate::source::TokenSource;
use crate::telemetry;
use crate::token::Token;

/// A token that cannot be had is a [`reqwest_middleware::Error::Middleware`] whose `source()` is the
/// [`Error`](crate::Error); [`Error::find`](crate::Error::find) finds it beneath other middleware too.
#[async_trait::async_trait]
impl Middleware for BearerAuth {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let target = Target::of_url(request.url());
        let source = self.source_for(target, request.method(), request.headers(), extensions);
        if let Some(source) = source {
            let outer = Attempt::in_progress(extensions);
            if outer.is_none() && self.resends() {
                let source = source.clone();
                // In a box of its own, so that requests that are sent once have a small future.
                return Box::pin(self.send(source, request, extensions, next)).await;
            }
            let token = match outer
                .as_ref()
                .and_then(|outer| outer.replacement(self.header()))
            {
                Some(token) => token,
                None => current(source).await?,
            };
            if let Some(outer) = outer
                && self.resends()
            {
                outer.add(self.header(), source, &token);
            }
            self.put(token, request.headers_mut());
        }
        next.run(request, extensions).await
    }
}

async fn current(source: &Arc<dyn TokenSource>) -> reqwest_middleware::Result<Token> {
    if let Ok(token) = source.current() {
        return Ok(token);
    }
    let renewed = source.refresh(None).await;
    renewed.map_err(Error::into_middleware_error)
}

impl BearerAuth {
    /// Sends a request, and once more where that can help.
    ///
    /// Among several `BearerAuth` on one client, the outermost does this for all of them: those beneath it register
    /// their tokens with its [`Attempt`].
    async fn send(
        &self,
        source: Arc<dyn TokenSource>,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let token = current(&source).await?;
        self.put(token.clone(), request.headers_mut());
        // A body that is streamed cannot be sent again.
        let Some(mut again) = request.try_clone() else {
            return next.run(request, extensions).await;
        };
        let attempt = Arc::<Attempt>::default();
        attempt.add(self.header(), &source, &token);
        extensions.insert(InProgress(Arc::downgrade(&attempt)));
        let response = next.clone().run(request, extensions).await?;
        // After a redirect the response may be another host's, which must not be sent the token.
        if response.status() != StatusCode::UNAUTHORIZED
            || response.url().origin() != again.url().origin()
        {
            return Ok(response);
        }
        if !attempt.refresh().await {
            telemetry::not_resent(again.url());
            return Ok(response);
        }
        telemetry::resent(again.url());
        if let Some(token) = attempt.replacement(self.header()) {
            self.put(token, again.headers_mut());
        }
        next.run(again, extensions).await
    }
}

/// One attempt at a request: the tokens that it was sent with, and those for sending it again.
#[derive(Default)]
struct Attempt(Mutex<Vec<Sent>>);

/// A token that a request was sent with.
struct Sent {
    header: HeaderName,
    source: Arc<dyn TokenSource>,
    token: Token,
    replacement: Option<Token>,
}

/// As an extension of a request: a `BearerAuth` further out sends it again if that is needed. The attempt is over when
/// the reference leads nowhere, so that a retry of the whole request starts afresh.
#[derive(Clone)]
struct InProgress(Weak<Attempt>);

impl Attempt {
    fn in_progress(extensions: &Extensions) -> Option<Arc<Self>> {
        extensions.get::<InProgress>()?.0.upgrade()
    }

    fn sent(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, header: &HeaderName, source: &Arc<dyn TokenSource>, token: &Token) {
        let mut sent = self.sent();
        // Middleware in between may have retried the request.
        sent.retain(|sent| sent.header != *header);
        sent.push(Sent {
            header: header.clone(),
            source: source.clone(),
            token: token.clone(),
            replacement: None,
        });
    }

    fn replacement(&self, header: &HeaderName) -> Option<Token> {
        let sent = self.sent();
        let sent = sent.iter().find(|sent| sent.header == *header)?;
        sent.replacement.clone()
    }

    /// Asks all sources at once for newer tokens, since a 401 does not say which token was rejected. Returns whether
    /// there is any newer one; a source that has none keeps the token it had.
    async fn refresh(&self) -> bool {
        let rejected: Vec<_> = self
            .sent()
            .iter()
            .map(|sent| (sent.source.clone(), sent.token.clone()))
            .collect();
        let refreshes = rejected.iter().map(async |(source, token)| {
            let newest = source.refresh(Some(token)).await.ok();
            newest.filter(|newest| newest != token)
        });
        let newest = join_all(refreshes).await;
        let is_any_newer = newest.iter().any(Option::is_some);
        for ((sent, newest), (_, token)) in self.sent().iter_mut().zip(newest).zip(rejected) {
            sent.replacement = Some(newest.unwrap_or(token));
        }
        is_any_newer
    }
}

/// Runs futures concurrently and returns their results in order.
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
