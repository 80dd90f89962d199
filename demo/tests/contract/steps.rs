//! The steps of the suite. Each leaves the server running, with its keys and accounts as the next step may find them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tower_oidc_guard::{Issuer, KeysError, OidcGuard, Platform, TokenError, VerifyError};

use super::backend::{Backend, ISSUER, KeyType};
use super::pod::{GKE_SA, Pod};
use super::support::{AUDIENCE, Program, listening};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/openid/v1/jwks";

/// A server is ready so soon after the return of the API server: the pause between two attempts is 10 s at most.
const READY_WITHIN: Duration = Duration::from_secs(12);

async fn caller(server: &Backend) -> String {
    server.token("id-namespace", "gke-sa", Some(AUDIENCE)).await
}

async fn verdict(guard: &OidcGuard, token: &str) -> Result<String, VerifyError> {
    let identity = guard.verifier().verify(token).await?;
    Ok(identity.subject().to_owned())
}

/// Lets the tokio clock stand `duration` further on, without anything waiting for it.
async fn later(duration: Duration) {
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
    let identity = guard.verifier().verify(caller(server).await).await.unwrap();
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
        let refused = verdict(&guard, &token).await;
        assert_eq!(
            refused,
            Err(VerifyError::InvalidToken(TokenError::WrongAudience)),
            "{audience:?}"
        );
    }
}

pub async fn a_stranger_is_verified_and_refused_by_the_policy(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let token = server
        .token("id-namespace", "stranger", Some(AUDIENCE))
        .await;
    let stranger = guard.verifier().verify(token).await.unwrap();
    assert!(!guard.policy().explain(&stranger).is_allowed());
    let known = guard.verifier().verify(caller(server).await).await.unwrap();
    assert!(guard.policy().explain(&known).is_allowed());
}

pub async fn without_a_token_with_a_wrong_one_and_with_a_wrong_ca_there_are_no_keys(
    server: &mut Backend,
) {
    let ca = server.ca_pem();
    let other_audience = server
        .token("other", "guard", Some("https://another.example"))
        .await;
    let own = server.token("other", "guard", None).await;
    let (signed, signature) = own.rsplit_once('.').unwrap();
    let spoiled = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    for token in [other_audience, spoiled] {
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

    let own_ca = super::support::Ca::new().pem();
    let pod = Pod::with(server, &own, &own_ca);
    let guard = pod.guard();
    let error = guard.ready().await.unwrap_err();
    assert!(
        matches!(error.cause(), KeysError::Request { .. }),
        "{error:?}"
    );
}

pub async fn the_documents_are_negotiated_by_type_and_method(server: &mut Backend) {
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
        let answer = request.bearer_auth(&own).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path} {accept}");
    }
    for (method, token, status) in [
        ("HEAD", Some(own.as_str()), 403),
        ("POST", Some(&own), 403),
        ("GET", None, 403),
        ("GET", Some("no.such.token"), 401),
    ] {
        let answer = server.request(method, JWKS, token, None).await;
        assert_eq!(answer.status, status, "{method} {token:?}");
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
    let refused = server.request("POST", &for_gke_sa, Some(&own), Some(&request));
    assert_eq!(refused.await.status, 403);
    let for_nobody = format!("{path}/nobody/token");
    let unknown = server.admin("POST", &for_nobody, Some(&request)).await;
    assert_eq!(unknown.status, 404);

    // An account of this step's own, since it is deleted.
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
        let answer = server.request("POST", REVIEWS, Some(&own), Some(&right));
        Some(answer.await).filter(|answer| answer.status == 201)
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
    // A real server remembers for 10 s that it has found a token to be valid.
    eventually(|| async {
        let answer = server.request("POST", REVIEWS, Some(&own), Some(&right));
        let status = answer.await.json()["status"].take();
        (status["authenticated"] != true).then_some(())
    })
    .await;
}

