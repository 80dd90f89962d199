//! The reqwest adapter: puts the token on the request, and sends it once more after a 401.

use std::sync::Arc;

use http::{Extensions, StatusCode};
use reqwest::{Request, Response};
use reqwest_middleware::{Middleware, Next};

use crate::bearer_auth::BearerAuth;
use crate::origins::Target;
use crate::source::TokenSource;
use crate::telemetry;
use crate::token::Token;

/// Errors are [`reqwest_middleware::Error::Middleware`], which can be downcast to [`Error`](crate::Error).
#[async_trait::async_trait]
impl Middleware for BearerAuth {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let target = Target::of_url(request.url());
        if let Some(source) = self.source(target, extensions)
            && !self.is_set(request.headers())
        {
            if self.resends() {
                let source = source.clone();
                // In a box of its own, so that requests that are sent once have a small future.
                return Box::pin(self.send(source, request, extensions, next)).await;
            }
            let token = match source.current() {
                Ok(token) => token,
                Err(_) => renew(source).await?,
            };
            self.put(token, request.headers_mut());
        }
        next.run(request, extensions).await
    }
}

async fn renew(source: &Arc<dyn TokenSource>) -> reqwest_middleware::Result<Token> {
    let renewed = source.refresh(None).await;
    renewed.map_err(reqwest_middleware::Error::middleware)
}

impl BearerAuth {
    /// Sends a request, and once more where that can help.
    async fn send(
        &self,
        source: Arc<dyn TokenSource>,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let token = match source.current() {
            Ok(token) => token,
            Err(_) => renew(&source).await?,
        };
        self.put(token.clone(), request.headers_mut());
        // A body that is streamed cannot be sent again.
        let Some(again) = request.try_clone() else {
            return next.run(request, extensions).await;
        };
        let response = next.clone().run(request, extensions).await?;
        match self.renewed(&source, &token, again, &response).await {
            Some(again) => next.run(again, extensions).await,
            None => Ok(response),
        }
    }

    /// The request with another token, where sending it again can help and is safe.
    async fn renewed(
        &self,
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
        let newest = source.refresh(Some(rejected)).await.ok();
        let token = newest.filter(|token| token != rejected)?;
        telemetry::resent();
        self.put(token, request.headers_mut());
        Some(request)
    }
}
