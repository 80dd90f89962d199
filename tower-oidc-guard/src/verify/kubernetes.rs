//! What Kubernetes says in its own claim.

use serde::Deserialize;

/// The claim `kubernetes.io` of a service account token.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Kubernetes {
    pub(crate) namespace: String,
    pub(crate) serviceaccount: ObjectRef,
    pub(crate) pod: Option<ObjectRef>,
    pub(crate) node: Option<ObjectRef>,
    pub(crate) warnafter: Option<u64>,
}

/// A Kubernetes object by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct ObjectRef {
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
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
