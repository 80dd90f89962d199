//! The API servers that the suite runs against: the fake, and a real one.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tower_oidc_guard::testing::FakeApiServer;

pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A signature algorithm of the cluster's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    Rs256,
    Es256,
}

pub enum Backend {
    Fake(Box<FakeApiServer>),
    Real(RealApiServer),
}

/// A response to a raw request.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

impl Backend {
    pub async fn fake() -> Self {
        let server = FakeApiServer::start().await.unwrap();
        for namespace in ["id-namespace", "other"] {
            for name in ["gke-sa", "stranger", "guard"] {
                server.create_service_account(namespace, name);
            }
        }
        Self::Fake(Box::new(server))
    }

    /// Starts a real server with that program.
    pub fn real(program: OsString) -> Self {
        Self::Real(RealApiServer::start(program))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Fake(_) => "fake",
            Self::Real(_) => "real",
        }
    }

    pub fn host(&self) -> String {
        match self {
            Self::Fake(server) => server.host(),
            Self::Real(server) => server.host.clone(),
        }
    }

    pub fn port(&self) -> String {
        match self {
            Self::Fake(server) => server.port(),
            Self::Real(server) => server.port.clone(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.host(), self.port())
    }

    pub fn ca_pem(&self) -> String {
        match self {
            Self::Fake(server) => server.ca_pem(),
            Self::Real(server) => server.run(&["ca"]),
        }
    }

    /// Requests a token with TokenRequest that is valid for 600 s. Without an audience, it is for the API server.
    pub async fn token(&self, namespace: &str, account: &str, audience: Option<&str>) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let audiences: Vec<_> = audience.into_iter().collect();
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "audiences": audiences, "expirationSeconds": 600 },
        });
        let response = self.admin("POST", &path, Some(&request)).await;
        assert_eq!(response.status, 201, "{response:?}");
        response.json()["status"]["token"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Requests a token of `gke-sa` with TokenRequest that is bound to this object, as the administrator.
    pub async fn request_bound_token(
        &self,
        kind: &str,
        object: &Value,
        audience: &str,
    ) -> Response {
        let metadata = &object["metadata"];
        let reference = json!({
            "apiVersion": "v1", "kind": kind, "name": metadata["name"], "uid": metadata["uid"],
        });
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": { "audiences": [audience], "expirationSeconds": 600, "boundObjectRef": reference },
        });
        let path = "/api/v1/namespaces/id-namespace/serviceaccounts/gke-sa/token";
        self.admin("POST", path, Some(&request)).await
    }

    /// Returns how long the server may repeat that a token is valid after its object was deleted. A real one caches the result of
    /// a valid token for 10 s.
    pub fn review_cache(&self) -> Duration {
        match self {
            Self::Fake(_) => Duration::ZERO,
            Self::Real(_) => Duration::from_secs(10),
        }
    }

    /// Sends a request as administrator.
    pub async fn admin(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        match self {
            Self::Fake(server) => {
                let token = server.admin_token();
                self.request(method, path, Some(&token), body).await
            }
            Self::Real(server) => server.curl(method, &self.url(path), body),
        }
    }

    /// Sends a request with this token, or without a token.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Response {
        let mut request = self
            .http()
            .request(method.parse().unwrap(), self.url(path))
            .header("content-type", "application/json");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let response = request.send().await.unwrap();
        Response {
            status: response.status().as_u16(),
            body: response.text().await.unwrap(),
        }
    }

    /// Returns a client that trusts only the server's CA.
    pub fn http(&self) -> reqwest::Client {
        let ca = reqwest::Certificate::from_pem(self.ca_pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
        builder.build().unwrap()
    }

    /// Generates a new signing key of that type. The old keys stay published.
    pub fn rotate_key(&mut self, key_type: KeyType) {
        match self {
            Self::Fake(server) => {
                use tower_oidc_guard::Algorithm;
                let algorithm = match key_type {
                    KeyType::Rs256 => Algorithm::RS256,
                    KeyType::Es256 => Algorithm::ES256,
                };
                server.rotate_key_to(algorithm).unwrap();
            }
            Self::Real(server) => server.rotate_key(key_type),
        }
    }

    pub fn withdraw_old_keys(&mut self) {
        match self {
            Self::Fake(server) => server.withdraw_old_keys(),
            Self::Real(server) => {
                server.keys.truncate(1);
                server.restart();
            }
        }
    }

    pub async fn stop(&mut self) {
        match self {
            Self::Fake(server) => server.stop().await,
            Self::Real(server) => drop(server.run(&["down", "keep-etcd"])),
        }
    }

    /// Starts the server again, and returns when it is ready.
    pub async fn restart(&mut self) {
        match self {
            Self::Fake(server) => server.restart().await.unwrap(),
            Self::Real(server) => server.up(),
        }
    }

    /// Returns whether the server accepts tokens of several issuers at a time, as Kubernetes 1.22 and later do.
    pub fn accepts_several_issuers(&self) -> bool {
        match self {
            Self::Fake(_) => true,
            Self::Real(server) => server.accepts_several_issuers(),
        }
    }

    /// Changes the issuer of new tokens. Tokens of the old issuer are still accepted, if the server supports several.
    pub fn migrate_to_issuer(&mut self, issuer: &str) {
        match self {
            Self::Fake(server) => server.set_issuers([issuer, ISSUER]),
            Self::Real(server) => {
                server.issuers = vec![issuer.to_owned(), ISSUER.to_owned()];
                if !server.accepts_several_issuers() {
                    server.issuers.truncate(1);
                }
                server.restart();
            }
        }
    }
}

