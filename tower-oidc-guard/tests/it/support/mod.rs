//! What several of the tests need.

pub mod in_memory;
#[cfg(unix)]
pub mod kubernetes;
pub mod signer;

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use reqwest::ResponseBuilderExt as _;
use reqwest_middleware::{ClientWithMiddleware, Middleware, Next};
use tower_oidc_guard::{Identity, Issuer, OidcGuard, OidcGuardBuilder, testing::TestIssuer};

pub const AUDIENCE: &str = "https://auth-server.example";

/// A guard that trusts the issuer for [`AUDIENCE`], with a leeway of nothing.
pub fn guard(issuer: &str) -> OidcGuard {
    OidcGuard::builder()
        .issuer(trusted_issuer(issuer))
        .any_verified_caller()
        .build()
        .unwrap()
}

pub fn trusted_issuer(issuer: &str) -> Issuer {
    Issuer::kubernetes(issuer)
        .audience(AUDIENCE)
        .leeway(Duration::ZERO)
        .insecure_loopback_http()
}

/// A token that such a guard takes.
pub fn valid_token(issuer: &TestIssuer) -> String {
    issuer
        .token()
        .audience(AUDIENCE)
        .service_account("id-namespace", "gke-sa")
        .mint()
}

pub type Body = Empty<bytes::Bytes>;

/// A request with these `Authorization` headers.
pub fn request(authorization: &[&str]) -> Request<Body> {
    let mut request = Request::new(Body::new());
    for value in authorization {
        let value = http::HeaderValue::from_str(value).unwrap();
        request
            .headers_mut()
            .append(http::header::AUTHORIZATION, value);
    }
    request
}

pub fn bearer_request(token: &str) -> Request<Body> {
    request(&[&format!("Bearer {token}")])
}

/// Answers with the subject of the caller, as text.
pub async fn echo_subject(
    request: Request<Body>,
) -> Result<Response<String>, std::convert::Infallible> {
    let caller = request.extensions().get::<Identity>();
    let subject = caller.map_or("nobody", Identity::subject);
    Ok(Response::new(subject.to_owned()))
}

pub async fn body_text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: std::fmt::Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub fn unix_time(since_epoch: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(since_epoch)
}

/// Lets the tokio clock stand `duration` further on, without anything waiting for it.
pub async fn advance_clock(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

/// An HTTP client that answers from these documents instead of from the network.
pub fn document_client(documents: HashMap<String, Vec<u8>>) -> ClientWithMiddleware {
    reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
        .with(Canned(documents))
        .build()
}

/// An HTTP client whose requests this function answers.
pub fn mock_client(
    answer: impl Fn(&reqwest::Request) -> Response<Vec<u8>> + Send + Sync + 'static,
) -> ClientWithMiddleware {
    reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
        .with(Answering(answer))
        .build()
}

struct Answering<F>(F);

#[async_trait]
impl<F> Middleware for Answering<F>
where
    F: Fn(&reqwest::Request) -> Response<Vec<u8>> + Send + Sync + 'static,
{
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut http::Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let (mut parts, body) = (self.0)(&request).into_parts();
        let response = Response::builder()
            .status(parts.status)
            .url(request.url().clone());
        let mut response = response.body(body).unwrap();
        response.headers_mut().extend(parts.headers.drain());
        Ok(response.into())
    }
}

struct Canned(HashMap<String, Vec<u8>>);

#[async_trait]
impl Middleware for Canned {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut http::Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let document = self.0.get(request.url().as_str());
        let status = if document.is_some() { 200 } else { 404 };
        let response = Response::builder()
            .status(status)
            .url(request.url().clone());
        Ok(response
            .body(document.cloned().unwrap_or_default())
            .unwrap()
            .into())
    }
}

pub const ISSUER_URL: &str = "https://issuer.example";
/// The second at which guards of forged tokens live.
pub const NOW: u64 = 1_800_000_000;

/// A guard of an issuer that publishes these keys, for [`AUDIENCE`], with a leeway of nothing.
pub fn guard_with_keys(keys: &[serde_json::Value]) -> OidcGuard {
    guard_builder_with_keys(keys, issuer_settings())
        .any_verified_caller()
        .build()
        .unwrap()
}

/// The issuer of forged tokens, for [`AUDIENCE`], with a leeway of nothing.
pub fn issuer_settings() -> Issuer {
    Issuer::oidc(ISSUER_URL)
        .audience(AUDIENCE)
        .leeway(Duration::ZERO)
}

/// Settings of a guard of that issuer, which publishes these keys.
pub fn guard_builder_with_keys(keys: &[serde_json::Value], issuer: Issuer) -> OidcGuardBuilder {
    let discovery = serde_json::json!({
        "issuer": ISSUER_URL,
        "jwks_uri": "https://keys.example/jwks",
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
    });
    let documents = HashMap::from([
        (
            format!("{ISSUER_URL}/.well-known/openid-configuration"),
            discovery.to_string().into(),
        ),
        (
            "https://keys.example/jwks".to_owned(),
            serde_json::json!({ "keys": keys }).to_string().into(),
        ),
    ]);
    OidcGuard::builder()
        .issuer(issuer)
        .http_client(document_client(documents))
        .clock(|| unix_time(NOW))
}

/// A guard of that issuer, for [`AUDIENCE`], at the second at which forged tokens live.
pub fn guard_with_client(issuer: Issuer, client: ClientWithMiddleware) -> OidcGuard {
    OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE).leeway(Duration::ZERO))
        .any_verified_caller()
        .http_client(client)
        .clock(|| unix_time(NOW))
        .build()
        .unwrap()
}

/// Claims that such a guard takes, with some of them replaced, or left out where they are null.
pub fn claims(changes: serde_json::Value) -> String {
    let mut claims = serde_json::json!({
        "iss": ISSUER_URL,
        "sub": "caller",
        "aud": AUDIENCE,
        "iat": NOW - 10,
        "nbf": NOW - 10,
        "exp": NOW + 600,
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims.to_string()
}

pub const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;
