//! The steps of the suite about programs that request tokens from the API server (TokenRequest).

use std::time::{Duration, SystemTime};

use reqwest_wi_auth::testing::FakeTokenRequestServer;
use reqwest_wi_auth::{Error, FetchError, FetchedToken, TokenSource as _};
use serde_json::{Value, json};

use super::backend::{Backend, Response};
use super::pod::{AUDIENCE, GKE_SA, Pod};
use super::steps::eventually;

const ACCOUNTS: &str = "/api/v1/namespaces/id-namespace/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/id-namespace/pods";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/id-namespace";

/// Without the role, the error names it. With it, a guard accepts the token, which is bound to the program's pod. The role is
/// limited to the service accounts in `resourceNames`.
pub async fn a_program_requests_tokens_with_its_own_one_and_a_role(server: &mut Backend) {
    let requester = create_pod(server, "requester", "gke-sa").await;
    let own = server
        .request_bound_token("Pod", &requester, &api_audience(server).await)
        .await;
    let own = own.json()["status"]["token"].take();
    let pod = Pod::with(server, own.as_str().unwrap(), &server.ca_pem());
    let token_request = pod.token_request().build().unwrap();

    let source = token_request.start(AUDIENCE);
    let error = last_error(&source).await;
    let text = error.to_string();
    for part in [
        "403 Forbidden",
        "id-namespace/gke-sa lacks a Role with the verb `create` on `serviceaccounts/token`",
        "kubectl create role token-request-gke-sa --namespace=id-namespace",
    ] {
        assert!(text.contains(part), "{text}");
    }

    grant(server, "token-request", &["gke-sa", "ephemeral"]).await;
    let token = eventually(async || source.refresh(None).await.ok()).await;
    let lifetime = token
        .expires_at()
        .unwrap()
        .duration_since(SystemTime::now());
    let lifetime = lifetime.unwrap().as_secs();
    assert!((590..=600).contains(&lifetime), "{lifetime}");
    let guard = pod.guard();
    let text = token.header().to_str().unwrap();
    let text = text.strip_prefix("Bearer ").unwrap();
    let identity = guard.verifier().verify(text).await.unwrap();
    assert_eq!(identity.subject(), GKE_SA);
    let bound = identity.kubernetes().and_then(|account| account.pod());
    let bound = bound.unwrap();
    assert_eq!(bound.name(), "requester");
    let uid = requester["metadata"]["uid"].as_str();
    assert_eq!(bound.uid(), uid);

    let longest = Duration::from_secs(1 << 32);
    let longest = pod.token_request().expiration(longest).build().unwrap();
    let token = longest.open(AUDIENCE).await.unwrap().current().unwrap();
    let lifetime = token
        .expires_at()
        .unwrap()
        .duration_since(SystemTime::now());
    assert!(lifetime.unwrap() > Duration::from_secs(600));

    let other = pod.token_request().service_account("stranger");
    let error = last_error(&other.build().unwrap().start(AUDIENCE)).await;
    let text = error.to_string();
    assert!(text.contains("--resource-name=stranger"), "{text}");

    let stale = pod.token_request().pod("requester", "no-such-uid");
    let error = last_error(&stale.build().unwrap().start(AUDIENCE)).await;
    assert_status(&error, 409, "with the uid no-such-uid");

    a_deleted_service_account_gets_no_tokens(server, &pod).await;

    // The API server may accept the program's own token for 10 s after the deletion of its pod.
    let path = format!("{PODS}/requester?gracePeriodSeconds=0");
    assert_eq!(server.admin("DELETE", &path, None).await.status, 200);
    let error = last_error(&token_request.start(AUDIENCE)).await;
    let Error::Fetch(FetchError::Status { status, .. }) = &error else {
        panic!("{error}");
    };
    assert!(matches!(status.as_u16(), 401 | 404), "{error}");
    delete_role(server, "token-request").await;
}

