//! The steps of the suite about guards that have tokens confirmed by the API server (TokenReview).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tower_oidc_guard::{
    OidcGuard, TokenError, TokenReview, TokenReviewError, VerifyError, WhenUnavailable,
};

use super::backend::Backend;
use super::pod::{AUDIENCE, GKE_SA, Pod};
use super::steps::{caller_token, eventually, get, start_server, verify, wait_until_ready};

const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
/// The time to live of confirmations: the lowest.
const TTL: Duration = Duration::from_secs(1);
/// The time that a review and a response may take on a busy machine.
const MARGIN: Duration = Duration::from_secs(2);
const REVOKED: VerifyError = VerifyError::InvalidToken(TokenError::TokenRevoked);

fn review(when_unavailable: WhenUnavailable) -> TokenReview {
    TokenReview::new(when_unavailable).ttl(TTL)
}

fn is_role_missing(guard: &OidcGuard) -> bool {
    let reviews = guard.health().remove(0).token_review;
    let error = reviews.and_then(|reviews| reviews.last_error);
    error.is_some_and(|error| {
        matches!(*error, TokenReviewError::MissingRole { .. })
            && error.to_string().contains("system:auth-delegator")
    })
}

/// Without the role, tokens are accepted or refused as configured, and the log names the role. With it, they are confirmed.
pub async fn token_reviews_require_the_role_system_auth_delegator(server: &mut Backend) {
    let own = server.token("other", "stranger", None).await;
    let pod = Pod::with(server, &own, &server.ca_pem());
    let accepting = pod.reviewing_guard(review(WhenUnavailable::Accept));
    let refusing = pod.reviewing_guard(review(WhenUnavailable::Refuse));
    let token = caller_token(server).await;
    let accepted = verify(&accepting, &token).await;
    assert_eq!(accepted.as_deref(), Ok(GKE_SA));
    let refused = verify(&refusing, &token).await.unwrap_err();
    assert_eq!(refused.reason(), "token_review_unavailable");
    assert!(is_role_missing(&accepting), "{:?}", accepting.health());
    assert!(is_role_missing(&refusing), "{:?}", refusing.health());

    let mut environment = pod.environment();
    environment.push(("TOKEN_REVIEW", "refuse".to_owned()));
    environment.push(("TOKEN_REVIEW_TTL", TTL.as_secs().to_string()));
    let (process, url) = start_server(&environment).await;
    wait_until_ready(&url, &process).await;
    assert_eq!(get(&url, "/private", Some(&token)).await, 503);
    eventually(async || {
        let lines = process.lines();
        let mut lines = lines.iter();
        let role = |line: &&String| line.contains("WARN") && line.contains("system:auth-delegator");
        lines.find(role).map(|_| ())
    })
    .await;

    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": "stranger-reviews-tokens" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "other", "name": "stranger" }],
    });
    let bound = server.admin("POST", BINDINGS, Some(&binding)).await;
    assert_eq!(bound.status, 201, "{bound:?}");
    eventually(async || {
        let status = get(&url, "/private", Some(&token)).await;
        let confirmed = verify(&refusing, &token).await;
        (status == 200 && confirmed.is_ok()).then_some(())
    })
    .await;
    assert!(!is_role_missing(&refusing), "{:?}", refusing.health());

    let deleted = format!("{BINDINGS}/stranger-reviews-tokens");
    assert_eq!(server.admin("DELETE", &deleted, None).await.status, 200);
    eventually(async || {
        let result = verify(&refusing, &token).await;
        (result.map_err(|error| error.reason()) == Err("token_review_unavailable")).then_some(())
    })
    .await;
    assert!(is_role_missing(&refusing), "{:?}", refusing.health());
}

