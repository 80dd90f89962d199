//! The service accounts, pods and roles of a fake cluster.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// The issuer of the cluster's tokens, and the audience of its API server.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The lifetime of the tokens for the API server itself.
const OWN_LIFETIME: Duration = Duration::from_secs(3600);

/// The size in bytes of an RS256 signature by a 2048-bit key.
const SIGNATURE_BYTES: usize = 256;

/// The namespace and the name of an object.
type Key = (String, String);

/// The service accounts, pods and roles of a cluster.
#[derive(Default)]
pub(super) struct Cluster {
    namespaces: HashSet<String>,
    /// The uids of the service accounts.
    accounts: HashMap<Key, String>,
    pods: HashMap<Key, Pod>,
    /// A namespace, the account that may create tokens, and the account that they are for.
    grants: HashSet<(String, String, String)>,
    pub(super) max_expiration: Option<Duration>,
}

#[derive(Debug, Clone)]
pub(super) struct Pod {
    pub(super) uid: String,
    pub(super) account: String,
}

/// The user that has sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Caller {
    Anonymous,
    ServiceAccount { namespace: String, name: String },
}

impl Caller {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Anonymous => "system:anonymous".to_owned(),
            Self::ServiceAccount { namespace, name } => {
                format!("system:serviceaccount:{namespace}:{name}")
            }
        }
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

impl Cluster {
    pub(super) fn create_account(&mut self, namespace: &str, name: &str) {
        self.namespaces.insert(namespace.to_owned());
        let uid = self.accounts.entry(key(namespace, name));
        uid.or_insert_with(random_uid);
    }

    pub(super) fn delete_account(&mut self, namespace: &str, name: &str) {
        self.accounts.remove(&key(namespace, name));
    }

    pub(super) fn account(&self, namespace: &str, name: &str) -> Option<&str> {
        let uid = self.accounts.get(&key(namespace, name));
        uid.map(String::as_str)
    }

    pub(super) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains(namespace)
    }

    pub(super) fn create_pod(&mut self, namespace: &str, name: &str, account: &str) -> String {
        self.namespaces.insert(namespace.to_owned());
        let pod = Pod {
            uid: random_uid(),
            account: account.to_owned(),
        };
        let uid = pod.uid.clone();
        self.pods.insert(key(namespace, name), pod);
        uid
    }

    pub(super) fn delete_pod(&mut self, namespace: &str, name: &str) {
        self.pods.remove(&key(namespace, name));
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<&Pod> {
        self.pods.get(&key(namespace, name))
    }

    pub(super) fn grant(&mut self, namespace: &str, holder: &str, account: &str) {
        let granted = (namespace.to_owned(), holder.to_owned(), account.to_owned());
        self.grants.insert(granted);
    }

    pub(super) fn revoke(&mut self, namespace: &str, holder: &str, account: &str) {
        let granted = (namespace.to_owned(), holder.to_owned(), account.to_owned());
        self.grants.remove(&granted);
    }

    /// Returns whether a caller may create tokens for an account.
    pub(super) fn may_create(&self, caller: &Caller, namespace: &str, account: &str) -> bool {
        let Caller::ServiceAccount {
            namespace: own,
            name,
        } = caller
        else {
            return false;
        };
        let granted = (own.clone(), name.clone(), account.to_owned());
        own == namespace && self.grants.contains(&granted)
    }

    /// Returns the service account of a token for the API server.
    pub(super) fn authenticate(&self, token: &str) -> Result<Caller, ()> {
        let claims = claims_of(token).ok_or(())?;
        let now = unix_seconds(SystemTime::now());
        let is_current = claims["exp"].as_u64().is_none_or(|expiry| expiry > now)
            && claims["nbf"].as_u64().is_none_or(|start| start <= now);
        let is_own = match &claims["aud"] {
            Value::Array(audiences) => audiences.iter().any(|audience| audience == ISSUER),
            audience => audience == ISSUER,
        };
        let bound = &claims["kubernetes.io"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (
            text(&bound["namespace"]),
            text(&bound["serviceaccount"]["name"]),
        );
        let exists = self.account(&namespace, &name) == bound["serviceaccount"]["uid"].as_str();
        let pod = &bound["pod"];
        let has_pod = pod.is_null() || {
            let found = self.pod(&namespace, &text(&pod["name"]));
            found.is_some_and(|found| pod["uid"] == found.uid.as_str())
        };
        let is_named = !name.is_empty();
        if claims["iss"] == ISSUER && is_current && is_own && is_named && exists && has_pod {
            return Ok(Caller::ServiceAccount { namespace, name });
        }
        Err(())
    }

    /// Returns the claims of a token for the API server. Creates the service account and the pod if they do not exist.
    pub(super) fn own_claims(
        &mut self,
        namespace: &str,
        account: &str,
        pod: Option<&str>,
    ) -> Value {
        self.create_account(namespace, account);
        if let Some(pod) = pod
            && self.pod(namespace, pod).is_none()
        {
            self.create_pod(namespace, pod, account);
        }
        self.claims(namespace, account, pod, &[ISSUER.to_owned()], OWN_LIFETIME)
    }

    /// Returns the claims of a token that is issued now.
    pub(super) fn claims(
        &self,
        namespace: &str,
        account: &str,
        pod: Option<&str>,
        audiences: &[String],
        lifetime: Duration,
    ) -> Value {
        let now = unix_seconds(SystemTime::now());
        let uid = self.account(namespace, account).unwrap_or_default();
        let mut bound = json!({
            "namespace": namespace,
            "serviceaccount": { "name": account, "uid": uid },
        });
        if let Some(name) = pod
            && let Some(pod) = self.pod(namespace, name)
        {
            bound["pod"] = json!({ "name": name, "uid": pod.uid });
        }
        json!({
            "aud": audiences,
            "exp": now + lifetime.as_secs(),
            "iat": now,
            "iss": ISSUER,
            "jti": random_uid(),
            "kubernetes.io": bound,
            "nbf": now,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
        })
    }
}

/// Returns the claims of a JWT, or `None` if it is not a JWT.
fn claims_of(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Returns a token with these claims, and a signature that has the right length but is not valid.
pub(super) fn unsigned_token(claims: &Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({ "alg": "RS256", "kid": "fake" });
    format!(
        "{}.{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes()),
        encode(&[0xa5; SIGNATURE_BYTES])
    )
}

pub(super) fn unix_seconds(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs()
}

/// Returns a random UUID (version 4).
fn random_uid() -> String {
    let random = fastrand::u128(..);
    let text = format!("{random:032x}");
    let variant = ["8", "9", "a", "b"][usize::from(fastrand::u8(..4))];
    format!(
        "{}-{}-4{}-{variant}{}-{}",
        &text[..8],
        &text[8..12],
        &text[13..16],
        &text[17..20],
        &text[20..]
    )
}