async fn a_deleted_service_account_gets_no_tokens(server: &mut Backend, pod: &Pod) {
    let account = json!({ "metadata": { "name": "ephemeral" } });
    let created = server.admin("POST", ACCOUNTS, Some(&account)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let builder = pod.token_request().service_account("ephemeral");
    let token_request = builder.build().unwrap();
    token_request.open(AUDIENCE).await.unwrap();
    let path = format!("{ACCOUNTS}/ephemeral");
    assert_eq!(server.admin("DELETE", &path, None).await.status, 200);
    let error = eventually(async || token_request.open(AUDIENCE).await.err()).await;
    assert_status(&error, 404, "id-namespace/ephemeral does not exist");
}

fn assert_status(error: &Error, expected: u16, part: &str) {
    let Error::Fetch(FetchError::Status { status, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(status.as_u16(), expected, "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

/// Returns the error of the first request of a source.
async fn last_error(source: &FetchedToken) -> Error {
    eventually(async || source.health().last_error).await
}

/// Returns the audience of the API server.
async fn api_audience(server: &Backend) -> String {
    let request = json!({ "spec": { "expirationSeconds": 600 } });
    let path = format!("{ACCOUNTS}/gke-sa/token");
    let response = server.admin("POST", &path, Some(&request)).await.json();
    response["spec"]["audiences"][0]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Creates a pod that never runs, and returns it.
async fn create_pod(server: &Backend, name: &str, account: &str) -> Value {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": false,
            "containers": [{ "name": "none", "image": "none.invalid/none" }],
            // In a cluster with nodes, the pod is not scheduled to one of them.
            "nodeSelector": { "none": "none" },
        },
    });
    let created = server.admin("POST", PODS, Some(&pod)).await;
    assert_eq!(created.status, 201, "{created:?}");
    created.json()
}

/// Lets `gke-sa` create tokens of these service accounts.
async fn grant(server: &Backend, role: &str, accounts: &[&str]) {
    let rules = json!([{
        "apiGroups": [""],
        "resources": ["serviceaccounts/token"],
        "resourceNames": accounts,
        "verbs": ["create"],
    }]);
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": { "name": role },
        "rules": rules,
    });
    let path = format!("{RBAC}/roles");
    let created = server.admin("POST", &path, Some(&body)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let body = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": { "name": role },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role },
        "subjects": [{ "kind": "ServiceAccount", "namespace": "id-namespace", "name": "gke-sa" }],
    });
    let path = format!("{RBAC}/rolebindings");
    let created = server.admin("POST", &path, Some(&body)).await;
    assert_eq!(created.status, 201, "{created:?}");
}

async fn delete_role(server: &Backend, role: &str) {
    for kind in ["rolebindings", "roles"] {
        let path = format!("{RBAC}/{kind}/{role}");
        assert_eq!(server.admin("DELETE", &path, None).await.status, 200);
    }
}

/// A server of the TokenRequest API, on which `gke-sa` may create tokens of `gke-sa` and of `nobody`, which does not exist. The pods
/// `raw` and `raw-other` are of `gke-sa` and `stranger`.
struct RawServer {
    http: reqwest::Client,
    url: String,
    holder: String,
    stranger: String,
    pod_uid: String,
}

/// The caller of a raw request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Holder,
    Stranger,
    Anonymous,
    Invalid,
}

impl RawServer {
    async fn send(
        &self,
        method: &str,
        account: &str,
        caller: Caller,
        accept: &str,
        body: &str,
    ) -> Response {
        let url = format!("{}{ACCOUNTS}/{account}/token", self.url);
        let request = self.http.request(method.parse().unwrap(), url);
        let request = request.header("accept", accept).body(body.to_owned());
        let request = match caller {
            Caller::Holder => request.bearer_auth(&self.holder),
            Caller::Stranger => request.bearer_auth(&self.stranger),
            Caller::Anonymous => request,
            Caller::Invalid => request.bearer_auth("a.b.c"),
        };
        let response = request.send().await.unwrap();
        Response {
            status: response.status().as_u16(),
            body: response.text().await.unwrap(),
        }
    }

