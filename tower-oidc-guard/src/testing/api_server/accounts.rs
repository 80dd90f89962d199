//! The service accounts of a cluster.

use std::collections::{HashMap, HashSet};

use super::authentication::User;
use crate::testing::claims::uid;

/// The namespace and the name of a service account.
type Key = (String, String);

/// Service accounts, the roles bound to them, and tokens that are accepted as theirs.
#[derive(Default)]
pub(super) struct Accounts {
    uids: HashMap<Key, String>,
    /// The number of accounts that were created. It makes the uid of an account that is created again differ.
    created: u64,
    /// The current pods, by namespace and name. Pods that the tests do not mention do not exist here, but their tokens are
    /// accepted.
    pods: HashMap<Key, String>,
    /// The uids of deleted pods.
    deleted_pods: HashSet<String>,
    reviewers: HashSet<Key>,
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
        let deleted = self.deleted_pods.len();
        let new = || uid(&format!("pod {namespace} {name} {deleted}"));
        self.pods
            .entry(key(namespace, name))
            .or_insert_with(new)
            .clone()
    }

    /// Deletes a pod. A pod of the same name that is created later has another uid.
    pub(super) fn delete_pod(&mut self, namespace: &str, name: &str) {
        let uid = self.ensure_pod(namespace, name);
        self.pods.remove(&key(namespace, name));
        self.deleted_pods.insert(uid);
    }

    /// Returns whether a pod with that uid was deleted.
    pub(super) fn is_pod_deleted(&self, uid: &str) -> bool {
        self.deleted_pods.contains(uid)
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

    pub(super) fn grant_reviews(&mut self, namespace: &str, name: &str) {
        self.reviewers.insert(key(namespace, name));
    }

    pub(super) fn withdraw_reviews(&mut self, namespace: &str, name: &str) {
        self.reviewers.remove(&key(namespace, name));
    }

    pub(super) fn may_review(&self, user: &User) -> bool {
        match user {
            User::ServiceAccount {
                namespace, name, ..
            } => self.reviewers.contains(&key(namespace, name)),
            User::Anonymous | User::Admin => false,
        }
    }
}
