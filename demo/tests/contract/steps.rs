//! The steps of the suite. Each leaves the server running, in a state in which any other step can run.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tower_oidc_guard::{Issuer, KeysError, OidcGuard, Platform, TokenError, VerifyError};

use super::backend::{Backend, ISSUER, KeyType};
use super::pod::{AUDIENCE, GKE_SA, Pod};
use super::process::Process;
pub use super::review_steps::{
    the_token_of_a_deleted_node_is_refused_within_the_time_to_live,
    the_token_of_a_deleted_pod_is_refused_within_the_time_to_live,
    the_token_of_a_deleted_service_account_is_refused_within_the_time_to_live,
    token_reviews_require_the_role_system_auth_delegator,
};

pub use super::token_request_steps::{
    a_program_requests_tokens_with_its_own_one_and_a_role,
    token_requests_as_raw_requests_of_a_service_account,
};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/openid/v1/jwks";

/// The longest time until a guard is ready after an outage of the API server: attempts are at most 10 s apart.
const READY_WITHIN: Duration = Duration::from_secs(12);

/// Returns a token of the caller that the service admits.
pub(super) async fn caller_token(server: &Backend) -> String {
    server.token("id-namespace", "gke-sa", Some(AUDIENCE)).await
}

/// Verifies a token, and returns its subject.
pub(super) async fn verify(guard: &OidcGuard, token: &str) -> Result<String, VerifyError> {
    let identity = guard.verifier().verify(token).await?;
    Ok(identity.subject().to_owned())
}

/// Advances the tokio clock by `duration`.
async fn advance_clock(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

pub async fn keys_and_issuer_come_from_the_api_server(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    guard.ready().await.unwrap();
    let health = guard.health().remove(0);
    assert!(health.is_ready && health.usable_keys == 1, "{health:?}");
    let identity = guard
        .verifier()
        .verify(caller_token(server).await)
        .await
        .unwrap();
    assert_eq!(identity.subject(), GKE_SA);
    assert_eq!(identity.issuer(), ISSUER);
    assert_eq!(identity.platform(), Platform::Kubernetes);
    let account = identity.kubernetes().unwrap();
    assert_eq!(account.namespace(), "id-namespace");
    assert!(account.service_account().uid().is_some());
}

pub async fn only_tokens_for_our_audience_are_accepted(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    for audience in [Some("https://another.example"), None] {
        let token = server.token("id-namespace", "gke-sa", audience).await;
        let rejected = verify(&guard, &token).await;
        assert_eq!(
            rejected,
            Err(VerifyError::InvalidToken(TokenError::WrongAudience)),
            "{audience:?}"
        );
    }
}

pub async fn a_caller_outside_the_policy_is_verified_and_rejected(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let token = server
        .token("id-namespace", "stranger", Some(AUDIENCE))
        .await;
    let other = guard.verifier().verify(token).await.unwrap();
    assert!(!guard.policy().explain(&other).is_allowed());
    let allowed = guard
        .verifier()
        .verify(caller_token(server).await)
        .await
        .unwrap();
    assert!(guard.policy().explain(&allowed).is_allowed());
}

pub async fn keys_cannot_be_fetched_without_a_valid_token_and_ca(server: &mut Backend) {
    let ca = server.ca_pem();
    let other_audience = server
        .token("other", "guard", Some("https://another.example"))
        .await;
    let own = server.token("other", "guard", None).await;
    let (signed, signature) = own.rsplit_once('.').unwrap();
    let bad_signature = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    for token in [other_audience, bad_signature] {
        let pod = Pod::with(server, &token, &ca);
        let guard = pod.guard();
        let error = guard.ready().await.unwrap_err();
        let text = error.cause().to_string();
        assert!(
            text.contains("returned 401") && text.contains("pod's token"),
            "{text}"
        );
        let request = server.request("GET", DISCOVERY, Some(&token), None).await;
        assert_eq!(request.status, 401);
    }

    let anonymous = Issuer::kubernetes(ISSUER).jwks_url(server.url(JWKS));
    let client = reqwest_middleware::ClientBuilder::new(server.http()).build();
    let guard = OidcGuard::builder()
        .issuer(anonymous.audience(AUDIENCE))
        .any_verified_caller()
        .http_client(client)
        .build();
    let error = guard.unwrap().ready().await.unwrap_err();
    let text = error.cause().to_string();
    assert!(
        text.contains("returned 403") && text.contains("anonymous"),
        "{text}"
    );

    let other_ca = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
    let pod = Pod::with(server, &own, &other_ca.cert.pem());
    let guard = pod.guard();
    let error = guard.ready().await.unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::Request { .. }),
        "{error:?}"
    );
}

