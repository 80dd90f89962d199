//! Pods and nodes of the fake API server, which tokens can be bound to.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::accounts::{Accounts, BoundObject};
use super::authentication::User;
use super::{Shared, not_found};
use crate::testing::kubernetes_http::{forbidden, object, status};
use crate::testing::token::TokenSpec;

/// The kind of an object that a token can be bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pod,
    Node,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Node => "Node",
        }
    }

    /// Returns the name of the kind in paths and messages.
    fn plural(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Node => "nodes",
        }
    }
}

/// The object that a token is bound to.
#[derive(Debug)]
pub(super) struct Binding {
    kind: Kind,
    name: String,
    uid: String,
}

impl Binding {
    /// Adds the object to the claims of a token.
    pub(super) fn add_to(&self, spec: TokenSpec) -> TokenSpec {
        match self.kind {
            Kind::Pod => spec.pod(&self.name).object_uid("pod", &self.uid),
            Kind::Node => spec.node(&self.name).object_uid("node", &self.uid),
        }
    }

    /// Returns the object as the `boundObjectRef` of a TokenRequest.
    pub(super) fn reference(&self) -> Value {
        json!({ "kind": self.kind.name(), "apiVersion": "v1", "name": self.name, "uid": self.uid })
    }
}

impl Accounts {
    /// Returns the object of a `boundObjectRef`, or `None` if there is no reference.
    ///
    /// # Errors
    ///
    /// If the object does not exist or has another uid, or if the pod is of another service account: the response.
    pub(super) fn bound_object(
        &self,
        namespace: &str,
        account: &str,
        reference: &Value,
    ) -> Result<Option<Binding>, Box<Response<String>>> {
        if reference.is_null() {
            return Ok(None);
        }
        let text = |member: &str| reference[member].as_str().unwrap_or_default();
        let name = text("name");
        let (kind, found) = match text("kind") {
            "Pod" => (Kind::Pod, self.pod(namespace, name)),
            "Node" => (Kind::Node, self.node(name)),
            kind => {
                let message = format!("cannot bind token to object of type /v1, Kind={kind}");
                return Err(Box::new(bad_request(&message)));
            }
        };
        let Some(found) = found else {
            return Err(Box::new(not_found(kind.plural(), name)));
        };
        let is_of_another = |owner: &String| owner != account;
        if found.account.as_ref().is_some_and(is_of_another) {
            let message = format!(
                "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
            );
            return Err(Box::new(bad_request(&message)));
        }
        let uid = text("uid");
        if !uid.is_empty() && uid != found.uid {
            // Unlike in other errors, this is the kind and not the plural.
            let kind = kind.name();
            let message = format!(
                "Operation cannot be fulfilled on {kind} {name:?}: the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Box::new(status(
                StatusCode::CONFLICT,
                "Conflict",
                &message,
                Some(json!({ "name": name, "kind": kind })),
            )));
        }
        Ok(Some(Binding {
            kind,
            name: name.to_owned(),
            uid: found.uid.clone(),
        }))
    }
}

impl Shared {
    pub(super) fn create_pod(
        &self,
        user: &User,
        namespace: &str,
        body: &Bytes,
    ) -> Response<String> {
        let (name, pod) = named(body);
        if !user.is_admin() {
            return not_on_objects(user, "create", Kind::Pod, &name);
        }
        let account = pod["spec"]["serviceAccountName"].as_str();
        let account = account.unwrap_or("default");
        let created = self.inner().accounts.create_pod(namespace, &name, account);
        match created {
            Some(created) => {
                let spec = json!({ "serviceAccountName": account });
                let pod = described(Kind::Pod, Some(namespace), &name, &created, spec);
                object(StatusCode::CREATED, &pod)
            }
            None => already_exists(Kind::Pod, &name),
        }
    }

    pub(super) fn delete_pod(&self, user: &User, namespace: &str, name: &str) -> Response<String> {
        if !user.is_admin() {
            return not_on_objects(user, "delete", Kind::Pod, name);
        }
        let mut inner = self.inner();
        let Some(deleted) = inner.accounts.pod(namespace, name).cloned() else {
            return not_found("pods", name);
        };
        inner.accounts.delete_pod(namespace, name);
        let pod = described(Kind::Pod, Some(namespace), name, &deleted, json!({}));
        object(StatusCode::OK, &pod)
    }

    pub(super) fn create_node(&self, user: &User, body: &Bytes) -> Response<String> {
        let (name, _) = named(body);
        if !user.is_admin() {
            return not_on_objects(user, "create", Kind::Node, &name);
        }
        let created = self.inner().accounts.create_node(&name);
        match created {
            Some(created) => {
                let node = described(Kind::Node, None, &name, &created, json!({}));
                object(StatusCode::CREATED, &node)
            }
            None => already_exists(Kind::Node, &name),
        }
    }

    pub(super) fn delete_node(&self, user: &User, name: &str) -> Response<String> {
        if !user.is_admin() {
            return not_on_objects(user, "delete", Kind::Node, name);
        }
        let deleted = self.inner().accounts.delete_node(name);
        match deleted {
            Some(deleted) => {
                let node = described(Kind::Node, None, name, &deleted, json!({}));
                object(StatusCode::OK, &node)
            }
            None => not_found("nodes", name),
        }
    }
}

/// Returns the name of the object in the body of a request, and the object.
fn named(body: &Bytes) -> (String, Value) {
    let object: Value = serde_json::from_slice(body).unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    (name.to_owned(), object)
}

fn described(
    kind: Kind,
    namespace: Option<&str>,
    name: &str,
    bound: &BoundObject,
    spec: Value,
) -> Value {
    let mut metadata = json!({ "name": name, "uid": bound.uid });
    if let Some(namespace) = namespace {
        metadata["namespace"] = namespace.into();
    }
    json!({ "kind": kind.name(), "apiVersion": "v1", "metadata": metadata, "spec": spec })
}

fn bad_request(message: &str) -> Response<String> {
    status(StatusCode::BAD_REQUEST, "BadRequest", message, None)
}

fn already_exists(kind: Kind, name: &str) -> Response<String> {
    status(
        StatusCode::CONFLICT,
        "AlreadyExists",
        &format!("{} {name:?} already exists", kind.plural()),
        Some(json!({ "name": name, "kind": kind.plural() })),
    )
}

fn not_on_objects(user: &User, verb: &str, kind: Kind, name: &str) -> Response<String> {
    let kind = kind.plural();
    forbidden(
        &format!(
            "{kind} {name:?} is forbidden: User {:?} cannot {verb} resource {kind:?} in API group \"\"",
            user.name()
        ),
        json!({ "name": name, "kind": kind }),
    )
}
