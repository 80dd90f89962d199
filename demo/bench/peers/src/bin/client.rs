//! Sends requests one after the other over one connection.
//!
//! `client <middleware> <url> <token file> <requests>`, where the middleware is one of `reqwest` (none), `noop`, `header`
//! (adds a constant value), `bearer-auth`, `bearer-auth-sent-once`, `kube-rs` and `google-cloud-auth`. The last two do the
//! work that these crates do for each request.

#[allow(dead_code)]
#[path = "../../../../../reqwest-wi-auth/benches/targets/other_clients.rs"]
mod other_clients;

use async_trait::async_trait;
use bench_peers::{AnyResult, arguments};
use http::{Extensions, HeaderMap, HeaderValue};
use reqwest::{Client, Request, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
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

#[tokio::main(flavor = "current_thread")]
async fn main() -> AnyResult {
    let [middleware, url, file, requests] =
        arguments("<middleware> <url> <token file> <requests>")?;
    let (token, requests) = (std::fs::read_to_string(&file)?, requests.parse()?);
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
            client.with(BearerAuth::insecure_http(&url, token)?)
        }
        "bearer-auth-sent-once" => {
            let token = ProjectedToken::open(&file).await?;
            client.with(BearerAuth::insecure_http(&url, token)?.without_resend())
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