pub async fn responses_depend_on_the_accept_header_and_the_method(server: &mut Backend) {
    let (http, own) = (server.http(), server.token("other", "guard", None).await);
    for (path, accept, status) in [
        (DISCOVERY, "application/json", 200),
        (DISCOVERY, "application/jwk-set+json", 406),
        (JWKS, "application/json", 406),
        (JWKS, "application/jwk-set+json", 200),
        (JWKS, "application/jwk-set+json, application/json", 200),
        (JWKS, "application/*", 406),
        (JWKS, "*/*", 200),
    ] {
        let request = http.get(server.url(path)).header("accept", accept);
        let response = request.bearer_auth(&own).send().await.unwrap();
        assert_eq!(response.status(), status, "{path} {accept}");
    }
    for (method, token, status) in [
        ("HEAD", Some(own.as_str()), 403),
        ("POST", Some(&own), 403),
        ("GET", None, 403),
        ("GET", Some("no.such.token"), 401),
    ] {
        let response = server.request(method, JWKS, token, None).await;
        assert_eq!(response.status, status, "{method} {token:?}");
    }
    let as_admin = server.admin("POST", JWKS, None).await;
    assert_eq!(as_admin.status, 405);
}

pub async fn token_requests_and_reviews_as_raw_requests(server: &mut Backend) {
    let path = "/api/v1/namespaces/id-namespace/serviceaccounts";
    let own = server.token("other", "guard", None).await;
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": { "audiences": [AUDIENCE], "expirationSeconds": 600 },
    });
    let for_gke_sa = format!("{path}/gke-sa/token");
    let rejected = server.request("POST", &for_gke_sa, Some(&own), Some(&request));
    assert_eq!(rejected.await.status, 403);
    let for_nobody = format!("{path}/nobody/token");
    let unknown = server.admin("POST", &for_nobody, Some(&request)).await;
    assert_eq!(unknown.status, 404);

    // An account that no other step uses, since it is deleted.
    let account = json!({ "metadata": { "name": "short-lived" } });
    let created = server.admin("POST", path, Some(&account)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let token = server
        .token("id-namespace", "short-lived", Some(AUDIENCE))
        .await;
    let review = |token: &str, audience: &str| {
        json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": { "token": token, "audiences": [audience] },
        })
    };
    let right = review(&token, AUDIENCE);
    let forbidden = server.request("POST", REVIEWS, Some(&own), Some(&right));
    let forbidden = forbidden.await;
    assert_eq!(forbidden.status, 403, "{forbidden:?}");
    assert!(forbidden.body.contains("cannot create resource"));

    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "guard-reviews-tokens" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "other", "name": "guard" }],
    });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let bound = server.admin("POST", bindings, Some(&binding)).await;
    assert_eq!(bound.status, 201, "{bound:?}");
    let reviewed = eventually(|| async {
        let response = server.request("POST", REVIEWS, Some(&own), Some(&right));
        Some(response.await).filter(|response| response.status == 201)
    })
    .await;
    let status = &reviewed.json()["status"];
    assert_eq!(status["authenticated"], true, "{reviewed:?}");
    assert_eq!(status["audiences"], json!([AUDIENCE]));
    let user = "system:serviceaccount:id-namespace:short-lived";
    assert_eq!(status["user"]["username"], user);

    let wrong = review(&token, "https://another.example");
    let wrong = server.request("POST", REVIEWS, Some(&own), Some(&wrong));
    let wrong = wrong.await.json();
    assert_eq!(wrong["status"]["authenticated"], Value::Null);
    assert!(
        wrong["status"]["error"]
            .as_str()
            .unwrap()
            .contains("audiences")
    );

    let deleted = server
        .admin("DELETE", &format!("{path}/short-lived"), None)
        .await;
    assert_eq!(deleted.status, 200);
    // A real server caches the result of a valid token for 10 s.
    eventually(|| async {
        let response = server.request("POST", REVIEWS, Some(&own), Some(&right));
        let status = response.await.json()["status"].take();
        (status["authenticated"] != true).then_some(())
    })
    .await;
}