pub async fn the_token_of_a_deleted_service_account_is_refused_within_the_time_to_live(
    server: &mut Backend,
) {
    let accounts = "/api/v1/namespaces/id-namespace/serviceaccounts";
    let account = json!({ "metadata": { "name": "deleted" } });
    let created = server.admin("POST", accounts, Some(&account)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let token = server
        .token("id-namespace", "deleted", Some(AUDIENCE))
        .await;
    let path = format!("{accounts}/deleted");
    assert_refused_after_deletion(server, &token, &path).await;
}

/// There is no kubelet, so the pod never runs, and its deletion takes effect at once.
pub async fn the_token_of_a_deleted_pod_is_refused_within_the_time_to_live(server: &mut Backend) {
    let pods = "/api/v1/namespaces/id-namespace/pods";
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "deleted" },
        "spec": {
            "serviceAccountName": "gke-sa",
            "automountServiceAccountToken": false,
            "containers": [{ "name": "none", "image": "none.invalid/none" }],
            // In a cluster with nodes, the pod is not scheduled to one of them.
            "nodeSelector": { "none": "none" },
        },
    });
    let created = server.admin("POST", pods, Some(&pod)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    let response = server.request_bound_token("Pod", &created, AUDIENCE).await;
    assert_eq!(response.status, 201, "{response:?}");
    let response = response.json();
    let reference = &response["spec"]["boundObjectRef"];
    assert_eq!(reference["kind"], "Pod");
    assert_eq!(reference["uid"], created["metadata"]["uid"]);
    let token = response["status"]["token"].as_str().unwrap();
    let path = format!("{pods}/deleted?gracePeriodSeconds=0");

    let status = reviewed(server, token).await;
    assert_eq!(status["authenticated"], true, "{status}");
    let extra = &status["user"]["extra"];
    assert_eq!(
        extra["authentication.kubernetes.io/pod-name"],
        json!(["deleted"])
    );
    assert_eq!(
        extra["authentication.kubernetes.io/pod-uid"],
        json!([created["metadata"]["uid"]])
    );
    assert_refused_after_deletion(server, token, &path).await;

    let missing = server.request_bound_token("Pod", &created, AUDIENCE).await;
    assert_eq!(missing.status, 404, "{missing:?}");
}

/// Since Kubernetes 1.33, tokens can be bound to a node.
pub async fn the_token_of_a_deleted_node_is_refused_within_the_time_to_live(server: &mut Backend) {
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "deleted" } });
    let created = server.admin("POST", "/api/v1/nodes", Some(&node)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    let response = server.request_bound_token("Node", &created, AUDIENCE).await;
    if response.status != 201 {
        println!(
            "{}: skipped: this version binds no tokens to nodes: {}",
            server.name(),
            response.json()["message"]
        );
        assert!(matches!(server, Backend::Real(_)), "{response:?}");
        let deleted = server.admin("DELETE", "/api/v1/nodes/deleted", None);
        assert_eq!(deleted.await.status, 200);
        return;
    }
    let response = response.json();
    let token = response["status"]["token"].as_str().unwrap();
    assert_refused_after_deletion(server, token, "/api/v1/nodes/deleted").await;
}

/// Returns the `status` of a TokenReview.
async fn reviewed(server: &Backend, token: &str) -> Value {
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": { "token": token, "audiences": [AUDIENCE] },
    });
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let response = server.admin("POST", path, Some(&request)).await;
    assert_eq!(response.status, 201, "{response:?}");
    response.json()["status"].take()
}

/// Deletes the object at `path`, and verifies that a guard and a server admit a token that is bound to it until then, and refuse
/// it within the time to live.
async fn assert_refused_after_deletion(server: &mut Backend, token: &str, path: &str) {
    // An earlier step has given the role to its service account.
    let pod = Pod::new(server).await;
    let guard = pod.reviewing_guard(review(WhenUnavailable::Refuse));
    let unaware = pod.guard();
    let mut environment = pod.environment();
    environment.push(("TOKEN_REVIEW", "Accept".to_owned()));
    environment.push(("TOKEN_REVIEW_TTL", TTL.as_secs().to_string()));
    let (process, url) = start_server(&environment).await;
    wait_until_ready(&url, &process).await;
    assert_eq!(verify(&guard, token).await.err(), None);
    assert_eq!(get(&url, "/private", Some(token)).await, 200);

    let deleted = server.admin("DELETE", path, None).await;
    assert_eq!(deleted.status, 200, "{deleted:?}");
    let began = Instant::now();
    let limit = TTL + server.review_cache() + MARGIN;
    loop {
        let result = verify(&guard, token).await;
        let status = get(&url, "/private", Some(token)).await;
        assert!(
            result.is_ok() || result == Err(REVOKED),
            "{path}: {result:?}"
        );
        assert!(matches!(status, 200 | 401), "{path}: {status}");
        if result.is_err() && status == 401 {
            break;
        }
        let elapsed = began.elapsed();
        assert!(
            elapsed < limit,
            "{path}: {result:?}, {status} after {elapsed:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // It is refused by the review alone: its signature is valid. The reason is that of the API server.
    assert_eq!(verify(&unaware, token).await.err(), None);
    let status = reviewed(server, token).await;
    assert_eq!(status["authenticated"], Value::Null, "{status}");
    let error = status["error"].as_str().unwrap();
    assert!(
        error.contains("invalidated") || error.contains("not found"),
        "{error}"
    );
}
