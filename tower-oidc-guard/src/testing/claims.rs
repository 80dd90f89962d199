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

    /// Creates claims that any provider's tokens have.
    pub(super) fn oidc(issuer: &str, subject: &str) -> Self {
        Self::new(issuer, Format::Kubernetes).claim("sub", subject.into())
    }

    fn new(issuer: &str, format: Format) -> Self {
        let mut claims = Map::from_iter([("iss".to_owned(), issuer.into())]);
        if format == Format::Kubernetes {
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
            Format::Google => Map::from_iter([("typ".to_owned(), "JWT".into())]),
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
        if self.format == Format::Kubernetes {
            add("nbf", &|| issued_at.into());
            add("aud", &|| json!([]));
        }
        if self.format == Format::Google
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
