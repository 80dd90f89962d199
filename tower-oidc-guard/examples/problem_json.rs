//! Refusals as problem details (RFC 9457).
//!
//! `cargo run -p tower-oidc-guard --example problem_json --all-features`

use std::error::Error;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, Rejection};

/// Status, challenge and `Retry-After` stay as they are.
fn problem(rejection: &Rejection, answer: Response<Bytes>) -> Response<Bytes> {
    let status = answer.status();
    let problem = json!({
        "type": format!("https://errors.example/auth/{}", rejection.reason()),
        "title": rejection.to_string(),
        "status": status.as_u16(),
    });
    let mut answer = answer.map(|_| Bytes::from(problem.to_string()));
    let kind = HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let issuer = MemoryIssuer::new("https://cluster.example")?;
    let guard = OidcGuard::builder()
        .issuer(Issuer::kubernetes(issuer.url()).audience("me"))
        .http_client(issuer.client())
        .any_verified_caller()
        .rejection_response(problem)
        .build()?;
    let service = service_fn(|_| async {
        Ok::<_, Box<dyn Error + Send + Sync>>(Response::new(Full::<Bytes>::from("in")))
    });
    let service = guard.layer().layer(service);

    let expired = issuer.token().audience("me").claim("exp", 1).mint();
    let request = Request::get("/").header("authorization", format!("Bearer {expired}"));
    let answer = service
        .oneshot(request.body(Full::<Bytes>::default())?)
        .await;
    let answer = answer.map_err(|error| error.to_string())?;
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    let problem: Value = serde_json::from_slice(&body.to_bytes())?;
    println!("{problem:#}");
    assert_eq!(problem["type"], "https://errors.example/auth/expired");
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the test calls `run`")]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}
