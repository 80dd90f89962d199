//! Compares the responses of the fakes in `testing` with responses recorded from real API servers, header by header.

use std::collections::BTreeMap;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderName, Method};
use serde_json::{Value, json};
use tower_oidc_guard::testing::{FakeApiServer, MemoryIssuer, TestIssuer};

use crate::support::AUDIENCE;
use crate::support::recorded::{V1_36, recorded_path, recorded_token};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const JWKS: &str = "/openid/v1/jwks";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Headers whose values differ between any two responses, or between versions.
const VARYING: [&str; 5] = [
    "date",
    "content-length",
    "audit-id",
    "x-kubernetes-pf-flowschema-uid",
    "x-kubernetes-pf-prioritylevel-uid",
];

/// A response that was recorded or that a fake returned.
#[derive(Debug)]
struct ComparedResponse {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl ComparedResponse {
    fn recorded(name: &str) -> Self {
        let path = recorded_path(name).with_extension("http");
        let text = std::fs::read_to_string(path).unwrap();
        let text = text.replace("\r\n", "\n");
        let (head, body) = text.split_once("\n\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_lowercase(), value.to_owned())
        });
        Self {
            status: status.parse().unwrap(),
            headers: headers.collect(),
            body: body.to_owned(),
        }
    }

    async fn read(response: reqwest::Response) -> Self {
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| {
            let value = value.to_str().unwrap();
            (name.to_string(), value.to_owned())
        });
        Self {
            status: response.status().as_u16(),
            headers: headers.collect(),
            body: response.text().await.unwrap(),
        }
    }

    /// Returns the headers that clients can rely on. `Audit-Id` exists in later versions only.
    fn comparable_headers(&self) -> BTreeMap<&str, &str> {
        let pairs = self.headers.iter().filter(|(name, _)| *name != "audit-id");
        pairs
            .map(|(name, value)| {
                let is_varying = VARYING.contains(&name.as_str());
                let value = if is_varying { "(varies)" } else { value };
                (name.as_str(), value)
            })
            .collect()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or(Value::Null)
    }
}

/// Returns this JSON with values that differ between servers or requests replaced by their types.
fn shape(value: &Value) -> Value {
    const CONSTANT: [&str; 10] = [
        "kind",
        "apiVersion",
        "status",
        "message",
        "reason",
        "details",
        "code",
        "response_types_supported",
        "subject_types_supported",
        "id_token_signing_alg_values_supported",
    ];
    match value {
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| *name != "metadata")
            .map(|(name, value)| {
                let is_constant = CONSTANT.contains(&name.as_str()) && !value.is_object();
                (
                    name.clone(),
                    if is_constant {
                        value.clone()
                    } else {
                        shape(value)
                    },
                )
            })
            .collect(),
        Value::Array(items) => items.iter().take(1).map(shape).collect(),
        Value::String(_) => "(text)".into(),
        Value::Number(_) => "(number)".into(),
        other => other.clone(),
    }
}

fn assert_as_recorded(name: &str, response: &ComparedResponse) {
    let recorded = ComparedResponse::recorded(name);
    assert_eq!(response.status, recorded.status, "{name}");
    assert_eq!(
        response.comparable_headers(),
        recorded.comparable_headers(),
        "{name}"
    );
    let (ours, theirs) = (shape(&response.json()), shape(&recorded.json()));
    assert_eq!(ours, theirs, "{name}: {response:?}");
}

enum Caller {
    Anonymous,
    /// The service account `guard` in the namespace `other`.
    Account,
    Admin,
    Token(String),
}

/// A fake API server with the service accounts of the recorded requests, and a client that trusts its CA.
struct Cluster {
    server: FakeApiServer,
    http: reqwest::Client,
}

