//! What Kubernetes says of a caller.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::time;
use crate::jose::claims::Claims;

/// A service account of a Kubernetes cluster, and the pod it acts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubernetesIdentity {
    namespace: String,
    service_account: ObjectRef,
    pod: Option<ObjectRef>,
    node: Option<ObjectRef>,
    warn_after: Option<SystemTime>,
}

impl KubernetesIdentity {
    /// The subject is what Kubernetes goes by; a claim that differs from it says nothing.
    pub(super) fn read(claims: &Claims<'_>) -> Option<Self> {
        let claim: Claim = serde_json::from_str(claims.kubernetes?.get()).ok()?;
        let subject = &*claims.subject;
        let (namespace, name) = subject
            .strip_prefix("system:serviceaccount:")?
            .split_once(':')?;
        (claim.namespace == namespace && claim.serviceaccount.name == name).then(|| Self {
            namespace: claim.namespace,
            service_account: claim.serviceaccount,
            pod: claim.pod,
            node: claim.node,
            warn_after: claim.warnafter.map(Duration::from_secs).map(time),
        })
    }

    /// The namespace of the service account.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &ObjectRef {
        &self.service_account
    }

    /// The pod that the token is bound to, if it is. The pod may be gone by now: the signature does
    /// not tell.
    pub fn pod(&self) -> Option<&ObjectRef> {
        self.pod.as_ref()
    }

    /// The node that the pod runs on, told by Kubernetes 1.30 and later.
    pub fn node(&self) -> Option<&ObjectRef> {
        self.node.as_ref()
    }

    /// When a token that formally lives for a year should have been replaced (`warnafter`).
    pub fn warn_after(&self) -> Option<SystemTime> {
        self.warn_after
    }
}

/// The claim `kubernetes.io` of a service account token.
#[derive(Debug, Clone, Deserialize)]
struct Claim {
    namespace: String,
    serviceaccount: ObjectRef,
    pod: Option<ObjectRef>,
    node: Option<ObjectRef>,
    warnafter: Option<u64>,
}

/// A Kubernetes object by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct ObjectRef {
    name: String,
    uid: Option<String>,
}

impl ObjectRef {
    /// The object's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object's uid, which no later object of that name has again.
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }
}
