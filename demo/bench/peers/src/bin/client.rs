//! Sends requests one after the other over one connection.
//!
//! `client <middleware> <url> <token file> <requests>`, where the middleware is one of `reqwest` (none), `noop`, `header`
//! (adds a constant value), `bearer-auth`, `bearer-auth-sent-once`, `huskarl`, `kube-rs` and `google-cloud-auth`. The last
//! two do the work that these crates do for each request.

#[allow(dead_code)]
#[path = "../../../../../reqwest-wi-auth/benches/targets/other_clients.rs"]
mod other_clients;

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bench_peers::{AnyResult, arguments};
use http::{Extensions, HeaderMap, HeaderValue, Uri};
use huskarl::authorizer::HttpAuthorizer;
use huskarl::cache::{InMemoryTokenCache, TokenError, TokenSource};
use huskarl::core::RetryAdvice;
use huskarl::core::platform::MaybeSendBoxFuture;
use huskarl::grant::core::{RawTokenResponse, TokenResponse};
use reqwest::{Client, Request, Response};
use reqwest_middleware::{ClientBuilder, Error, Middleware, Next};
use reqwest_wi_auth::{BearerAuth, ProjectedToken};

use crate::other_clients::{GoogleCloudAuth, KubeRs};

/// A middleware that changes the headers of each request.
struct ChangeHeaders<F>(F);

#[async_trait]
impl<F: Fn(&mut HeaderMap) + Send + Sync + 'static> Middleware for ChangeHeaders<F> {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        (self.0)(request.headers_mut());
        next.run(request, extensions).await
    }
}

/// The source of huskarl's token, which is the content of a file.
struct FileToken(String);

impl TokenSource for FileToken {
    fn token(&self) -> MaybeSendBoxFuture<'_, Result<Arc<TokenResponse>, TokenError>> {
        Box::pin(async {
            let response = RawTokenResponse::builder()
                .access_token(self.0.clone())
                .token_type("Bearer")
                .build();
            let response = response.into_token_response(None, SystemTime::now());
            let invalid = |error| huskarl::core::Error::new(RetryAdvice::No, error);
            Ok(Arc::new(response.map_err(invalid)?))
        })
    }
}

/// The request loop that huskarl's documentation describes, with its cache of the token.
struct Huskarl(HttpAuthorizer);

#[async_trait]
impl Middleware for Huskarl {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let uri: Uri = request.url().as_str().parse().map_err(Error::middleware)?;
        let headers = self.0.get_headers(request.method(), &uri).await;
        let headers = headers.map_err(Error::middleware)?;
        request.headers_mut().extend(headers);
        let response = next.run(request, extensions).await?;
        self.0.process_response(&uri, response.headers());
        Ok(response)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> AnyResult {
    let [middleware, url, file, requests] =
        arguments("<middleware> <url> <token file> <requests>")?;
    let (token, requests) = (std::fs::read_to_string(&file)?, requests.parse()?);
    let origin = reqwest::Url::parse(&url)?.origin().ascii_serialization();
    let plain = Client::builder().no_proxy().build()?;
    if middleware == "reqwest" {
        for _ in 0..requests {
            finish(plain.get(&url).send().await?).await?;
        }
        return Ok(());
    }
    let client = ClientBuilder::new(plain);
    let client = match middleware.as_str() {
        "noop" => client.with(ChangeHeaders(|_: &mut HeaderMap| {})),
        "header" => {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            client.with(ChangeHeaders(move |headers: &mut HeaderMap| {
                headers.insert("authorization", value.clone());
            }))
        }
        "bearer-auth" => {
            let token = ProjectedToken::open(&file).await?;
            client.with(BearerAuth::insecure_http(&origin, token)?)
        }
        "bearer-auth-sent-once" => {
            let token = ProjectedToken::open(&file).await?;
            client.with(BearerAuth::insecure_http(&origin, token)?.without_resend())
        }
        "huskarl" => {
            let cache = InMemoryTokenCache::builder().source(FileToken(token));
            let authorizer = HttpAuthorizer::builder().cache(cache.build());
            client.with(Huskarl(authorizer.build()))
        }
        "kube-rs" => {
            let auth = KubeRs::new(&token);
            client.with(ChangeHeaders(move |headers: &mut HeaderMap| {
                auth.set_header(headers)
            }))
        }
        "google-cloud-auth" => {
            let auth = GoogleCloudAuth::new(&token);
            client.with(ChangeHeaders(move |headers: &mut HeaderMap| {
                auth.set_header(headers)
            }))
        }
        other => return Err(format!("unknown middleware {other:?}").into()),
    };
    let client = client.build();
    for _ in 0..requests {
        finish(client.get(&url).send().await?).await?;
    }
    Ok(())
}

async fn finish(response: Response) -> AnyResult {
    response.error_for_status()?.bytes().await?;
    Ok(())
}