impl Cluster {
    async fn start() -> Self {
        let server = FakeApiServer::start().await.unwrap();
        server.create_service_account("id-namespace", "gke-sa");
        let ca = reqwest::Certificate::from_pem(server.ca_pem().as_bytes()).unwrap();
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([ca])
            .build();
        Self {
            server,
            http: http.unwrap(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!(
            "https://{}:{}{path}",
            self.server.host(),
            self.server.port()
        )
    }

    fn request(&self, method: Method, path: &str, caller: Caller) -> reqwest::RequestBuilder {
        let request = self.http.request(method, self.url(path));
        let token = match caller {
            Caller::Anonymous => return request,
            Caller::Account => self.server.pod_token("other", "guard"),
            Caller::Admin => self.server.admin_token(),
            Caller::Token(token) => token,
        };
        request.bearer_auth(token)
    }

    async fn get(&self, path: &str, caller: Caller, accept: &str) -> ComparedResponse {
        let request = self.request(Method::GET, path, caller);
        ComparedResponse::read(request.header(ACCEPT, accept).send().await.unwrap()).await
    }

    async fn call(&self, method: Method, path: &str, caller: Caller) -> ComparedResponse {
        ComparedResponse::read(self.request(method, path, caller).send().await.unwrap()).await
    }

    async fn post(&self, path: &str, caller: Caller, body: &Value) -> ComparedResponse {
        let request = self.request(Method::POST, path, caller);
        let request = request.header(CONTENT_TYPE, "application/json");
        ComparedResponse::read(request.body(body.to_string()).send().await.unwrap()).await
    }

    async fn review(&self, caller: Caller, token: &str, audiences: &[&str]) -> ComparedResponse {
        let body = json!({ "spec": { "token": token, "audiences": audiences } });
        self.post(REVIEWS, caller, &body).await
    }
}

#[tokio::test]
async fn fake_api_server_negotiates_content_types_like_a_real_one() {
    let cluster = Cluster::start().await;
    for (path, accept, recorded) in [
        (DISCOVERY, "application/json", "discovery-accept-json"),
        (
            DISCOVERY,
            "application/jwk-set+json",
            "discovery-accept-jwk-set",
        ),
        (JWKS, "application/json", "jwks-accept-json"),
        (JWKS, "application/jwk-set+json", "jwks-accept-jwk-set"),
        (
            JWKS,
            "application/jwk-set+json, application/json",
            "jwks-accept-both",
        ),
        (JWKS, "application/*", "jwks-accept-wildcard-subtype"),
        // Equivalent to a request without `Accept`; this HTTP client always sends one.
        (JWKS, "*/*", "jwks-no-accept"),
    ] {
        let response = cluster.get(path, Caller::Account, accept).await;
        assert_as_recorded(&format!("v1.20/negotiation/{recorded}"), &response);
    }
    let tagged = cluster.request(Method::GET, JWKS, Caller::Account);
    let tagged = tagged.header(IF_NONE_MATCH, "\"anything\"").send().await;
    let tagged = ComparedResponse::read(tagged.unwrap()).await;
    assert_as_recorded("v1.20/negotiation/jwks-if-none-match", &tagged);
}

#[tokio::test]
async fn fake_api_server_rejects_methods_like_a_real_one() {
    let cluster = Cluster::start().await;
    for (method, caller, recorded) in [
        (Method::HEAD, Caller::Account, "jwks-head"),
        (Method::POST, Caller::Account, "jwks-post"),
        (Method::HEAD, Caller::Admin, "jwks-admin-head"),
        (Method::POST, Caller::Admin, "jwks-admin-post"),
    ] {
        let response = cluster.call(method, JWKS, caller).await;
        assert_as_recorded(&format!("v1.20/negotiation/{recorded}"), &response);
    }
}

#[tokio::test]
async fn fake_api_server_authenticates_callers_like_a_real_one() {
    let cluster = Cluster::start().await;
    let other_audience = cluster.server.token("other", "guard").audience("https://x");
    for (path, caller, recorded) in [
        (
            DISCOVERY,
            Caller::Anonymous,
            "v1.20/rs256/discovery-anonymous",
        ),
        (
            DISCOVERY,
            Caller::Anonymous,
            "v1.36/rs256/discovery-anonymous",
        ),
        (
            DISCOVERY,
            Caller::Token("no.such.token".to_owned()),
            "v1.20/rs256/discovery-bad-bearer",
        ),
        (
            DISCOVERY,
            Caller::Token("no.such.token".to_owned()),
            "v1.36/rs256/discovery-bad-bearer",
        ),
        (JWKS, Caller::Anonymous, "v1.20/negotiation/jwks-anonymous"),
        (
            JWKS,
            Caller::Token(other_audience.mint()),
            "v1.20/negotiation/jwks-other-audience",
        ),
        (DISCOVERY, Caller::Account, "v1.20/rs256/discovery"),
        (DISCOVERY, Caller::Account, "v1.36/rs256/discovery"),
        (JWKS, Caller::Account, "v1.20/rs256/jwks"),
        (JWKS, Caller::Account, "v1.36/rs256/jwks"),
    ] {
        let response = cluster.get(path, caller, "*/*").await;
        assert_as_recorded(recorded, &response);
    }
}

#[tokio::test]
async fn fake_api_server_rejects_expired_and_withdrawn_tokens() {
    let cluster = Cluster::start().await;
    let audience = cluster.server.issuers().remove(0);
    let spec = || cluster.server.token("other", "guard").audience(&audience);
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    let deleted = cluster.server.pod_token("other", "deleted");
    cluster.server.delete_service_account("other", "deleted");
    let status = async |token: String| {
        let response = cluster.get(JWKS, Caller::Token(token), "*/*").await;
        response.status
    };
    assert_eq!(status(spec().mint()).await, 200);
    assert_eq!(status(spec().issued_at(long_ago).mint()).await, 401);
    assert_eq!(status(spec().bad_signature().mint()).await, 401);
    assert_eq!(status(spec().claim("iss", "https://x").mint()).await, 401);
    assert_eq!(status(deleted).await, 401);
    let before = spec().mint();
    cluster.server.rotate_key().unwrap();
    assert_eq!(
        status(before.clone()).await,
        200,
        "a key that is still published"
    );
    cluster.server.withdraw_old_keys();
    assert_eq!(status(before).await, 401);
}

#[tokio::test]
async fn fake_api_server_answers_token_requests_like_a_real_one() {
    let cluster = Cluster::start().await;
    let request =
        |seconds: u64| json!({ "spec": { "audiences": [AUDIENCE], "expirationSeconds": seconds } });
    for (account, seconds, caller, recorded) in [
        ("gke-sa", 600, Caller::Admin, "tokenrequest-admin"),
        ("nobody", 600, Caller::Admin, "tokenrequest-unknown-account"),
        ("gke-sa", 599, Caller::Admin, "tokenrequest-too-short"),
        ("gke-sa", 600, Caller::Account, "tokenrequest-forbidden"),
    ] {
        let path = format!("/api/v1/namespaces/id-namespace/serviceaccounts/{account}/token");
        let response = cluster.post(&path, caller, &request(seconds)).await;
        assert_as_recorded(&format!("v1.20/negotiation/{recorded}"), &response);
    }
}

#[tokio::test]
async fn fake_api_server_answers_token_reviews_like_a_real_one() {
    let cluster = Cluster::start().await;
    let spec = cluster.server.token("id-namespace", "gke-sa").without_pod();
    let token = spec.clone().audience(AUDIENCE).mint();
    let two = spec.audience(AUDIENCE).audience("https://other.example");
    let bad = cluster.server.token("id-namespace", "gke-sa");
    let bad = bad.audience(AUDIENCE).bad_signature().mint();
    let folder = "v1.20/negotiation";

    let without_role = cluster.review(Caller::Account, &token, &[AUDIENCE]).await;
    assert_as_recorded(
        &format!("{folder}/tokenreview-without-the-role"),
        &without_role,
    );
    let empty = cluster.review(Caller::Admin, "", &[]).await;
    assert_as_recorded(&format!("{folder}/tokenreview-without-token"), &empty);
    let garbage = cluster.review(Caller::Admin, "garbage", &["a"]).await;
    assert_as_recorded(&format!("{folder}/tokenreview-garbage"), &garbage);

    cluster.server.grant_token_reviews("other", "guard");
    let two = two.mint();
    for (token, audiences, recorded) in [
        (&token, &[AUDIENCE][..], "review-right-audience"),
        (&token, &["https://wrong.example"], "review-wrong-audience"),
        (
            &two,
            &["https://other.example", "https://nope.example"],
            "review-one-of-two",
        ),
        (&bad, &[AUDIENCE], "review-bad-signature"),
    ] {
        let response = cluster.review(Caller::Account, token, audiences).await;
        assert_eq!(response.status, 201, "{recorded}");
        let path = recorded_path(V1_36).join(recorded);
        let text = std::fs::read(path.with_extension("json")).unwrap();
        let recorded_json: Value = serde_json::from_slice(&text).unwrap();
        let (ours, theirs) = (&response.json()["status"], &recorded_json["status"]);
        assert_eq!(shape(ours), shape(theirs), "{recorded}");
        assert_eq!(ours["error"], theirs["error"], "{recorded}");
        assert_eq!(ours["audiences"], theirs["audiences"], "{recorded}");
        assert_eq!(ours["user"]["groups"], theirs["user"]["groups"]);
    }

    cluster
        .server
        .delete_service_account("id-namespace", "gke-sa");
    let deleted = cluster.review(Caller::Account, &token, &[AUDIENCE]).await;
    let recorded =
        ComparedResponse::recorded(&format!("{folder}/tokenreview-account-deleted")).json();
    assert_eq!(deleted.json()["status"], recorded["status"]);
    cluster
        .server
        .create_service_account("id-namespace", "gke-sa");
    let recreated = cluster.review(Caller::Account, &token, &[AUDIENCE]).await;
    assert_eq!(recreated.json()["status"]["authenticated"], Value::Null);
}

#[tokio::test]
async fn fake_api_server_reviews_tokens_of_pods_like_a_real_one() {
    let path = recorded_path(V1_36).join("bound-to-a-deleted-pod.review.txt");
    let recorded = std::fs::read_to_string(path).unwrap();
    let mut recorded = recorded.lines().map(|line| {
        let (_, status) = line.split_once(": ").unwrap();
        serde_json::from_str::<Value>(status).unwrap()
    });
    let (before, after) = (recorded.next().unwrap(), recorded.next().unwrap());

    let cluster = Cluster::start().await;
    let mint = || {
        let spec = cluster.server.token("id-namespace", "gke-sa");
        spec.audience(AUDIENCE).mint()
    };
    let token = mint();
    let review = async |token: &str| {
        let response = cluster.review(Caller::Admin, token, &[AUDIENCE]).await;
        assert_eq!(response.status, 201);
        response.json()["status"].clone()
    };
    let ours = review(&token).await;
    assert_eq!(shape(&ours), shape(&before));
    assert_eq!(ours["user"]["groups"], before["user"]["groups"]);
    assert_eq!(
        ours["user"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["gke-sa"])
    );

    cluster.server.delete_pod("id-namespace", "gke-sa");
    assert_eq!(review(&token).await, after);
    // The service account's next pod has another uid, and its tokens are valid.
    assert_eq!(review(&mint()).await["authenticated"], true);
    assert_eq!(review(&token).await, after);
}

#[tokio::test]
async fn fake_api_server_reviews_recorded_tokens_by_its_clock_and_their_audiences() {
    let cluster = Cluster::start().await;
    let token = recorded_token(V1_36, "gke-sa-600s.jwt");
    let review = async |audience| {
        let response = cluster.review(Caller::Admin, &token, &[audience]).await;
        response.json()["status"].clone()
    };
    assert_eq!(review(AUDIENCE).await["authenticated"], Value::Null);
    let server = &cluster.server;
    server.accept_token(token.as_str(), "id-namespace", "gke-sa");
    assert_eq!(review(AUDIENCE).await["authenticated"], true);
    let refused = review("https://wrong.example").await;
    let expected = "token audiences [\"https://auth-server.example\"] is invalid";
    assert!(refused["error"].as_str().unwrap().contains(expected));

    let minted = server.token("id-namespace", "gke-sa").audience(AUDIENCE);
    let minted = minted.mint();
    server.set_clock(|| std::time::SystemTime::now() + std::time::Duration::from_secs(7200));
    let expired = cluster.review(Caller::Admin, &minted, &[AUDIENCE]).await;
    let expected = "[invalid bearer token, service account token has expired]";
    assert_eq!(expired.json()["status"]["error"], expected);
    let renewed = server.token("id-namespace", "gke-sa").audience(AUDIENCE);
    let renewed = cluster
        .review(Caller::Admin, &renewed.mint(), &[AUDIENCE])
        .await;
    assert_eq!(renewed.json()["status"]["authenticated"], true);
}

#[tokio::test]
async fn only_administrators_change_service_accounts_and_roles() {
    let cluster = Cluster::start().await;
    let accounts = "/api/v1/namespaces/id-namespace/serviceaccounts";
    let body = json!({ "metadata": { "name": "new" } });
    let created = cluster.post(accounts, Caller::Admin, &body).await;
    assert_as_recorded("v1.20/negotiation/serviceaccount-create", &created);
    let path = format!("{accounts}/new");
    let refused = cluster.call(Method::DELETE, &path, Caller::Account).await;
    assert_eq!(refused.status, 403);
    let deleted = cluster.call(Method::DELETE, &path, Caller::Admin).await;
    assert_as_recorded("v1.20/negotiation/serviceaccount-delete", &deleted);

    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let binding = json!({
        "metadata": { "name": "guard" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:auth-delegator" },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "other", "name": "guard" }],
    });
    let refused = cluster.post(bindings, Caller::Account, &binding).await;
    assert_eq!(refused.status, 403);
    let token = cluster.server.pod_token("other", "guard");
    let before = cluster.review(Caller::Account, &token, &[]).await;
    assert_eq!(before.status, 403);
    let bound = cluster.post(bindings, Caller::Admin, &binding).await;
    assert_eq!(bound.status, 201);
    let after = cluster.review(Caller::Account, &token, &[]).await;
    assert_as_recorded(
        "v1.20/negotiation/tokenreview-no-audience-asked",
        &ComparedResponse {
            body: without_extra(&after.body),
            ..after
        },
    );
}

/// Removes `extra`, which the reviews of version 1.20 do not have.
fn without_extra(body: &str) -> String {
    let mut review: Value = serde_json::from_str(body).unwrap();
    review["status"]["user"]
        .as_object_mut()
        .unwrap()
        .remove("extra");
    review["spec"].as_object_mut().unwrap().remove("audiences");
    review.to_string()
}

/// Asserts that an issuer that publishes to every caller responds like an API server to a caller who may read the documents.
async fn assert_issuer(get: impl AsyncFn(Method, &str, &[(HeaderName, &str)]) -> ComparedResponse) {
    let json = (ACCEPT, "application/json");
    let key_set = (ACCEPT, "application/jwk-set+json, application/json");
    let only_key_set = [key_set.clone()];
    for (method, path, headers, recorded) in [
        (
            Method::GET,
            DISCOVERY,
            &[json.clone()][..],
            "discovery-accept-json",
        ),
        (Method::GET, JWKS, &[json], "jwks-accept-json"),
        (Method::GET, JWKS, &only_key_set, "jwks-accept-both"),
        (Method::HEAD, JWKS, &[], "jwks-admin-head"),
        (Method::POST, JWKS, &[], "jwks-admin-post"),
        (
            Method::GET,
            JWKS,
            &[key_set, (AUTHORIZATION, "Bearer of.no.issuer")],
            "jwks-other-audience",
        ),
    ] {
        let response = get(method, path, headers).await;
        assert_as_recorded(&format!("v1.20/negotiation/{recorded}"), &response);
    }
    assert_eq!(get(Method::GET, "/nowhere", &[]).await.status, 404);
}

#[tokio::test]
async fn test_issuer_is_as_strict_as_an_api_server() {
    let issuer = TestIssuer::start().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    assert_issuer(async |method, path, headers| {
        let mut request = http.request(method, format!("{}{path}", issuer.url()));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        ComparedResponse::read(request.send().await.unwrap()).await
    })
    .await;
}

#[tokio::test]
async fn test_issuer_that_ignores_accept_changes_only_the_406() {
    let issuer = TestIssuer::start().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = async |method, headers: &[(HeaderName, &str)]| {
        let mut request = http.request(method, format!("{}{JWKS}", issuer.url()));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        ComparedResponse::read(request.send().await.unwrap()).await
    };
    let html = [(ACCEPT, "text/html")];
    let token = [(AUTHORIZATION, "Bearer of.no.issuer")];
    let usual = send(Method::GET, &[(ACCEPT, "application/jwk-set+json")]).await;
    assert_eq!(send(Method::GET, &html).await.status, 406);
    issuer.ignore_accept();
    let response = send(Method::GET, &html).await;
    assert_eq!((response.status, &response.body), (200, &usual.body));
    assert_eq!(response.headers["content-type"], "application/jwk-set+json");
    assert_eq!(send(Method::POST, &html).await.status, 405);
    assert_eq!(send(Method::GET, &token).await.status, 401);
}

#[tokio::test]
async fn discovery_document_of_a_test_issuer_can_have_further_members() {
    let issuer = TestIssuer::start().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let document = async || -> Value {
        let response = http.get(format!("{}{DISCOVERY}", issuer.url())).send();
        let body = response.await.unwrap().bytes().await.unwrap();
        serde_json::from_slice(&body).unwrap()
    };
    let before = document().await;
    assert_eq!(before.get("token_endpoint"), None);
    issuer.set_discovery_member("token_endpoint", "https://id.example/token");
    issuer.set_discovery_member("jwks_uri", "https://id.example/jwks");
    let mut expected = before;
    expected["token_endpoint"] = "https://id.example/token".into();
    expected["jwks_uri"] = "https://id.example/jwks".into();
    assert_eq!(document().await, expected);
}

#[tokio::test]
async fn memory_issuer_is_as_strict_as_an_api_server() {
    let issuer = MemoryIssuer::new("https://cluster.example").unwrap();
    let http = issuer.client();
    assert_issuer(async |method, path, headers| {
        let is_head = method == Method::HEAD;
        let mut request = http.request(method, format!("{}{path}", issuer.url()));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let mut response = ComparedResponse::read(request.send().await.unwrap()).await;
        // Without a socket, the headers and the empty HEAD body that an HTTP server adds are missing.
        response.headers.insert("date".to_owned(), String::new());
        response
            .headers
            .insert("content-length".to_owned(), String::new());
        if is_head {
            response.body.clear();
        }
        response
    })
    .await;
}

#[tokio::test]
async fn stopped_fakes_close_their_connections() {
    let mut issuer = TestIssuer::start().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}{JWKS}", issuer.url());
    assert!(http.get(&url).send().await.is_ok());
    issuer.stop().await;
    assert!(http.get(&url).send().await.is_err());
    issuer.restart().await.unwrap();
    assert!(http.get(&url).send().await.is_ok());

    let mut cluster = Cluster::start().await;
    let url = cluster.url("/readyz");
    assert!(cluster.http.get(&url).send().await.is_ok());
    cluster.server.stop().await;
    assert!(cluster.http.get(&url).send().await.is_err());
    cluster.server.restart().await.unwrap();
    assert!(cluster.http.get(&url).send().await.is_ok());
}
