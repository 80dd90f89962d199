//! Who called: what a verified token says.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use crate::verify::Verified;
use crate::verify::kubernetes::Kubernetes;
pub use crate::verify::kubernetes::ObjectRef;

/// The platform that stands behind an issuer, and so what its subjects mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// A Kubernetes cluster: its subjects are `system:serviceaccount:<namespace>:<name>`.
    Kubernetes,
    /// Google, as the signer of workloads' and users' identity tokens.
    Google,
    /// Any other OpenID Connect issuer: its subjects are its own affair.
    Other,
}

/// The caller, as its verified token names it.
///
/// Nothing but verification makes one. Cloning copies a pointer. The guard puts it into the request's
/// extensions; with the feature `axum` it is an extractor too.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    issuer: Arc<str>,
    platform: Platform,
    subject: String,
    audiences: Vec<String>,
    expires_at: Duration,
    not_before: Option<Duration>,
    issued_at: Option<Duration>,
    token_id: Option<String>,
    kubernetes: Option<KubernetesIdentity>,
    /// The claims as they stand in the token.
    payload: Box<[u8]>,
}

impl Identity {
    pub(crate) fn new(issuer: Arc<str>, platform: Platform, verified: &Verified<'_>) -> Self {
        let claims = verified.claims();
        let kubernetes = claims
            .kubernetes
            .filter(|_| platform == Platform::Kubernetes)
            .and_then(|claim| serde_json::from_str(claim.get()).ok())
            .and_then(|claim| KubernetesIdentity::new(claim, &claims.subject));
        let owned = |text: &Cow<'_, str>| text.clone().into_owned();
        Self(Arc::new(Inner {
            issuer,
            platform,
            subject: owned(&claims.subject),
            audiences: claims.audiences.iter().map(owned).collect(),
            expires_at: claims.expires_at,
            not_before: claims.not_before,
            issued_at: claims.issued_at,
            token_id: claims.token_id.as_ref().map(owned),
            kubernetes,
            payload: verified.payload().into(),
        }))
    }

    /// The issuer (`iss`), as the guard's configuration spells it.
    pub fn issuer(&self) -> &str {
        &self.0.issuer
    }

    /// The platform of the issuer, as the guard's configuration has it.
    pub fn platform(&self) -> Platform {
        self.0.platform
    }

    /// The subject (`sub`): who the token is about. Unique within its issuer only.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// All audiences (`aud`), of which one at least is this service's.
    pub fn audiences(&self) -> &[String] {
        &self.0.audiences
    }

    /// When the token expires (`exp`).
    pub fn expires_at(&self) -> SystemTime {
        time(self.0.expires_at)
    }

    /// When the token was issued (`iat`), if it says.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.0.issued_at.map(time)
    }

    /// From when on the token is valid (`nbf`), if it says.
    pub fn not_before(&self) -> Option<SystemTime> {
        self.0.not_before.map(time)
    }

    /// The token's own id (`jti`), if it has one. Kubernetes writes it to the API server's audit log, as
    /// credential id, from 1.32 on.
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// Namespace, service account, pod and node, where the issuer is a Kubernetes cluster and its
    /// token has the claim `kubernetes.io`, in agreement with its subject.
    pub fn kubernetes(&self) -> Option<&KubernetesIdentity> {
        self.0.kubernetes.as_ref()
    }

    /// The claims as a type of your own.
    ///
    /// # Errors
    ///
    /// Where the claims do not fit the type.
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0.payload)
    }
}

/// Far beyond any calendar, a time is as good as the last that can be said.
fn time(since_epoch: Duration) -> SystemTime {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    SystemTime::UNIX_EPOCH + since_epoch.min(LAST)
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("issuer", &self.issuer())
            .field("platform", &self.platform())
            .field("subject", &self.subject())
            .field("audiences", &self.audiences())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

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
    fn new(claim: Kubernetes, subject: &str) -> Option<Self> {
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

#[cfg(feature = "axum")]
impl<S: Sync> axum_core::extract::FromRequestParts<S> for Identity {
    type Rejection = http::StatusCode;

    /// Answers 500 where no guard stands before the route: that is the server's mistake.
    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or(http::StatusCode::INTERNAL_SERVER_ERROR)
    }
}
