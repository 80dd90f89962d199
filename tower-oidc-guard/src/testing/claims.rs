//! The claims of a token or identity for tests.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

/// The issuer of Google's tokens.
pub(super) const GOOGLE: &str = "https://accounts.google.com";
/// The issuer of a cluster that does not configure another one.
pub(super) const KUBERNETES: &str = "https://kubernetes.default.svc.cluster.local";
/// The issuer of the tokens of GitHub Actions.
pub(super) const GITHUB_ACTIONS: &str = "https://token.actions.githubusercontent.com";
/// The repository of a job of GitHub Actions, unless another one is set.
const DEFAULT_REPOSITORY: &str = "octo-org/octo-repo";
/// The project of a job of GitLab CI/CD, unless another one is set.
const DEFAULT_PROJECT: &str = "my-group/my-project";
/// The commit of a job.
const COMMIT: &str = "714a629c0b401fdce83e847fc9589983fc6f46bc";
/// The default service account of a project of Google Cloud.
const DEFAULT_GOOGLE_ACCOUNT: &str = "739419398126-compute@developer.gserviceaccount.com";

/// The claims of a token, and the header members that such tokens have beside `alg` and `kid`.
#[derive(Debug, Clone)]
pub(super) struct TestClaims {
    format: Format,
    claims: Map<String, Value>,
    /// Claims that were removed and are not added again.
    removed: BTreeSet<String>,
    pub(super) issued_at: SystemTime,
    pub(super) lifetime: Duration,
}

/// The format of the claims that tokens of all platforms have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `aud` is an array; there are `nbf` and `jti`; the header has no `typ`.
    Kubernetes,
    /// A single audience is a string; there is no `nbf` and no `jti`; the header has the `typ` `JWT`.
    Google,
    /// A single audience is a string; there are `nbf` and `jti`; the header has the `typ` `JWT`.
    Job,
}

impl TestClaims {
    /// Creates the claims of a Kubernetes 1.36 token that is bound to a pod.
    pub(super) fn kubernetes(issuer: &str, namespace: &str, name: &str) -> Self {
        Self::new(issuer, Format::Kubernetes).service_account(namespace, name)
    }

    /// Creates the claims of an identity token of a service account of Google Cloud.
    pub(super) fn google(issuer: &str) -> Self {
        Self::new(issuer, Format::Google).google_service_account(DEFAULT_GOOGLE_ACCOUNT)
    }

    /// Creates the claims of a job of GitHub Actions.
    pub(super) fn github_actions(issuer: &str) -> Self {
        Self::new(issuer, Format::Job).github_repository(DEFAULT_REPOSITORY)
    }

    /// Creates the claims of a job of GitLab CI/CD.
    pub(super) fn gitlab(issuer: &str) -> Self {
        Self::new(issuer, Format::Job).gitlab_project(DEFAULT_PROJECT)
    }

    /// Creates claims that any provider's tokens have.
    pub(super) fn oidc(issuer: &str, subject: &str) -> Self {
        Self::new(issuer, Format::Kubernetes).claim("sub", subject.into())
    }

    fn new(issuer: &str, format: Format) -> Self {
        let mut claims = Map::from_iter([("iss".to_owned(), issuer.into())]);
        if format != Format::Google {
            claims.insert("jti".to_owned(), token_id(issuer).into());
        }
        Self {
            format,
            claims,
            removed: BTreeSet::new(),
            issued_at: SystemTime::now(),
            lifetime: Duration::from_secs(3600),
        }
    }

    pub(super) fn audience(mut self, audience: String) -> Self {
        let audience = Value::String(audience);
        match self.claims.get_mut("aud") {
            Some(Value::Array(audiences)) => audiences.push(audience),
            _ => drop(self.claims.insert("aud".to_owned(), json!([audience]))),
        }
        self.removed.remove("aud");
        self
    }

    pub(super) fn claim(mut self, name: impl Into<String>, value: Value) -> Self {
        let name = name.into();
        self.removed.remove(&name);
        self.claims.insert(name, value);
        self
    }

