//! Guards and issuers in memory, without sockets.

use http::{HeaderName, Request, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tower_oidc_guard::testing::{MemoryIssuer, TokenSpec};
use tower_oidc_guard::{
    BuildError, Identity, Issuer, OidcGuard, OidcGuardBuilder, OidcGuardLayer, Policy, PolicyError,
};

use super::{AUDIENCE, Body, bearer_request, echo_subject};

/// The issuer of the cluster that [`cluster`] creates.
pub const CLUSTER: &str = "https://cluster.example";
/// The issuer of Google's tokens.
pub const GOOGLE: &str = "https://accounts.google.com";
/// The subject of the tokens that [`token_spec`] returns.
pub const GKE_SA: &str = "system:serviceaccount:id-namespace:gke-sa";
/// A header other than `Authorization` that may contain a bearer token.
pub const SERVERLESS: HeaderName = HeaderName::from_static("x-serverless-authorization");

/// Creates the issuer of a Kubernetes cluster.
pub fn cluster() -> MemoryIssuer {
    MemoryIssuer::new(CLUSTER).unwrap()
}

/// Returns the builder of a guard that trusts this cluster.
pub fn guard_builder(issuer: &MemoryIssuer) -> OidcGuardBuilder {
    OidcGuard::builder()
        .issuer(Issuer::kubernetes(issuer.url()).audience(AUDIENCE))
        .http_client(issuer.client())
}

/// Returns the specification of a token for [`GKE_SA`] that such a guard accepts.
pub fn token_spec(issuer: &MemoryIssuer) -> TokenSpec {
    let spec = issuer.token().audience(AUDIENCE);
    spec.service_account("id-namespace", "gke-sa")
}

/// Verifies a token that must be valid and returns its identity.
pub async fn verified_identity(guard: &OidcGuard, token: &TokenSpec) -> Identity {
    guard.verifier().verify(token.mint()).await.unwrap()
}

/// Sends a request to a guarded service that responds with the caller's subject.
pub async fn send_request(layer: OidcGuardLayer, request: Request<Body>) -> Response<Vec<u8>> {
    let service = layer.layer(service_fn(echo_subject));
    let (parts, body) = service.oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Response::from_parts(parts, body)
}

/// Sends a request with this token and returns the status of the response.
pub async fn token_status(layer: OidcGuardLayer, token: &str) -> u16 {
    let response = send_request(layer, bearer_request(token)).await;
    response.status().as_u16()
}

/// Returns the status of a request from [`GKE_SA`] to a guard with this policy.
pub async fn status_for_policy(policy: Policy) -> u16 {
    let cluster = cluster();
    let guard = guard_builder(&cluster).policy(policy).build().unwrap();
    token_status(guard.layer(), &token_spec(&cluster).mint()).await
}

/// Returns the error of building a guard with this policy.
pub fn policy_error(policy: Policy) -> PolicyError {
    match guard_builder(&cluster()).policy(policy).build() {
        Err(BuildError::Policy(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// The issuer of Google's tokens. Guards get its keys as JSON, so they send no request for them.
pub struct GoogleIssuer(MemoryIssuer);

impl GoogleIssuer {
    pub fn new() -> Self {
        Self(MemoryIssuer::new(GOOGLE).unwrap())
    }

    /// Creates a guard that trusts both Google and this cluster.
    pub async fn guard_with_cluster(&self, cluster: &MemoryIssuer, policy: Policy) -> OidcGuard {
        let google = Issuer::google()
            .keys_json(fetch_jwks(&self.0).await)
            .audience(AUDIENCE);
        guard_builder(cluster)
            .issuer(google)
            .policy(policy)
            .build()
            .unwrap()
    }

    /// Returns the specification of a token of the account with this email address.
    pub fn account(&self, email: &str) -> TokenSpec {
        let spec = self.0.token().audience(AUDIENCE);
        spec.google_account("1234", email)
    }
}

/// Fetches the key set of an issuer.
pub async fn fetch_jwks(issuer: &MemoryIssuer) -> String {
    let url = format!("{}/openid/v1/jwks", issuer.url());
    let response = issuer.client().get(url).send().await.unwrap();
    let keys: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    keys.to_string()
}
