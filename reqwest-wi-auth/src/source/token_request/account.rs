//! The service account that a token belongs to, according to its claims.

use serde::Deserialize;

use crate::token::Token;

/// The longest name of a namespace (a DNS label), in bytes.
const MAX_LABEL_BYTES: usize = 63;

/// The longest name of a service account or a pod (a DNS subdomain), in bytes.
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// A pod. The namespace is that of the service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) uid: Option<String>,
}

/// The identity in the claims of the program's own token.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnIdentity {
    pub(super) account: Option<Account>,
    /// The pod that the token is bound to.
    pub(super) pod: Option<Pod>,
    pub(super) audiences: Vec<String>,
}

#[derive(Deserialize)]
struct Payload {
    sub: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
    /// Tokens in secrets, which are not bound to an object and do not expire, have these two claims.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    legacy_namespace: Option<String>,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    legacy_name: Option<String>,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: Option<String>,
    serviceaccount: Option<Object>,
    pod: Option<Object>,
}

#[derive(Deserialize)]
struct Object {
    name: Option<String>,
    uid: Option<String>,
}

impl OwnIdentity {
    /// Reads the claims of a token. They are not verified: that is up to the API server. Nothing is known about a token that is not
    /// a JWT or not one of a service account.
    pub(super) fn from_claims(token: &Token) -> Self {
        let audiences = match Token::parse_jwt(token.text().as_bytes()) {
            Ok((_, audiences)) => audiences,
            Err(_) => return Self::default(),
        };
        let Ok(payload) = token.claims::<Payload>() else {
            return Self {
                audiences,
                ..Self::default()
            };
        };
        let bound = payload.kubernetes.map(Kubernetes::account_and_pod);
        let (account, pod) = bound.unwrap_or_default();
        let legacy = payload.legacy_namespace.zip(payload.legacy_name);
        let legacy = || legacy.and_then(|(namespace, name)| Account::new(namespace, name));
        let by_subject = || payload.sub.as_deref().and_then(Account::from_subject);
        Self {
            account: account.or_else(legacy).or_else(by_subject),
            pod,
            audiences,
        }
    }
}

impl Kubernetes {
    fn account_and_pod(self) -> (Option<Account>, Option<Pod>) {
        let name = self.serviceaccount.and_then(|account| account.name);
        let account = self
            .namespace
            .zip(name)
            .and_then(|(namespace, name)| Account::new(namespace, name));
        let pod = self.pod.and_then(|pod| Pod::new(&pod.name?, pod.uid));
        (account, pod)
    }
}

impl Account {
    /// Returns a service account, or `None` if the names are not valid.
    pub(super) fn new(namespace: String, name: String) -> Option<Self> {
        let is_valid = is_label(&namespace) && is_subdomain(&name);
        is_valid.then_some(Self { namespace, name })
    }

    /// Parses a subject: `system:serviceaccount:NAMESPACE:NAME`.
    pub(super) fn from_subject(subject: &str) -> Option<Self> {
        let names = subject.strip_prefix("system:serviceaccount:")?;
        let (namespace, name) = names.split_once(':')?;
        Self::new(namespace.to_owned(), name.to_owned())
    }
}

impl Pod {
    /// Returns a pod, or `None` if the name is not valid. An empty uid is none.
    pub(super) fn new(name: &str, uid: Option<String>) -> Option<Self> {
        is_subdomain(name).then(|| Self {
            name: name.to_owned(),
            uid: uid.filter(|uid| !uid.is_empty()),
        })
    }
}

/// Returns whether a text is a DNS label (RFC 1123) in lower case, as the name of a namespace is.
pub(super) fn is_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    text.len() <= MAX_LABEL_BYTES
        && text.bytes().all(is_inner)
        && !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Returns whether a text is a DNS subdomain (RFC 1123) in lower case, as the name of a service account or a pod is.