/// A kube-apiserver that is controlled by a program with the commands of `demo/kubernetes/apiserver.sh`.
pub struct RealApiServer {
    program: OsString,
    host: String,
    port: String,
    /// The signing key, and then the other published keys.
    keys: Vec<String>,
    generated_keys: usize,
    issuers: Vec<String>,
}

impl RealApiServer {
    fn start(program: OsString) -> Self {
        let mut server = Self {
            program,
            host: String::new(),
            port: String::new(),
            keys: vec!["rsa1".to_owned()],
            generated_keys: 1,
            issuers: vec![ISSUER.to_owned()],
        };
        // An interrupted run may have left a server with other keys and objects.
        server.run(&["down"]);
        server.up();
        let address = server.run(&["address"]);
        let (host, port) = address.trim().split_once(' ').unwrap();
        (server.host, server.port) = (host.to_owned(), port.to_owned());
        server
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // Tests run in the package's directory, while the path is relative to the root of the repository.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut command = Command::new(root.join(&self.program));
        command
            .args(arguments)
            .env("ISSUER", self.issuers.join(" "));
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let (text, errors) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{arguments:?}: {text} {errors}");
        text
    }

    fn curl(&self, method: &str, url: &str, body: Option<&Value>) -> Response {
        let body = body.map(Value::to_string);
        let mut arguments = vec!["curl", "-X", method, "-w", "\n%{http_code}", url];
        if let Some(body) = &body {
            arguments.extend(["-H", "content-type: application/json", "-d", body]);
        }
        let text = self.run(&arguments);
        let (body, status) = text.rsplit_once('\n').unwrap();
        Response {
            status: status.trim().parse().unwrap(),
            body: body.to_owned(),
        }
    }

    fn up(&mut self) {
        let keys = self.keys.iter().map(String::as_str);
        let arguments: Vec<_> = std::iter::once("up").chain(keys).collect();
        self.run(&arguments);
    }

    fn restart(&mut self) {
        self.run(&["down", "keep-etcd"]);
        self.up();
        // Gives clients the time to notice that their connections to the old server are closed.
        std::thread::sleep(Duration::from_millis(100));
    }

    fn rotate_key(&mut self, key_type: KeyType) {
        self.generated_keys += 1;
        let number = self.generated_keys;
        let key = match key_type {
            KeyType::Rs256 => format!("rsa{number}"),
            KeyType::Es256 => format!("ec{number}"),
        };
        self.keys.insert(0, key);
        self.restart();
    }

    fn accepts_several_issuers(&self) -> bool {
        self.run(&["several-issuers"]).trim() == "yes"
    }
}

impl Drop for RealApiServer {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
    }
}
