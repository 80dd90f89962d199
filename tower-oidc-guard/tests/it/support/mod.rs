//! Guards, issuers, requests and tokens that several tests use.

pub mod events;
pub mod grpc;
pub mod in_memory;
#[cfg(unix)]
pub mod kubernetes;
pub mod logs;
pub mod mock_client;
pub mod process;
pub mod recorded;
pub mod reviews;
pub mod signer;
pub mod streams;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Empty};
use reqwest_middleware::ClientWithMiddleware;
use serde_json::{Value, json};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, OidcGuardBuilder};

use mock_client::document_client;

/// The audience that all guards of these tests accept.
pub const AUDIENCE: &str = "https://auth-server.example";

/// Creates a guard that trusts the issuer with this URL for [`AUDIENCE`], without leeway.
pub fn guard(issuer: &str) -> OidcGuard {
    OidcGuard::builder()
        .issuer(trusted_issuer(issuer))
        .any_verified_caller()
        .build()
        .unwrap()
}

/// Returns a Kubernetes issuer on loopback whose tokens are accepted for [`AUDIENCE`], without leeway.
pub fn trusted_issuer(issuer: &str) -> Issuer {
    Issuer::kubernetes(issuer)
        .audience(AUDIENCE)
        .leeway(Duration::ZERO)
        .insecure_loopback_http()
}

/// Mints a token that such a guard accepts.
pub fn valid_token(issuer: &TestIssuer) -> String {
    issuer
        .token()
        .audience(AUDIENCE)
        .service_account("id-namespace", "gke-sa")
        .mint()
}

/// The body of all requests.
pub type Body = Empty<bytes::Bytes>;

/// Creates a request with these `Authorization` headers.
pub fn request(authorization: &[&str]) -> Request<Body> {
    let mut request = Request::new(Body::new());
    for value in authorization {
        let value = HeaderValue::from_str(value).unwrap();
        request.headers_mut().append(header::AUTHORIZATION, value);
    }
    request
}

/// Creates a request with this bearer token.
pub fn bearer_request(token: &str) -> Request<Body> {
    request(&[&format!("Bearer {token}")])
}

/// Responds with the subject of the caller, or with `nobody` if the request has no identity.
pub async fn echo_subject(request: Request<Body>) -> Result<Response<String>, Infallible> {
    let caller = request.extensions().get::<Identity>();
    let subject = caller.map_or("nobody", Identity::subject);
    Ok(Response::new(subject.to_owned()))
}

/// Returns the body of a response as text.
pub async fn body_text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = bytes::Bytes>,
    B::Error: Debug,
{
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Converts seconds since the Unix epoch.
pub fn unix_time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Advances tokio's clock without waiting.
pub async fn advance_clock(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

/// Waits until a condition holds.
///
/// # Panics
///
/// Panics if it does not hold within five seconds.
pub async fn wait_until(condition: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the condition does not hold after five seconds");
}

/// The issuer of the tokens that [`claims`] is for.
pub const ISSUER_URL: &str = "https://issuer.example";
/// The time, in seconds since the Unix epoch, that the clock of guards of [`ISSUER_URL`] shows.
pub const NOW: u64 = 1_800_000_000;
/// A header for tokens that are signed by a [`Signer`](signer::Signer).
pub const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

/// Creates a guard of [`ISSUER_URL`], which publishes these keys.
pub fn guard_with_keys(keys: &[Value]) -> OidcGuard {
    guard_builder_with_keys(keys, issuer_settings())
        .any_verified_caller()
        .build()
        .unwrap()
}

/// Returns the settings of [`ISSUER_URL`]: accepted for [`AUDIENCE`], without leeway.
pub fn issuer_settings() -> Issuer {
    Issuer::oidc(ISSUER_URL)
        .audience(AUDIENCE)
        .leeway(Duration::ZERO)
}

/// Returns the builder of a guard of [`ISSUER_URL`], which publishes these keys.
pub fn guard_builder_with_keys(keys: &[Value], issuer: Issuer) -> OidcGuardBuilder {
    let discovery = json!({
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
            json!({ "keys": keys }).to_string().into(),
        ),
    ]);
    OidcGuard::builder()
        .issuer(issuer)
        .http_client(document_client(documents))
        .clock(|| unix_time(NOW))
}

/// Creates a guard of this issuer that fetches with this client. Accepts [`AUDIENCE`], without leeway, at [`NOW`].
pub fn guard_with_client(issuer: Issuer, client: ClientWithMiddleware) -> OidcGuard {
    OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE).leeway(Duration::ZERO))
        .any_verified_caller()
        .http_client(client)
        .clock(|| unix_time(NOW))
        .build()
        .unwrap()
}

/// Returns claims that such a guard accepts, with some of them replaced, or removed if the new value is null.
pub fn claims(changes: Value) -> String {
    let mut claims = json!({
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
    let members = claims.as_object_mut().unwrap();
    members.retain(|_, value| !value.is_null());
    claims.to_string()
}