    /// Verifies that each kind of request gets the response of a real server.
    async fn verify(&self) {
        const JSON: &str = "application/json";
        let request = |spec: Value| {
            let kind = ("TokenRequest", "authentication.k8s.io/v1");
            json!({ "kind": kind.0, "apiVersion": kind.1, "spec": spec }).to_string()
        };
        let seconds =
            |seconds: i64| request(json!({ "audiences": ["a"], "expirationSeconds": seconds }));
        let bound = |reference: Value| {
            request(
                json!({ "audiences": ["a"], "expirationSeconds": 600, "boundObjectRef": reference }),
            )
        };
        let pod = |name: &str, uid: &str| {
            bound(json!({ "kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid }))
        };
        let granted = seconds(600);
        let forbidden = |user: &str, verb: &str| {
            format!(
                "serviceaccounts \"gke-sa\" is forbidden: User \"{user}\" cannot {verb} resource \"serviceaccounts/token\" in API group \"\" in the namespace \"id-namespace\""
            )
        };
        let holder = "system:serviceaccount:id-namespace:gke-sa";
        let stranger = "system:serviceaccount:id-namespace:stranger";
        let invalid = |seconds: &str, limit: &str| {
            format!(
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {seconds}: may not specify a duration {limit}"
            )
        };
        let own = |text: &str| text.to_owned();
        use Caller::{Anonymous, Holder, Invalid, Stranger};
        let cases = [
            (
                ("POST", "gke-sa", Anonymous, JSON, granted.clone()),
                (403, "Forbidden", forbidden("system:anonymous", "create")),
            ),
            (
                ("POST", "gke-sa", Invalid, JSON, granted.clone()),
                (401, "Unauthorized", own("Unauthorized")),
            ),
            (
                ("POST", "gke-sa", Stranger, JSON, granted.clone()),
                (403, "Forbidden", forbidden(stranger, "create")),
            ),
            (
                ("POST", "gke-sa", Stranger, JSON, own("hello")),
                (403, "Forbidden", forbidden(stranger, "create")),
            ),
            (
                ("GET", "gke-sa", Stranger, JSON, own("")),
                (403, "Forbidden", forbidden(stranger, "get")),
            ),
            (
                ("GET", "gke-sa", Holder, JSON, own("")),
                (403, "Forbidden", forbidden(holder, "get")),
            ),
            (
                ("PUT", "gke-sa", Holder, JSON, granted.clone()),
                (403, "Forbidden", forbidden(holder, "update")),
            ),
            (
                ("POST", "gke-sa", Holder, "text/plain", granted.clone()),
                (406, "NotAcceptable", own("406: Not Acceptable")),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, own("hello")),
                (
                    400,
                    "BadRequest",
                    own(
                        "the object provided is unrecognized (must be of type TokenRequest): couldn't get version/kind; json parse error",
                    ),
                ),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, own("")),
                (
                    400,
                    "BadRequest",
                    own(
                        "the object provided is unrecognized (must be of type TokenRequest): couldn't get version/kind; json parse error",
                    ),
                ),
            ),
            (
                (
                    "POST",
                    "gke-sa",
                    Holder,
                    JSON,
                    own(r#"{"kind":"Pod","apiVersion":"v1"}"#),
                ),
                (
                    400,
                    "BadRequest",
                    own("Pod in version \"v1\" cannot be handled as a TokenRequest"),
                ),
            ),
            (
                (
                    "POST",
                    "gke-sa",
                    Holder,
                    JSON,
                    granted.replace("k8s.io/v1", "k8s.io/v0"),
                ),
                (
                    400,
                    "BadRequest",
                    own(
                        "TokenRequest in version \"v0\" cannot be handled as a TokenRequest: no kind \"TokenRequest\" is registered",
                    ),
                ),
            ),
            (
                (
                    "POST",
                    "gke-sa",
                    Holder,
                    JSON,
                    request(json!({ "audiences": "a" })),
                ),
                (
                    400,
                    "BadRequest",
                    own("TokenRequest in version \"v1\" cannot be handled as a TokenRequest"),
                ),
            ),
            (
                (
                    "POST",
                    "gke-sa",
                    Holder,
                    JSON,
                    request(json!({ "expirationSeconds": "600" })),
                ),
                (
                    400,
                    "BadRequest",
                    own("TokenRequest in version \"v1\" cannot be handled as a TokenRequest"),
                ),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, seconds(599)),
                (422, "Invalid", invalid("599", "less than 10 minutes")),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, seconds(-1)),
                (422, "Invalid", invalid("-1", "less than 10 minutes")),
            ),
            (
                ("POST", "nobody", Holder, JSON, seconds(5)),
                (422, "Invalid", invalid("5", "less than 10 minutes")),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, seconds((1 << 32) + 1)),
                (
                    422,
                    "Invalid",
                    invalid("4294967297", "larger than 2^32 seconds"),
                ),
            ),
            (
                ("POST", "nobody", Holder, JSON, granted.clone()),
                (404, "NotFound", own("serviceaccounts \"nobody\" not found")),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, pod("missing", "")),
                (404, "NotFound", own("pods \"missing\" not found")),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, pod("raw", "1")),
                (
                    409,
                    "Conflict",
                    own(
                        "Operation cannot be fulfilled on Pod \"raw\": the UID in the bound object reference (1) does not match the UID in record.",
                    ),
                ),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, pod("raw-other", "1")),
                (
                    400,
                    "BadRequest",
                    own(
                        "cannot bind token for serviceaccount \"gke-sa\" to pod running with different serviceaccount name.",
                    ),
                ),
            ),
            (
                ("POST", "gke-sa", Holder, JSON, pod("", "")),
                (400, "BadRequest", own("Name parameter required.")),
            ),
            (
                (
                    "POST",
                    "gke-sa",
                    Holder,
                    JSON,
                    bound(json!({ "kind": "ConfigMap", "apiVersion": "v1", "name": "a" })),
                ),
                (
                    400,
                    "BadRequest",
                    own("cannot bind token to object of type /v1, Kind=ConfigMap"),
                ),
            ),
        ];
        for ((method, account, caller, accept, body), (status, reason, message)) in cases {
            let response = self.send(method, account, caller, accept, &body).await;
            let context = format!("{method} {account} {caller:?} {body}: {response:?}");
            assert_eq!(response.status, status, "{context}");
            let failure = response.json();
            assert_eq!(failure["kind"], "Status", "{context}");
            assert_eq!(failure["reason"], reason, "{context}");
            assert_eq!(failure["code"], status, "{context}");
            let found = failure["message"].as_str().unwrap();
            assert!(found.starts_with(&message), "{context}, expected {message}");
        }
        let references = [
            (Value::Null, None),
            (
                json!({ "kind": "Pod", "apiVersion": "v1", "name": "raw", "uid": self.pod_uid }),
                Some("raw"),
            ),
            (json!({ "kind": "Pod", "name": "raw" }), Some("raw")),
        ];
        for (reference, pod) in references {
            let spec = json!({ "audiences": [AUDIENCE, "b"], "expirationSeconds": 601, "boundObjectRef": reference });
            let response = self
                .send("POST", "gke-sa", Holder, "*/*", &request(spec))
                .await;
            assert_eq!(response.status, 201, "{response:?}");
            let object = response.json();
            assert_eq!(object["kind"], "TokenRequest");
            assert_eq!(object["apiVersion"], "authentication.k8s.io/v1");
            let spec = &object["spec"];
            assert_eq!(spec["audiences"], json!([AUDIENCE, "b"]));
            assert_eq!(spec["expirationSeconds"], 601);
            assert_eq!(spec["boundObjectRef"]["name"].as_str(), pod);
            let claims = claims(object["status"]["token"].as_str().unwrap());
            assert_eq!(claims["aud"], spec["audiences"]);
            assert_eq!(claims["sub"], holder);
            assert_eq!(
                claims["exp"].as_u64(),
                claims["iat"].as_u64().map(|issued| issued + 601)
            );
            let bound = &claims["kubernetes.io"];
            assert_eq!(bound["namespace"], "id-namespace");
            assert_eq!(bound["serviceaccount"]["name"], "gke-sa");
            assert_eq!(bound["pod"]["name"].as_str(), pod);
            let uid = pod.map(|_| self.pod_uid.as_str());
            assert_eq!(bound["pod"]["uid"].as_str(), uid);
            let timestamp = object["status"]["expirationTimestamp"].as_str().unwrap();
            assert!(
                timestamp.ends_with('Z') && timestamp.len() == 20,
                "{timestamp}"
            );
        }
        let response = self.send("POST", "gke-sa", Holder, JSON, "{}").await;
        let object = response.json();
        assert_eq!(object["spec"]["expirationSeconds"], 3600, "{response:?}");
        assert_eq!(
            object["spec"]["audiences"].as_array().map(Vec::len),
            Some(1)
        );
    }
}

