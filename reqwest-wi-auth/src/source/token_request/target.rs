//! The subject, audience and pod of a requested token, and what to do if the request is rejected.

use std::sync::Arc;

use super::account::{Account, OwnIdentity, Pod};
use crate::source::http::Endpoint;
use crate::token::Token;
use crate::token::jwt::Audiences;

/// The subject, audience and pod of a requested token.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) endpoint: Endpoint,
    pub(super) audience: String,
    pub(super) account: Account,
    /// The pod that the token is bound to, and where its name comes from.
    pub(super) pod: Option<(Pod, PodOrigin)>,
    /// The program's own identity.
    pub(super) own: OwnIdentity,
    /// Where the program's own token comes from.
    pub(super) credential: Arc<str>,
    /// When the program's own token expires, as text.
    pub(super) credential_expiry: String,
}

/// Where the name of a pod comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PodOrigin {
    Setting,
    Environment,
    Claims,
}

impl PodOrigin {
    fn name(self) -> &'static str {
        match self {
            Self::Setting => "the setting `pod`",
            Self::Environment => "the environment variable POD_NAME",
            Self::Claims => "the claims of the program's own token",
        }
    }
}

impl Target {
    /// Explains why the API server does not accept the program's own token.
    pub(super) fn rejected_credential(&self) -> String {
        let own = &self.own;
        let holder = own.account.as_ref().map_or_else(
            || "of an unknown account".to_owned(),
            |own| format!("of the service account {}/{}", own.namespace, own.name),
        );
        let audiences = Audiences(&own.audiences);
        format!(
            "it does not accept the program's own token from {}, which is {holder}, for {audiences}, and {}; the token must be of this cluster and for the audience of its API server, and neither its service account nor its pod may have been deleted",
            self.credential, self.credential_expiry
        )
    }

    /// Explains which Role is missing, and how to create it.
    pub(super) fn missing_role(&self) -> String {
        let Account { namespace, name } = &self.account;
        let role = format!(
            "a Role with the verb `create` on `serviceaccounts/token` for the service account `{name}` in the namespace `{namespace}`"
        );
        let create_role = format!(
            "kubectl create role token-request-{name} --namespace={namespace} --verb=create --resource=serviceaccounts/token --resource-name={name}"
        );
        let (holder, subject) = match &self.own.account {
            Some(own) => (
                format!("the service account {}/{}", own.namespace, own.name),
                format!("{}:{}", own.namespace, own.name),
            ),
            None => (
                "the account of the program's own token".to_owned(),
                "NAMESPACE:NAME".to_owned(),
            ),
        };
        format!(
            "{holder} lacks {role}; create it with `{create_role} && kubectl create rolebinding token-request-{name} --namespace={namespace} --role=token-request-{name} --serviceaccount={subject}`"
        )
    }

    /// Explains that there is no pod of this name and uid.
    pub(super) fn missing_pod(&self) -> Option<String> {
        let (pod, origin) = self.pod.as_ref()?;
        let uid = pod.uid.as_ref().map(|uid| format!(" with the uid {uid}"));
        Some(format!(
            "there is no pod {}/{}{}, which the token is to be bound to (from {}); a pod that was deleted gets no tokens; check POD_NAME and POD_UID, or do not bind the token (`without_pod`)",
            self.account.namespace,
            pod.name,
            uid.unwrap_or_default(),
            origin.name()
        ))
    }

    /// Explains that the pod runs with another service account.
    pub(super) fn other_pod(&self) -> Option<String> {
        let Account { namespace, name } = &self.account;
        let (pod, origin) = self.pod.as_ref()?;
        Some(format!(
            "the pod {namespace}/{} (from {}) does not run with the service account `{name}`; do not bind the token to it (`without_pod`)",
            pod.name,
            origin.name()
        ))
    }
}

/// Describes when a token expires.
pub(super) fn describe_expiry(token: &Token, now: std::time::SystemTime) -> String {
    let Some(expiry) = token.expires_at() else {
        return "does not expire".to_owned();
    };
    match expiry.duration_since(now) {
        Ok(left) => format!("expires in {} s", left.as_secs()),
        Err(since) => format!("expired {} s ago", since.duration().as_secs()),
    }
}
