//! The claims of Kubernetes service account tokens.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::system_time;
use crate::jose::claims::Claims;
use reqwest_wi_auth::json_object::{Object, object, optional_object};

/// A service account of a Kubernetes cluster and the pod that uses it. Returned by
/// [`Identity::kubernetes`](crate::Identity::kubernetes).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesIdentity {
    namespace: String,
    service_account: ObjectRef,
    pod: Option<ObjectRef>,
    node: Option<ObjectRef>,
    warn_after: Option<SystemTime>,
}

impl KubernetesIdentity {
    /// Reads the claim `kubernetes.io`. Returns `None` if it is missing or does not agree with the subject, which is what
    /// Kubernetes itself uses.
    pub(super) fn from_claims(claims: &Claims<'_>) -> Option<Self> {
        let Object(claim): Object<Claim> = serde_json::from_str(claims.kubernetes?.get()).ok()?;
        let subject = &*claims.subject;
        let (namespace, name) = subject
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')?;
        (claim.namespace == namespace && claim.serviceaccount.name == name).then(|| Self {
            namespace: claim.namespace,
            service_account: claim.serviceaccount,
            pod: claim.pod,
            node: claim.node,
            warn_after: claim.warnafter.map(Duration::from_secs).map(system_time),
        })
    }

    /// Returns the namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the service account.
    pub fn service_account(&self) -> &ObjectRef {
        &self.service_account
    }

    /// Returns the pod that the token is bound to, or `None` if it is not bound to a pod.
    ///
    /// The pod may have been deleted since the token was issued: only the API server knows.
    pub fn pod(&self) -> Option<&ObjectRef> {
        self.pod.as_ref()
    }

    /// Returns the node that the pod runs on. Tokens have it from Kubernetes 1.30 on.
    pub fn node(&self) -> Option<&ObjectRef> {
        self.node.as_ref()
    }

    /// Returns the time at which the token should have been replaced (`warnafter`). Tokens that are valid for a year have it.
    pub fn warn_after(&self) -> Option<SystemTime> {
        self.warn_after
    }
}

/// The claim `kubernetes.io` of a service account token.
#[derive(Debug, Clone, Deserialize)]
struct Claim {
    namespace: String,
    #[serde(deserialize_with = "object")]
    serviceaccount: ObjectRef,
    #[serde(default, deserialize_with = "optional_object")]
    pod: Option<ObjectRef>,
    #[serde(default, deserialize_with = "optional_object")]
    node: Option<ObjectRef>,
    warnafter: Option<u64>,
}

/// The name and uid of a Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct ObjectRef {
    name: String,
    uid: Option<String>,
}

impl ObjectRef {
    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the uid, which differs from that of any later object with the same name.
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }
}