pub(super) fn is_subdomain(text: &str) -> bool {
    // A label may have more than 63 bytes here, as in Kubernetes.
    let is_part = |part: &str| {
        let is_inner =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !part.is_empty()
            && part.bytes().all(is_inner)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= MAX_SUBDOMAIN_BYTES && text.split('.').all(is_part)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn identity(claims: &str) -> OwnIdentity {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let header = encode(br#"{"alg":"RS256"}"#);
        let signature = encode(&[0xa5; 256]);
        let token = format!("{header}.{}.{signature}", encode(claims.as_bytes()));
        OwnIdentity::from_claims(&Token::new(token).unwrap())
    }

    fn account(namespace: &str, name: &str) -> Option<Account> {
        Account::new(namespace.to_owned(), name.to_owned())
    }

    #[test]
    fn the_account_and_the_pod_are_those_of_the_claims() {
        // The claims of an automounted token of Kubernetes 1.36.
        let bound = identity(
            r#"{"aud":["https://kubernetes.default.svc.cluster.local"],"exp":1827000346,"iat":1795464346,
            "iss":"https://kubernetes.default.svc.cluster.local","jti":"ce9ce207-31ef-4268-9a8a-4ed56ed00ca9",
            "kubernetes.io":{"namespace":"id-namespace","node":{"name":"rig","uid":"5e26b769-225b-4452-8ca4-52774c94bf11"},
            "pod":{"name":"orders-0","uid":"148179e6-b9d5-4fa6-8584-2d106e542148"},
            "serviceaccount":{"name":"gke-sa","uid":"4754cbc1-d9c7-4e47-ad4d-d5940ba8fc90"},"warnafter":1795467953},
            "nbf":1795464346,"sub":"system:serviceaccount:id-namespace:gke-sa"}"#,
        );
        assert_eq!(bound.account, account("id-namespace", "gke-sa"));
        let pod = bound.pod.unwrap();
        assert_eq!(pod.name, "orders-0");
        let uid = "148179e6-b9d5-4fa6-8584-2d106e542148";
        assert_eq!(pod.uid.as_deref(), Some(uid));
        let audience = "https://kubernetes.default.svc.cluster.local";
        assert_eq!(bound.audiences, [audience]);
    }

    #[test]
    fn the_account_of_a_legacy_token_is_that_of_its_claims() {
        // The claims of an automounted token of Kubernetes 1.20.
        let legacy = identity(
            r#"{"iss":"kubernetes/serviceaccount","kubernetes.io/serviceaccount/namespace":"id-namespace",
            "kubernetes.io/serviceaccount/secret.name":"gke-sa-token-klhlt",
            "kubernetes.io/serviceaccount/service-account.name":"gke-sa",
            "kubernetes.io/serviceaccount/service-account.uid":"731b0dff-b1c1-4083-8f95-0abce5d7f1d1",
            "sub":"system:serviceaccount:id-namespace:other"}"#,
        );
        assert_eq!(legacy.account, account("id-namespace", "gke-sa"));
        assert_eq!((legacy.pod, legacy.audiences), (None, vec![]));
    }

    #[test]
    fn the_subject_is_used_if_there_are_no_other_claims() {
        let by_subject = |subject: &str| identity(&format!(r#"{{"sub":"{subject}"}}"#)).account;
        let subject = "system:serviceaccount:id-namespace:gke-sa";
        assert_eq!(by_subject(subject), account("id-namespace", "gke-sa"));
        assert!(account("id-namespace", "gke-sa").is_some());
        for subject in [
            "admin",
            "system:node:rig",
            "system:serviceaccount:id-namespace",
            "system:serviceaccount:id-namespace:",
            "system:serviceaccount::gke-sa",
            "system:serviceaccount:a/b:gke-sa",
            "system:serviceaccount:id-namespace:../../secrets",
        ] {
            assert_eq!(by_subject(subject), None, "{subject}");
        }
    }

    #[test]
    fn nothing_is_known_about_a_token_without_claims() {
        let opaque = Token::opaque("s3cr3t").unwrap();
        assert_eq!(OwnIdentity::from_claims(&opaque), OwnIdentity::default());
        for claims in [
            r#"{"kubernetes.io":{}}"#,
            r#"{"sub":1}"#,
            r#"{"kubernetes.io":{"namespace":1}}"#,
            r#"{"kubernetes.io":{"namespace":"a","serviceaccount":{},"pod":{}}}"#,
        ] {
            assert_eq!(identity(claims), OwnIdentity::default(), "{claims}");
        }
    }

    #[test]
    fn names_that_would_change_the_path_are_not_valid() {
        for name in ["gke-sa", "a", "0", "a.b", "a.b-c.d"] {
            assert!(is_subdomain(name), "{name}");
        }
        for name in [
            "", ".", "..", "a/b", "a..b", ".a", "a.", "-a", "a-", "A", "ä", "a b", "a%2fb", "a\n",
        ] {
            assert!(!is_subdomain(name) && !is_label(name), "{name:?}");
        }
        assert!(is_label("id-namespace") && !is_label("a.b") && !is_label(&"a".repeat(64)));
        assert!(!is_subdomain(&"a".repeat(254)));
    }
}
