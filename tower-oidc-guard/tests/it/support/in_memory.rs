//! A guard and the issuers that it trusts, without a socket.

use http::{HeaderName, Request, Response};
use serde_json::Value;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::{MemoryIssuer, TokenSpec};
use tower_oidc_guard::{
    BuildError, Identity, Issuer, OidcGuard, OidcGuardBuilder, OidcGuardLayer, Policy, PolicyError,
};

use super::{AUDIENCE, Body, bearer_request, echo_subject};

pub const CLUSTER: &str = "https://cluster.example";
pub const GKE_SA: &str = "system:serviceaccount:id-namespace:gke-sa";
pub const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");

/// A cluster, as an issuer in memory.
pub fn cluster() -> MemoryIssuer {
    MemoryIssuer::new(CLUSTER).unwrap()
}

/// Settings of a guard that trusts that cluster.
pub fn guard_builder(issuer: &MemoryIssuer) -> OidcGuardBuilder {
    OidcGuard::builder()
        .issuer(Issuer::kubernetes(issuer.url()).audience(AUDIENCE))
        .http_client(issuer.client())
}

/// A token of `gke-sa`, to be changed.
pub fn token_spec(issuer: &MemoryIssuer) -> TokenSpec {
    let spec = issuer.token().audience(AUDIENCE);
    spec.service_account("id-namespace", "gke-sa")
}

/// Who a token proves to be.
pub async fn verified_identity(guard: &OidcGuard, token: &TokenSpec) -> Identity {
    guard.verifier().verify(token.mint()).await.unwrap()
}

/// The answer to a request behind that layer: the subject of the caller as text, or the guard's.
pub async fn send_request(layer: OidcGuardLayer, request: Request<Body>) -> Response<Vec<u8>> {
    use http_body_util::BodyExt as _;
    let response = layer
        .layer(service_fn(echo_subject))
        .oneshot(request)
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Response::from_parts(parts, body)
}

/// Whether the policy of a guard of one cluster lets `gke-sa` in, by status.
pub async fn status_for_policy(policy: Policy) -> u16 {
    let cluster = cluster();
    let guard = guard_builder(&cluster).policy(policy).build().unwrap();
    send_request(guard.layer(), bearer_request(&token_spec(&cluster).mint()))
        .await
        .status()
        .as_u16()
}

/// Why a guard of one cluster does not take that policy.
pub fn policy_error(policy: Policy) -> PolicyError {
    match guard_builder(&cluster()).policy(policy).build() {
        Err(BuildError::Policy(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// A Google account, among issuers given as keys: `identity` needs no network.
pub struct GoogleIssuer(pub MemoryIssuer);

impl GoogleIssuer {
    pub fn new() -> Self {
        Self(MemoryIssuer::new("https://accounts.google.com").unwrap())
    }

    /// Google and that cluster, trusted by one guard.
    pub async fn beside(&self, cluster: &MemoryIssuer, policy: Policy) -> OidcGuard {
        let google = Issuer::google()
            .keys_json(fetch_jwks(&self.0).await)
            .audience(AUDIENCE);
        guard_builder(cluster)
            .issuer(google)
            .policy(policy)
            .build()
            .unwrap()
    }

    pub fn account(&self, email: &str) -> TokenSpec {
        self.0
            .token()
            .audience(AUDIENCE)
            .google_account("1234", email)
    }
}

/// What an issuer publishes.
pub async fn fetch_jwks(issuer: &MemoryIssuer) -> String {
    let url = format!("{}/openid/v1/jwks", issuer.url());
    let answer = issuer.client().get(url).send().await.unwrap();
    let keys: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    keys.to_string()
}
