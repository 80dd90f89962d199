//! Roles in the fake API server that let service accounts create tokens of service accounts (TokenRequest).

use std::collections::HashMap;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::authentication::User;
use super::{Shared, strings};
use crate::testing::kubernetes_http::{forbidden, object, status};

const GROUP: &str = "rbac.authorization.k8s.io";
const TOKENS: &str = "serviceaccounts/token";

/// The namespace and the name of an object.
type Key = (String, String);

/// The kind of an object that is created and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RoleKind {
    Role,
    RoleBinding,
}

impl RoleKind {
    fn name(self) -> &'static str {
        match self {
            Self::Role => "Role",
            Self::RoleBinding => "RoleBinding",
        }
    }

    /// Returns the name of the kind in paths and messages.
    fn plural(self) -> &'static str {
        match self {
            Self::Role => "roles",
            Self::RoleBinding => "rolebindings",
        }
    }

    /// Returns the kind of the objects at a path.
    pub(super) fn from_plural(plural: &str) -> Option<Self> {
        [Self::Role, Self::RoleBinding]
            .into_iter()
            .find(|kind| kind.plural() == plural)
    }
}

/// The Roles and RoleBindings of all namespaces.
#[derive(Default)]
pub(super) struct TokenRoles {
    /// The rules of a Role with `create` on `serviceaccounts/token`: the names of the service accounts, or none for all.
    roles: HashMap<Key, Vec<Vec<String>>>,
    bindings: HashMap<Key, Binding>,
}

struct Binding {
    role: String,
    holders: Vec<Key>,
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

impl TokenRoles {
    /// Lets a service account create tokens of a service account in its namespace.
    pub(super) fn grant(&mut self, namespace: &str, holder: &str, account: &str) {
        let name = key(namespace, &format!("{holder} {account}"));
        let rules = vec![vec![account.to_owned()]];
        self.roles.insert(name.clone(), rules);
        let binding = Binding {
            role: name.1.clone(),
            holders: vec![key(namespace, holder)],
        };
        self.bindings.insert(name, binding);
    }

    /// Withdraws what [`grant`](Self::grant) grants.
    pub(super) fn withdraw(&mut self, namespace: &str, holder: &str, account: &str) {
        let name = key(namespace, &format!("{holder} {account}"));
        self.bindings.remove(&name);
    }

    /// Returns whether a user may create tokens of a service account.
    pub(super) fn may_create(&self, user: &User, namespace: &str, account: &str) -> bool {
        let User::ServiceAccount {
            namespace: own,
            name,
            ..
        } = user
        else {
            return user.is_admin();
        };
        let holder = key(own, name);
        let granted =
            |rule: &Vec<String>| rule.is_empty() || rule.iter().any(|granted| granted == account);
        self.bindings.iter().any(|((of, _), binding)| {
            of == namespace
                && binding.holders.contains(&holder)
                && self
                    .roles
                    .get(&key(namespace, &binding.role))
                    .is_some_and(|rules| rules.iter().any(granted))
        })
    }

    fn create(&mut self, kind: RoleKind, namespace: &str, name: &str, created: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match kind {
            RoleKind::Role => {
                let rules = created["rules"].as_array().into_iter().flatten();
                let is_for_tokens = |rule: &&Value| {
                    let contains = |member: &str, expected: &str| {
                        let values = strings(&rule[member]);
                        values.iter().any(|value| value == expected || value == "*")
                    };
                    contains("verbs", "create")
                        && contains("resources", TOKENS)
                        && contains("apiGroups", "")
                };
                let rules = rules
                    .filter(is_for_tokens)
                    .map(|rule| strings(&rule["resourceNames"]))
                    .collect();
                self.roles.insert(key(namespace, name), rules);
            }
            RoleKind::RoleBinding => {
                let subjects = created["subjects"].as_array().into_iter().flatten();
                let holders = subjects
                    .filter(|subject| subject["kind"] == "ServiceAccount")
                    .map(|subject| (text(&subject["namespace"]), text(&subject["name"])))
                    .collect();
                let role = &created["roleRef"];
                let role = if role["kind"] == "Role" {
                    text(&role["name"])
                } else {
                    String::new()
                };
                let binding = Binding { role, holders };
                self.bindings.insert(key(namespace, name), binding);
            }
        }
    }

    /// Deletes an object. Returns whether it existed.
    fn delete(&mut self, kind: RoleKind, namespace: &str, name: &str) -> bool {
        let name = key(namespace, name);
        match kind {
            RoleKind::Role => self.roles.remove(&name).is_some(),
            RoleKind::RoleBinding => self.bindings.remove(&name).is_some(),
        }
    }
}

impl Shared {
    pub(super) fn create_role(
        &self,
        user: &User,
        kind: RoleKind,
        namespace: &str,
        body: &Bytes,
    ) -> Response<String> {
        let mut created: Value = serde_json::from_slice(body).unwrap_or_default();
        if !user.is_admin() {
            return not_on_roles(user, "create", kind, namespace);
        }
        let name = created["metadata"]["name"].as_str().unwrap_or_default();
        let name = name.to_owned();
        let mut inner = self.inner();
        inner.token_roles.create(kind, namespace, &name, &created);
        created["kind"] = kind.name().into();
        created["apiVersion"] = format!("{GROUP}/v1").into();
        object(StatusCode::CREATED, &created)
    }

    pub(super) fn delete_role(
        &self,
        user: &User,
        kind: RoleKind,
        namespace: &str,
        name: &str,
    ) -> Response<String> {
        if !user.is_admin() {
            return not_on_roles(user, "delete", kind, namespace);
        }
        let details = json!({ "name": name, "group": GROUP, "kind": kind.plural() });
        if !self.inner().token_roles.delete(kind, namespace, name) {
            return status(
                StatusCode::NOT_FOUND,
                "NotFound",
                &format!("{}.{GROUP} {name:?} not found", kind.plural()),
                Some(details),
            );
        }
        object(
            StatusCode::OK,
            &json!({
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Success",
                "details": details,
            }),
        )
    }
}

fn not_on_roles(user: &User, verb: &str, kind: RoleKind, namespace: &str) -> Response<String> {
    let plural = kind.plural();
    forbidden(
        &format!(
            "{plural}.{GROUP} is forbidden: User {:?} cannot {verb} resource {plural:?} in API group {GROUP:?} in the namespace {namespace:?}",
            user.name()
        ),
        json!({ "group": GROUP, "kind": plural }),
    )
}
