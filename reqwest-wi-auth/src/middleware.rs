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
        let Some(source) = self.source(target, request.headers(), extensions) else {
            return next.run(request, extensions).await;
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
            .insert(self.header(), token.header().clone());
        // A body that is streamed cannot be sent again.
        let again = self.resends().then(|| request.try_clone()).flatten();
        let Some(again) = again else {
            return next.run(request, extensions).await;
        };
        let source = source.clone();
        let response = next.clone().run(request, extensions).await?;
        match self.renewed(&source, &token, again, &response).await {
            Some(again) => next.run(again, extensions).await,
            None => Ok(response),
        }
    }
}

impl BearerAuth {
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
        let token = source
            .refresh(Some(rejected))
            .await
            .ok()
            .filter(|token| token != rejected)?;
        telemetry::resent();
        request
            .headers_mut()
            .insert(self.header(), token.header().clone());
        Some(request)
    }
}