pub async fn auth_server_decides_by_the_caller(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let volume = tempfile::tempdir().unwrap();
    let policy = volume.path().join("policy.yaml");
    std::fs::write(&policy, format!("allow: [\"{GKE_SA}\"]\n")).unwrap();
    let mut environment = pod.environment();
    environment.push(("POLICY_FILE", policy.display().to_string()));
    let (process, url) = start_server(&environment).await;
    wait_until_ready(&url, &process).await;

    let other = server
        .token("id-namespace", "stranger", Some(AUDIENCE))
        .await;
    let wrong_audience = server
        .token("id-namespace", "gke-sa", Some("https://another.example"))
        .await;
    let for_api = server.token("id-namespace", "gke-sa", None).await;
    let allowed = caller_token(server).await;
    for (token, status) in [
        (Some(&allowed), 200),
        (Some(&other), 403),
        (Some(&wrong_audience), 401),
        (Some(&for_api), 401),
        (None, 401),
    ] {
        assert_eq!(
            get(&url, "/private", token.map(String::as_str)).await,
            status
        );
    }
    assert_eq!(get(&url, "/", None).await, 200);
}

pub async fn a_new_key_is_fetched_for_its_first_token_and_the_old_one_stays_in_use(
    server: &mut Backend,
) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller_token(server).await;
    assert!(verify(&guard, &old).await.is_ok());
    server.rotate_key(KeyType::Rs256);
    let new = caller_token(server).await;
    assert_eq!(verify(&guard, &new).await, Ok(GKE_SA.to_owned()));
    assert_eq!(verify(&guard, &old).await, Ok(GKE_SA.to_owned()));
    assert_eq!(guard.health().remove(0).usable_keys, 2);
}

pub async fn a_withdrawn_key_is_rejected_after_the_next_refresh(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller_token(server).await;
    server.rotate_key(KeyType::Rs256);
    let new = caller_token(server).await;
    assert!(verify(&guard, &new).await.is_ok() && verify(&guard, &old).await.is_ok());
    server.withdraw_old_keys();
    // The pod's token was signed with the withdrawn key, so the kubelet replaces it.
    let own = server.token("other", "guard", None).await;
    pod.kubelet.rotate("token", own).unwrap();
    assert!(verify(&guard, &old).await.is_ok(), "until the next refresh");
    advance_clock(Duration::from_secs(3600)).await;
    eventually(|| async {
        guard.prefetch();
        (verify(&guard, &old).await == Err(VerifyError::InvalidToken(TokenError::UnknownKey)))
            .then_some(())
    })
    .await;
    assert!(verify(&guard, &new).await.is_ok());
}

pub async fn a_key_of_another_algorithm_is_fetched_for_its_first_token(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller_token(server).await;
    assert!(verify(&guard, &old).await.is_ok());
    server.rotate_key(KeyType::Es256);
    let new = caller_token(server).await;
    assert_eq!(verify(&guard, &new).await, Ok(GKE_SA.to_owned()));
    assert_eq!(verify(&guard, &old).await, Ok(GKE_SA.to_owned()));
}

