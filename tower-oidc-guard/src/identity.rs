//! Who called: what a verified token says.

#[cfg(feature = "axum")]
mod axum;
mod google;
mod kubernetes;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

pub use self::google::{ComputeEngine, GoogleIdentity};
pub use self::kubernetes::{KubernetesIdentity, ObjectRef};
use crate::jose::VerifiedToken;
use crate::jose::claims::Times;

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
    issuer: IssuerNames,
    platform: Platform,
    subject: String,
    audiences: Vec<String>,
    times: Times,
    token_id: Option<String>,
    view: View,
    /// The claims as they stand in the token.
    payload: Box<[u8]>,
}

/// The names of an issuer.
pub(crate) struct IssuerNames {
    /// The one that identities show.
    pub(crate) issuer: Arc<str>,
    /// Others that policies may call it by: those that its tokens may bear, or have borne when the guard was built. A deny
    /// list that names one of them has to keep its callers out.
    pub(crate) accepted: Arc<[String]>,
    /// The one for logs and metrics.
    pub(crate) label: Arc<str>,
}

/// What the platform's tokens say beyond the standard.
enum View {
    Kubernetes(Option<KubernetesIdentity>),
    Google(GoogleIdentity),
    Other,
}

impl Identity {
    pub(crate) fn new(
        issuer: IssuerNames,
        platform: Platform,
        verified: &VerifiedToken<'_>,
    ) -> Self {
        let claims = verified.claims();
        let view = match platform {
            Platform::Kubernetes => View::Kubernetes(KubernetesIdentity::read(claims)),
            Platform::Google => View::Google(GoogleIdentity::read(verified.payload())),
            Platform::Other => View::Other,
        };
        let owned = |text: &Cow<'_, str>| text.clone().into_owned();
        Self(Arc::new(Inner {
            issuer,
            platform,
            subject: owned(&claims.subject),
            audiences: claims.audiences.to_vec(),
            times: claims.times,
            token_id: claims.token_id.as_ref().map(owned),
            view,
            payload: verified.payload().into(),
        }))
    }

    /// When it is valid.
    pub(crate) fn times(&self) -> &Times {
        &self.0.times
    }

    /// The issuer, as the guard's configuration tells it: one of a fixed few.
    pub(crate) fn issuer_label(&self) -> &Arc<str> {
        &self.0.issuer.label
    }

    /// The claims as they stand in the token.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.0.payload
    }

    /// What it takes of memory, about.
    pub(crate) fn size_in_memory(&self) -> usize {
        let texts = self
            .0
            .audiences
            .iter()
            .map(|text| text.len() + size_of::<String>());
        size_of::<Inner>() + 2 * self.0.payload.len() + self.0.subject.len() + texts.sum::<usize>()
    }

    /// Returns the issuer (`iss`), as the token names it. Google's tokens may have either of two spellings of its name; this
    /// returns `https://accounts.google.com` for both.
    pub fn issuer(&self) -> &str {
        &self.0.issuer.issuer
    }

    /// The names that a policy may call the issuer by.
    pub(crate) fn accepted_issuers(&self) -> impl Iterator<Item = &str> {
        let others = self.0.issuer.accepted.iter().map(String::as_str);
        std::iter::once(self.issuer()).chain(others)
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
        time(self.0.times.expires_at)
    }

    /// When the token was issued (`iat`), if it says.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.0.times.issued_at.map(time)
    }

    /// From when on the token is valid (`nbf`), if it says.
    pub fn not_before(&self) -> Option<SystemTime> {
        self.0.times.not_before.map(time)
    }

    /// The token's own id (`jti`), if it has one. Kubernetes writes it to the API server's audit log, as
    /// credential id, from 1.32 on.
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// Namespace, service account, pod and node, where the issuer is a Kubernetes cluster and its
    /// token has the claim `kubernetes.io`, in agreement with its subject.
    pub fn kubernetes(&self) -> Option<&KubernetesIdentity> {
        match &self.0.view {
            View::Kubernetes(kubernetes) => kubernetes.as_ref(),
            _ => None,
        }
    }

    /// Email, authorized party and instance, where the issuer is Google.
    pub fn google(&self) -> Option<&GoogleIdentity> {
        match &self.0.view {
            View::Google(google) => Some(google),
            _ => None,
        }
    }

    /// Deserializes the claims into a type of your own.
    ///
    /// This is `serde_json::from_slice`, with the features of `serde_json` that your build enables and with its limit
    /// of 128 nested levels.
    ///
    /// # Errors
    ///
    /// If the claims do not fit the type.
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