    pub(super) fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self.removed.insert(name.to_owned());
        self
    }

    pub(super) fn service_account(self, namespace: &str, name: &str) -> Self {
        let kubernetes = json!({
            "namespace": namespace,
            "node": { "name": "node", "uid": uid("node node") },
            "pod": { "name": name, "uid": uid(&format!("pod {namespace} {name}")) },
            "serviceaccount": { "name": name, "uid": uid(&format!("sa {namespace} {name}")) },
        });
        let subject = format!("system:serviceaccount:{namespace}:{name}");
        self.claim("kubernetes.io", kubernetes)
            .claim("sub", subject.into())
    }

    pub(super) fn pod(self, name: &str) -> Self {
        let namespace = self.kubernetes_claim("namespace");
        let namespace = namespace.and_then(Value::as_str).unwrap_or_default();
        let uid = uid(&format!("pod {namespace} {name}"));
        self.kubernetes_member("pod", json!({ "name": name, "uid": uid }))
    }

    pub(super) fn node(self, name: &str) -> Self {
        let uid = uid(&format!("node {name}"));
        self.kubernetes_member("node", json!({ "name": name, "uid": uid }))
    }

    pub(super) fn without_pod(mut self) -> Self {
        if let Some(Value::Object(kubernetes)) = self.claims.get_mut("kubernetes.io") {
            kubernetes.remove("pod");
            kubernetes.remove("node");
        }
        self
    }

    pub(super) fn warn_after(self, time: SystemTime) -> Self {
        self.kubernetes_member("warnafter", unix_seconds(time).into())
    }

    /// Sets the uid of the service account or the pod.
    pub(super) fn object_uid(mut self, object: &str, uid: &str) -> Self {
        if let Some(object) = self
            .claims
            .get_mut("kubernetes.io")
            .and_then(|claim| claim.get_mut(object))
        {
            object["uid"] = uid.into();
        }
        self
    }

    fn kubernetes_claim(&self, member: &str) -> Option<&Value> {
        self.claims.get("kubernetes.io")?.get(member)
    }

    /// Sets a member of the claim `kubernetes.io`, which is created if the token does not have it.
    fn kubernetes_member(mut self, name: &str, value: Value) -> Self {
        let claim = self.claims.entry("kubernetes.io");
        let claim = claim.or_insert_with(|| json!({}));
        if let Value::Object(members) = claim {
            members.insert(name.to_owned(), value);
        }
        self.removed.remove("kubernetes.io");
        self
    }

    pub(super) fn google_account(mut self, subject: &str, email: &str) -> Self {
        self.format = Format::Google;
        self.claims.remove("kubernetes.io");
        self.claims.remove("jti");
        self.claim("sub", subject.into())
            .claim("azp", subject.into())
            .claim("email", email.into())
            .claim("email_verified", true.into())
    }

    pub(super) fn google_service_account(self, email: &str) -> Self {
        let id = number(email);
        // Google's account IDs have 21 digits, and those of service accounts start with 1.
        self.google_account(&format!("1{id:020}"), email)
    }

    pub(super) fn github_repository(self, repository: &str) -> Self {
        let (owner, _) = repository.split_once('/').unwrap_or((repository, ""));
        let workflow = format!("{repository}/.github/workflows/deploy.yml@refs/heads/main");
        self.texts([
            ("sub", format!("repo:{repository}:ref:refs/heads/main")),
            ("repository", repository.to_owned()),
            ("repository_id", short_number(repository)),
            ("repository_owner", owner.to_owned()),
            ("repository_owner_id", short_number(owner)),
            ("repository_visibility", "private".to_owned()),
            ("ref", "refs/heads/main".to_owned()),
            ("ref_type", "branch".to_owned()),
            ("ref_protected", "true".to_owned()),
            ("sha", COMMIT.to_owned()),
            ("head_ref", String::new()),
            ("base_ref", String::new()),
            ("event_name", "push".to_owned()),
            ("workflow", "Deploy".to_owned()),
            ("workflow_ref", workflow.clone()),
            ("workflow_sha", COMMIT.to_owned()),
            ("job_workflow_ref", workflow),
            ("job_workflow_sha", COMMIT.to_owned()),
            ("actor", "octocat".to_owned()),
            ("actor_id", "583231".to_owned()),
            ("run_id", short_number(&format!("run of {repository}"))),
            ("run_number", "10".to_owned()),
            ("run_attempt", "1".to_owned()),
            ("runner_environment", "github-hosted".to_owned()),
        ])
    }

    pub(super) fn gitlab_project(self, path: &str) -> Self {
        let (namespace, _) = path.rsplit_once('/').unwrap_or((path, ""));
        let host = self.issuer().trim_start_matches("https://").to_owned();
        let file = format!("{host}/{path}//.gitlab-ci.yml@refs/heads/main");
        let claims = self.texts([
            (
                "sub",
                format!("project_path:{path}:ref_type:branch:ref:main"),
            ),
            ("project_id", short_number(path)),
            ("project_path", path.to_owned()),
            ("namespace_id", short_number(namespace)),
            ("namespace_path", namespace.to_owned()),
            ("job_project_id", short_number(path)),
            ("job_project_path", path.to_owned()),
            ("job_namespace_id", short_number(namespace)),
            ("job_namespace_path", namespace.to_owned()),
            ("project_visibility", "private".to_owned()),
            ("user_id", "1".to_owned()),
            ("user_login", "sample-user".to_owned()),
            ("user_email", "sample-user@example.com".to_owned()),
            ("pipeline_id", "574".to_owned()),
            ("pipeline_source", "push".to_owned()),
            ("job_id", "302".to_owned()),
            ("ref", "main".to_owned()),
            ("ref_type", "branch".to_owned()),
            ("ref_path", "refs/heads/main".to_owned()),
            ("ref_protected", "true".to_owned()),
            ("sha", COMMIT.to_owned()),
            ("ci_config_ref_uri", file),
            ("ci_config_sha", COMMIT.to_owned()),
            ("runner_environment", "self-hosted".to_owned()),
        ]);
        claims.claim("runner_id", 1.into())
    }

    fn texts<const N: usize>(self, claims: [(&str, String); N]) -> Self {
        let claims = claims.into_iter();
        claims.fold(self, |all, (name, text)| all.claim(name, text.into()))
    }

    pub(super) fn compute_engine(self, project_id: &str, zone: &str, instance_name: &str) -> Self {
        let instance = json!({
            "instance_creation_timestamp": unix_seconds(self.issued_at).saturating_sub(3600),
            "instance_id": number(instance_name).to_string(),
            "instance_name": instance_name,
            "project_id": project_id,
            "project_number": number(project_id) % 1_000_000_000_000,
            "zone": zone,
        });
        self.claim("google", json!({ "compute_engine": instance }))
    }

    /// Returns the `iss`.
    pub(super) fn issuer(&self) -> &str {
        self.claims
            .get("iss")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Returns the header members that such tokens have beside `alg` and `kid`.
    pub(super) fn header(&self) -> Map<String, Value> {
        match self.format {
            Format::Kubernetes => Map::new(),
            Format::Google | Format::Job => Map::from_iter([("typ".to_owned(), "JWT".into())]),
        }
    }

    /// Returns all claims.
    pub(super) fn to_json(&self) -> Value {
        let issued_at = unix_seconds(self.issued_at);
        let mut claims = self.claims.clone();
        let mut add = |name: &str, value: &dyn Fn() -> Value| {
            if !self.removed.contains(name) {
                claims.entry(name).or_insert_with(value);
            }
        };
        add("exp", &|| (issued_at + self.lifetime.as_secs()).into());
        add("iat", &|| issued_at.into());
        if self.format != Format::Google {
            add("nbf", &|| issued_at.into());
        }
        if self.format == Format::Kubernetes {
            add("aud", &|| json!([]));
        }
        if self.format != Format::Kubernetes
            && let Some(Value::Array(audiences)) = claims.get_mut("aud")
            && audiences.len() == 1
            && let Some(only) = audiences.pop()
        {
            claims.insert("aud".to_owned(), only);
        }
        Value::Object(claims)
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// Returns a number that is the same for the same text.
fn number(text: &str) -> u64 {
    let hash = digest(&SHA256, text.as_bytes());
    let bytes = hash.as_ref().iter().take(8);
    bytes.fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

/// Returns an ID of a repository or project, of at most nine digits, which is derived from the text.
fn short_number(text: &str) -> String {
    (number(text) % 1_000_000_000).to_string()
}

/// Returns a uid in the format of Kubernetes. It is the same for the same text.
pub(super) fn uid(object: &str) -> String {
    let hash = digest(&SHA256, object.as_bytes());
    let hex: String = hash.as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Returns a uid that no other token of this issuer has.
fn token_id(issuer: &str) -> String {
    static MINTED: AtomicU64 = AtomicU64::new(0);
    let count = MINTED.fetch_add(1, Ordering::Relaxed);
    uid(&format!("token {count} of {issuer} {}", std::process::id()))
}