pub async fn keys_stay_in_use_while_the_api_server_is_down(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let (one, two) = (caller_token(server).await, caller_token(server).await);
    assert!(verify(&guard, &one).await.is_ok());
    server.stop().await;
    advance_clock(Duration::from_secs(3600)).await;
    eventually(|| async {
        let health = guard.health().remove(0);
        health.last_error.is_some().then_some(())
    })
    .await;
    for token in [&one, &two] {
        assert!(verify(&guard, token).await.is_ok());
    }
    assert!(guard.health().remove(0).is_ready);
    server.restart().await;
}

pub async fn a_guard_started_during_an_outage_is_ready_soon_after_it(server: &mut Backend) {
    let (pod, token) = (Pod::new(server).await, caller_token(server).await);
    server.stop().await;
    let guard = pod.guard();
    assert!(guard.ready().await.is_err());
    // Long enough for the back-off between attempts to reach its limit.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let rejected = verify(&guard, &token).await.unwrap_err();
    assert!(
        matches!(rejected, VerifyError::KeysUnavailable { .. }),
        "{rejected:?}"
    );
    server.restart().await;
    let returned = Instant::now();
    while !guard.health().remove(0).is_ready {
        assert!(returned.elapsed() < READY_WITHIN, "{:?}", guard.health());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(verify(&guard, &token).await.is_ok());
}

pub async fn auth_server_started_during_an_outage_is_ready_soon_after_it(server: &mut Backend) {
    let (pod, token) = (Pod::new(server).await, caller_token(server).await);
    server.stop().await;
    let (process, url) = start_server(&pod.environment()).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(get(&url, "/readyz", None).await, 503);
    assert_eq!(get(&url, "/private", Some(&token)).await, 503);
    server.restart().await;
    let returned = Instant::now();
    wait_until_ready(&url, &process).await;
    assert!(returned.elapsed() < READY_WITHIN, "{:?}", process.lines());
    assert_eq!(get(&url, "/private", Some(&token)).await, 200);
}

/// An administrator migrates the cluster to another issuer. Before Kubernetes 1.22, this invalidates all tokens at once.
pub async fn the_cluster_migrates_to_another_issuer(server: &mut Backend) {
    const NEW: &str = "https://issuer.example/cluster";
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller_token(server).await;
    assert!(verify(&guard, &old).await.is_ok());
    server.migrate_to_issuer(NEW);
    if !server.accepts_several_issuers() {
        let own = server.token("other", "guard", None).await;
        pod.kubelet.rotate("token", own).unwrap();
    }
    let new = caller_token(server).await;
    advance_clock(Duration::from_secs(3600)).await;
    eventually(|| async {
        guard.prefetch();
        verify(&guard, &new).await.is_ok().then_some(())
    })
    .await;
    if server.accepts_several_issuers() {
        // The pod's token has the old issuer, and the API server still accepts it.
        assert_eq!(verify(&guard, &old).await, Ok(GKE_SA.to_owned()));
    }
}

/// Repeats an attempt until it returns a value, for at most 20 s.
pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(attempt: impl Fn() -> F) -> T {
    for _ in 0..200 {
        if let Some(result) = attempt().await {
            return result;
        }
        // Real time is needed, although some steps advance the tokio clock.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not achieved within 20 s");
}

/// Starts `auth-server` with the environment variables of a pod. Returns the process and its URL.
pub(super) async fn start_server(environment: &[(&'static str, String)]) -> (Process, String) {
    let arguments: [&str; 0] = [];
    let process = Process::start(env!("CARGO_BIN_EXE_auth-server"), &arguments, environment);
    let address = process.wait_for_address().await;
    (process, format!("http://{address}"))
}

/// Requests a path, and returns the status.
pub(super) async fn get(url: &str, path: &str, token: Option<&str>) -> u16 {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(format!("{url}{path}"));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    request.send().await.unwrap().status().as_u16()
}

pub(super) async fn wait_until_ready(url: &str, process: &Process) {
    let began = Instant::now();
    while get(url, "/readyz", None).await != 200 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            process.lines()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
