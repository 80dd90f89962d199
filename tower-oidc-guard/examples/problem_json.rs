//! Rejections as problem details (RFC 9457).
//!
//! Run it with `cargo run -p tower-oidc-guard --example problem_json --features testing`.

use std::error::Error;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, Rejection};

/// Replaces the body of a rejection. The status, `WWW-Authenticate` and `Retry-After` stay unchanged.
fn problem(rejection: &Rejection, response: Response<Bytes>) -> Response<Bytes> {
    let status = response.status();
    let problem = json!({
        "type": format!("https://errors.example/auth/{}", rejection.reason()),
        "title": rejection.to_string(),
        "status": status.as_u16(),
    });
    let mut response = response.map(|_| Bytes::from(problem.to_string()));
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = MemoryIssuer::new("https://cluster.example")?;
    let guard = OidcGuard::builder()
        .issuer(Issuer::kubernetes(issuer.url()).audience("me"))
        .http_client(issuer.client())
        .any_verified_caller()
        .rejection_response(problem)
        .build()?;
    let service = service_fn(|_| async {
        Ok::<_, Box<dyn Error + Send + Sync>>(Response::new(Full::<Bytes>::from("admitted")))
    });
    let service = guard.layer().layer(service);

    let expired = issuer.token().audience("me").claim("exp", 1).mint();
    let request = Request::get("/").header("authorization", format!("Bearer {expired}"));
    let response = service
        .oneshot(request.body(Full::<Bytes>::default())?)
        .await;
    let response = response.map_err(|error| error.to_string())?;
    assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|error| error.to_string())?;
    let problem: Value = serde_json::from_slice(&body.to_bytes())?;
    println!("{problem:#}");
    assert_eq!(problem["type"], "https://errors.example/auth/expired");
    Ok(())
}