pub async fn auth_server_as_a_process_answers_by_the_caller(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let volume = tempfile::tempdir().unwrap();
    let policy = volume.path().join("policy.yaml");
    std::fs::write(&policy, format!("allow: [\"{GKE_SA}\"]\n")).unwrap();
    let mut environment = pod.environment();
    environment.push(("POLICY_FILE", policy.display().to_string()));
    let (program, url) = start(&environment).await;
    wait_until_ready(&url, &program).await;

    let stranger = server
        .token("id-namespace", "stranger", Some(AUDIENCE))
        .await;
    let elsewhere = server
        .token("id-namespace", "gke-sa", Some("https://another.example"))
        .await;
    let for_api = server.token("id-namespace", "gke-sa", None).await;
    let known = caller(server).await;
    for (token, status) in [
        (Some(&known), 200),
        (Some(&stranger), 403),
        (Some(&elsewhere), 401),
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

pub async fn a_rotated_key_is_known_at_its_first_token_and_the_old_one_stays(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller(server).await;
    assert!(verdict(&guard, &old).await.is_ok());
    server.rotate_key(KeyType::Rs256);
    let new = caller(server).await;
    assert_eq!(verdict(&guard, &new).await, Ok(GKE_SA.to_owned()));
    assert_eq!(verdict(&guard, &old).await, Ok(GKE_SA.to_owned()));
    assert_eq!(guard.health().remove(0).usable_keys, 2);
}

pub async fn a_withdrawn_key_is_out_of_use_after_the_next_refresh(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller(server).await;
    server.rotate_key(KeyType::Rs256);
    let new = caller(server).await;
    assert!(verdict(&guard, &new).await.is_ok() && verdict(&guard, &old).await.is_ok());
    server.withdraw_old_keys();
    // The pod's own token was signed with the withdrawn key; the kubelet replaces it in time.
    let own = server.token("other", "guard", None).await;
    pod.kubelet.rotate("token", own).unwrap();
    assert!(
        verdict(&guard, &old).await.is_ok(),
        "until the next refresh"
    );
    later(Duration::from_secs(3600)).await;
    eventually(|| async {
        guard.prefetch();
        (verdict(&guard, &old).await == Err(VerifyError::InvalidToken(TokenError::UnknownKey)))
            .then_some(())
    })
    .await;
    assert!(verdict(&guard, &new).await.is_ok());
}

pub async fn another_algorithm_is_known_at_its_first_token(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller(server).await;
    assert!(verdict(&guard, &old).await.is_ok());
    server.rotate_key(KeyType::Es256);
    let new = caller(server).await;
    assert_eq!(verdict(&guard, &new).await, Ok(GKE_SA.to_owned()));
    assert_eq!(verdict(&guard, &old).await, Ok(GKE_SA.to_owned()));
}

pub async fn keys_stay_in_use_while_the_api_server_is_away(server: &mut Backend) {
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let (one, two) = (caller(server).await, caller(server).await);
    assert!(verdict(&guard, &one).await.is_ok());
    server.stop().await;
    later(Duration::from_secs(3600)).await;
    eventually(|| async {
        let health = guard.health().remove(0);
        health.last_error.is_some().then_some(())
    })
    .await;
    for token in [&one, &two] {
        assert!(verdict(&guard, token).await.is_ok());
    }
    assert!(guard.health().remove(0).is_ready);
    server.restart().await;
}

pub async fn a_guard_that_started_without_the_api_server_is_ready_soon_after_its_return(
    server: &mut Backend,
) {
    let (pod, token) = (Pod::new(server).await, caller(server).await);
    server.stop().await;
    let guard = pod.guard();
    assert!(guard.ready().await.is_err());
    // Long enough for the pause between two attempts to have grown to its limit.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let refused = verdict(&guard, &token).await.unwrap_err();
    assert!(
        matches!(refused, VerifyError::KeysUnavailable { .. }),
        "{refused:?}"
    );
    server.restart().await;
    let returned = Instant::now();
    while !guard.health().remove(0).is_ready {
        assert!(returned.elapsed() < READY_WITHIN, "{:?}", guard.health());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(verdict(&guard, &token).await.is_ok());
}

pub async fn auth_server_that_started_without_the_api_server_is_ready_soon_after_its_return(
    server: &mut Backend,
) {
    let (pod, token) = (Pod::new(server).await, caller(server).await);
    server.stop().await;
    let (program, url) = start(&pod.environment()).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(get(&url, "/readyz", None).await, 503);
    assert_eq!(get(&url, "/private", Some(&token)).await, 503);
    server.restart().await;
    let returned = Instant::now();
    wait_until_ready(&url, &program).await;
    assert!(returned.elapsed() < READY_WITHIN, "{:?}", program.lines());
    assert_eq!(get(&url, "/private", Some(&token)).await, 200);
}

/// An operator migrates to another issuer. Before Kubernetes 1.22 that invalidates all tokens at once.
pub async fn a_second_issuer_is_put_in_front(server: &mut Backend) {
    const NEW: &str = "https://issuer.example/cluster";
    let pod = Pod::new(server).await;
    let guard = pod.guard();
    let old = caller(server).await;
    assert!(verdict(&guard, &old).await.is_ok());
    server.put_issuer_in_front(NEW);
    if !server.takes_several_issuers() {
        let own = server.token("other", "guard", None).await;
        pod.kubelet.rotate("token", own).unwrap();
    }
    let new = caller(server).await;
    later(Duration::from_secs(3600)).await;
    eventually(|| async {
        guard.prefetch();
        verdict(&guard, &new).await.is_ok().then_some(())
    })
    .await;
    if server.takes_several_issuers() {
        // The pod's own token still names the old issuer, and the API server still accepts it.
        assert_eq!(verdict(&guard, &old).await, Ok(GKE_SA.to_owned()));
    }
}

/// Repeats what may take a moment to come true, for 20 s at most.
async fn eventually<T, F: Future<Output = Option<T>>>(attempt: impl Fn() -> F) -> T {
    for _ in 0..200 {
        if let Some(result) = attempt().await {
            return result;
        }
        // By the system's clock: the tokio clock of some steps has been moved.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("did not come true within 20 s");
}

/// Starts `auth-server` in the environment of a pod; returns its URL.
async fn start(environment: &[(&'static str, String)]) -> (Program, String) {
    let program = Program::start_in(env!("CARGO_BIN_EXE_auth-server"), &[], environment);
    let address = listening(&program).await;
    (program, format!("http://{address}"))
}

async fn get(url: &str, path: &str, token: Option<&str>) -> u16 {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.get(format!("{url}{path}"));
    let request = match token {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    request.send().await.unwrap().status().as_u16()
}

async fn wait_until_ready(url: &str, program: &Program) {
    let began = Instant::now();
    while get(url, "/readyz", None).await != 200 {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            program.lines()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
