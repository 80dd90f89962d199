//! The service accounts of a cluster, and the objects that their tokens are bound to.

use std::collections::{HashMap, HashSet};

use super::authentication::User;
use crate::testing::claims::uid;

/// The namespace and the name of a service account or a pod.
type Key = (String, String);

/// A pod or a node.
#[derive(Debug, Clone)]
pub(super) struct BoundObject {
    pub(super) uid: String,
    /// The service account of a pod, if the pod was created by a request.
    pub(super) account: Option<String>,
}

/// Service accounts, the roles bound to them, tokens that are accepted as theirs, and the objects that tokens are bound to.
#[derive(Default)]
pub(super) struct Accounts {
    uids: HashMap<Key, String>,
    /// The number of accounts that were created. It makes the uid of an account that is created again differ.
    created: u64,
    /// The current pods, by namespace and name. Pods that the tests do not mention do not exist here, but their tokens are
    /// accepted.
    pods: HashMap<Key, BoundObject>,
    /// The current nodes, by name.
    nodes: HashMap<String, BoundObject>,
    /// The uids of deleted pods and nodes.
    deleted_objects: HashSet<String>,
    /// The accounts that may create TokenReviews, by the name of the binding that grants it.
    reviewers: HashMap<String, Vec<Key>>,
    accepted: HashMap<String, Key>,
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

impl Accounts {
    /// Creates an account unless it exists, and returns its uid.
    pub(super) fn ensure(&mut self, namespace: &str, name: &str) -> String {
        let created = &mut self.created;
        let new = || {
            *created += 1;
            uid(&format!("account {created} {namespace} {name}"))
        };
        self.uids
            .entry(key(namespace, name))
            .or_insert_with(new)
            .clone()
    }

    pub(super) fn uid(&self, namespace: &str, name: &str) -> Option<String> {
        self.uids.get(&key(namespace, name)).cloned()
    }

    /// Deletes an account. Returns its uid, or `None` if it did not exist.
    pub(super) fn delete(&mut self, namespace: &str, name: &str) -> Option<String> {
        self.uids.remove(&key(namespace, name))
    }

    /// Creates a pod unless it exists, and returns its uid.
    pub(super) fn ensure_pod(&mut self, namespace: &str, name: &str) -> String {
        let deleted = self.deleted_objects.len();
        let new = || BoundObject {
            uid: uid(&format!("pod {namespace} {name} {deleted}")),
            account: None,
        };
        let pod = self.pods.entry(key(namespace, name)).or_insert_with(new);
        pod.uid.clone()
    }

    /// Creates a pod of a service account. Returns it, or `None` if a pod with that name exists.
    pub(super) fn create_pod(
        &mut self,
        namespace: &str,
        name: &str,
        account: &str,
    ) -> Option<BoundObject> {
        if self.pod(namespace, name).is_some() {
            return None;
        }
        self.ensure_pod(namespace, name);
        let pod = self.pods.get_mut(&key(namespace, name))?;
        pod.account = Some(account.to_owned());
        Some(pod.clone())
    }

    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<&BoundObject> {
        self.pods.get(&key(namespace, name))
    }

    /// Deletes a pod, which is created first if it does not exist, since a token may be bound to it. A pod of the same name that is
    /// created later has another uid.
    pub(super) fn delete_pod(&mut self, namespace: &str, name: &str) {
        let uid = self.ensure_pod(namespace, name);
        self.pods.remove(&key(namespace, name));
        self.deleted_objects.insert(uid);
    }

    /// Creates a node. Returns it, or `None` if a node with that name exists.
    pub(super) fn create_node(&mut self, name: &str) -> Option<BoundObject> {
        if self.node(name).is_some() {
            return None;
        }
        let deleted = self.deleted_objects.len();
        let node = BoundObject {
            uid: uid(&format!("node {name} {deleted}")),
            account: None,
        };
        self.nodes.insert(name.to_owned(), node.clone());
        Some(node)
    }

    pub(super) fn node(&self, name: &str) -> Option<&BoundObject> {
        self.nodes.get(name)
    }

    /// Deletes a node. Returns it, or `None` if it did not exist.
    pub(super) fn delete_node(&mut self, name: &str) -> Option<BoundObject> {
        let node = self.nodes.remove(name)?;
        self.deleted_objects.insert(node.uid.clone());
        Some(node)
    }

    /// Returns whether a pod or a node with that uid was deleted.
    pub(super) fn is_deleted(&self, uid: &str) -> bool {
        self.deleted_objects.contains(uid)
    }

    /// Accepts `token` as a token of that account, whatever its claims are.
    pub(super) fn accept(&mut self, token: String, namespace: &str, name: &str) {
        self.accepted.insert(token, key(namespace, name));
    }

    /// Returns the account whose token was passed to [`accept`](Self::accept), if it was and the account exists.
    pub(super) fn accepted(&self, token: &str) -> Option<User> {
        let (namespace, name) = self.accepted.get(token)?.clone();
        let uid = self.uid(&namespace, &name)?;
        Some(User::ServiceAccount {
            namespace,
            name,
            uid,
        })
    }

    /// Lets accounts create TokenReviews until the binding of that name is deleted.
    pub(super) fn grant_reviews<'a>(
        &mut self,
        binding: &str,
        accounts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let accounts = accounts
            .into_iter()
            .map(|(namespace, name)| key(namespace, name));
        let granted = self.reviewers.entry(binding.to_owned()).or_default();
        granted.extend(accounts);
    }

    /// Removes an account from all bindings.
    pub(super) fn withdraw_reviews(&mut self, namespace: &str, name: &str) {
        let account = key(namespace, name);
        for granted in self.reviewers.values_mut() {
            granted.retain(|granted| *granted != account);
        }
    }

    /// Deletes a binding. Returns whether it existed.
    pub(super) fn delete_binding(&mut self, binding: &str) -> bool {
        self.reviewers.remove(binding).is_some()
    }

    pub(super) fn may_review(&self, user: &User) -> bool {
        match user {
            User::ServiceAccount {
                namespace, name, ..
            } => {
                let account = key(namespace, name);
                let mut granted = self.reviewers.values().flatten();
                granted.any(|granted| *granted == account)
            }
            User::Anonymous | User::Admin => false,
        }
    }
}