/// Returns the claims of a token.
fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
    serde_json::from_slice(&payload.unwrap()).unwrap()
}

/// In place of the fake API server, which is for guards, the fake of the TokenRequest API is compared with the real server.
pub async fn token_requests_as_raw_requests_of_a_service_account(server: &mut Backend) {
    if matches!(server, Backend::Fake(_)) {
        let fake = FakeTokenRequestServer::start().await.unwrap();
        fake.create_service_account("id-namespace", "stranger");
        let holder = fake.own_token("id-namespace", "gke-sa");
        for account in ["gke-sa", "nobody"] {
            fake.grant("id-namespace", "gke-sa", account);
        }
        fake.create_pod("id-namespace", "raw-other", "stranger");
        let server = RawServer {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            url: fake.url(),
            holder,
            stranger: fake.own_token("id-namespace", "stranger"),
            pod_uid: fake.create_pod("id-namespace", "raw", "gke-sa"),
        };
        server.verify().await;
        return;
    }
    let pod = create_pod(server, "raw", "gke-sa").await;
    create_pod(server, "raw-other", "stranger").await;
    grant(server, "raw", &["gke-sa", "nobody"]).await;
    let raw = RawServer {
        http: server.http(),
        url: server.url(""),
        holder: server.token("id-namespace", "gke-sa", None).await,
        stranger: server.token("id-namespace", "stranger", None).await,
        pod_uid: pod["metadata"]["uid"].as_str().unwrap().to_owned(),
    };
    // A role takes effect within a moment.
    eventually(async || {
        let response = raw.send("POST", "gke-sa", Caller::Holder, "*/*", "{}");
        (response.await.status == 201).then_some(())
    })
    .await;
    raw.verify().await;
    delete_role(server, "raw").await;
    for name in ["raw", "raw-other"] {
        let path = format!("{PODS}/{name}?gracePeriodSeconds=0");
        assert_eq!(server.admin("DELETE", &path, None).await.status, 200);
    }
}
