//! A loop of requests, one after the other on one connection.
//!
//! `client <way> <url> <token file> <requests>`, where the way is `reqwest`, `noop`, `header` (a header value that
//! stays as it is), `bearer-auth`, `bearer-auth-sent-once`, `kube-rs` or `google-cloud-auth`; the last two do for each
//! request what those do.

#[allow(dead_code)]
#[path = "../../../../../reqwest-wi-auth/benches/targets/others.rs"]
mod others;

use async_trait::async_trait;
use bench_peers::{Anything, arguments};
use http::{Extensions, HeaderMap, HeaderValue};
use reqwest::{Client, Request, Response};
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use reqwest_wi_auth::{BearerAuth, ProjectedToken};

use crate::others::{GoogleCloudAuth, KubeRs};

/// Changes the headers, and sends.
struct Before<F>(F);

#[async_trait]
impl<F: Fn(&mut HeaderMap) + Send + Sync + 'static> Middleware for Before<F> {
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
async fn main() -> Anything {
    let [way, url, file, requests] = arguments("<way> <url> <token file> <requests>")?;
    let (token, requests) = (std::fs::read_to_string(&file)?, requests.parse()?);
    let plain = Client::builder().no_proxy().build()?;
    if way == "reqwest" {
        for _ in 0..requests {
            finish(plain.get(&url).send().await?).await?;
        }
        return Ok(());
    }
    let client = ClientBuilder::new(plain);
    let client = match way.as_str() {
        "noop" => client.with(Before(|_: &mut HeaderMap| {})),
        "header" => {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))?;
            value.set_sensitive(true);
            client.with(Before(move |headers: &mut HeaderMap| {
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
            client.with(Before(move |headers: &mut HeaderMap| auth.put(headers)))
        }
        "google-cloud-auth" => {
            let auth = GoogleCloudAuth::new(&token);
            client.with(Before(move |headers: &mut HeaderMap| auth.put(headers)))
        }
        other => return Err(format!("no such way: {other}").into()),
    };
    let client = client.build();
    for _ in 0..requests {
        finish(client.get(&url).send().await?).await?;
    }
    Ok(())
}

async fn finish(response: Response) -> Anything {
    response.error_for_status()?.bytes().await?;
    Ok(())
}
