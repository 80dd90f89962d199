//! The identity of a caller: the claims of a verified token.

mod expired;
mod github_actions;
mod gitlab;
mod google;
mod kubernetes;
mod text_claims;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use openidconnect::core::CoreGenderClaim;
use openidconnect::{AdditionalClaims, IdTokenClaims};
use serde::de::DeserializeOwned;

pub use self::expired::{Expired, TokenEnd};
pub use self::github_actions::GitHubActionsIdentity;
pub use self::gitlab::GitLabIdentity;
pub use self::google::{ComputeEngine, GoogleIdentity};
pub use self::kubernetes::{KubernetesIdentity, ObjectRef};
#[cfg(feature = "testing")]
use crate::clock::Clock;
use crate::jose::VerifiedToken;
use crate::jose::claims::{Claims, Times};
use crate::jose::scopes::Scopes;
use crate::policy::DecisionMemo;
use crate::telemetry::AllowedCounter;
use crate::text::printable;
use crate::validity::Validity;

/// The platform of an issuer, which determines the format of its subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Platform {
    /// A Kubernetes cluster. Subjects are `system:serviceaccount:<namespace>:<name>`.
    Kubernetes,
    /// Google, which issues identity tokens for workloads and users.
    Google,
    /// GitHub Actions, which issues tokens for the jobs of workflows.
    GitHubActions,
    /// An instance of GitLab, which issues ID tokens for the jobs of GitLab CI/CD.
    GitLab,
    /// Any other OpenID Connect issuer. The format of its subjects is not known.
    Other,
}

/// The verified identity of a caller.
///
/// It is created only by verifying a token, or in a test from claims (`testing::TestIdentity`). The guard adds it to the extensions of each request that it admits with a token;
/// with the feature `axum` it is also an extractor. Cloning it copies a pointer.
///
/// # Examples
///
/// ```
/// # use tower_oidc_guard::Identity;
/// fn describe<B>(request: &http::Request<B>) -> String {
///     match request.extensions().get::<Identity>() {
///         Some(caller) => format!("{} from {}", caller.subject(), caller.issuer()),
///         None => "no identity".to_owned(),
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

/// The alignment keeps the reference count of an identity on a separate cache line: the threads that use one token have an identity
/// each ([`Identity::copied`]), and none of them writes a line that another writes.
#[repr(align(64))]
struct Inner {
    issuer: IssuerNames,
    platform: Platform,
    subject: String,
    /// The subject with its characters escaped that are not printable, if there are any.
    escaped_subject: Option<Box<str>>,
    audiences: Vec<String>,
    times: Times,
    token_id: Option<String>,
    scopes: Scopes,
    platform_claims: PlatformClaims,
    /// The JSON text of the claims.
    payload: Box<[u8]>,
    validity: Validity,
    decisions: DecisionMemo,
}

/// The names of a token's issuer.
#[derive(Clone)]
pub(crate) struct IssuerNames {
    /// The issuer of the token, as [`Identity::issuer`] returns it.
    pub(crate) issuer: Arc<str>,
    /// All accepted values of `iss` of this issuer, including those from when the guard was built. A policy may use any of
    /// them, so a deny list that names one of them applies to this token.
    pub(crate) accepted: Arc<[String]>,
    /// The issuer's name in logs and metrics.
    pub(crate) label: Arc<str>,
    /// Counts the issuer's tokens that are allowed.
    pub(crate) allowed: Arc<AllowedCounter>,
}

/// Claims that only tokens of certain platforms have.
#[derive(Clone)]
enum PlatformClaims {
    Kubernetes(Option<KubernetesIdentity>),
    Google(GoogleIdentity),
    // In boxes, since they are large, and all identities would have their size.
    GitHubActions(Box<GitHubActionsIdentity>),
    GitLab(Box<GitLabIdentity>),
    Other,
}

impl Identity {
    pub(crate) fn new(
        issuer: IssuerNames,
        platform: Platform,
        verified: &VerifiedToken<'_>,
        validity: Validity,
    ) -> Self {
        let (claims, payload) = (verified.claims(), verified.payload());
        Self::from_claims(issuer, platform, claims, payload, validity)
    }

    /// Creates an identity from claims that nobody has verified, for [`TestIdentity`](crate::testing::TestIdentity).
    #[cfg(feature = "testing")]
    pub(crate) fn from_test_claims(
        issuer: &str,
        platform: Platform,
        payload: &[u8],
        clock: Clock,
    ) -> Result<Self, crate::jose::TokenError> {
        let claims = Claims::parse(payload)?;
        let issuer: Arc<str> = Arc::from(issuer);
        let names = IssuerNames {
            accepted: Arc::from([issuer.to_string()]),
            label: issuer.clone(),
            allowed: Arc::new(AllowedCounter::new(&issuer)),
            issuer,
        };
        let validity = Validity {
            end: claims.times.expires_at,
            clock,
            revocation: None,
        };
        Ok(Self::from_claims(
            names, platform, &claims, payload, validity,
        ))
    }

    fn from_claims(
        issuer: IssuerNames,
        platform: Platform,
        claims: &Claims<'_>,
        payload: &[u8],
        validity: Validity,
    ) -> Self {
        let platform_claims = match platform {
            Platform::Kubernetes => {
                PlatformClaims::Kubernetes(KubernetesIdentity::from_claims(claims))
            }
            Platform::Google => PlatformClaims::Google(GoogleIdentity::from_payload(payload)),
            Platform::GitHubActions => {
                let view = GitHubActionsIdentity::from_payload(payload);
                PlatformClaims::GitHubActions(Box::new(view))
            }
            Platform::GitLab => {
                PlatformClaims::GitLab(Box::new(GitLabIdentity::from_payload(payload)))
            }
            Platform::Other => PlatformClaims::Other,
        };
        let owned = |text: &Cow<'_, str>| text.clone().into_owned();
        Self(Arc::new(Inner {
            issuer,
            platform,
            subject: owned(&claims.subject),
            escaped_subject: match printable(&claims.subject) {
                Cow::Borrowed(_) => None,
                Cow::Owned(escaped) => Some(escaped.into()),
            },
            audiences: claims.audiences.to_vec(),
            times: claims.times,
            token_id: claims.token_id.as_ref().map(owned),
            scopes: Scopes::parse(claims.scopes),
            platform_claims,
            payload: payload.into(),
            validity,
            decisions: DecisionMemo::default(),
        }))
    }

    /// Returns an identity of the same token that has its own reference count and its own memory of decisions, for another
    /// thread. Both learn of a revocation.
    pub(crate) fn copied(&self) -> Self {
        let inner = &*self.0;
        Self(Arc::new(Inner {
            issuer: inner.issuer.clone(),
            platform: inner.platform,
            subject: inner.subject.clone(),
            escaped_subject: inner.escaped_subject.clone(),
            audiences: inner.audiences.clone(),
            times: inner.times,
            token_id: inner.token_id.clone(),
            scopes: inner.scopes.clone(),
            platform_claims: inner.platform_claims.clone(),
            payload: inner.payload.clone(),
            validity: inner.validity.clone(),
            decisions: DecisionMemo::default(),
        }))
    }

    /// Returns the identity of a token that can be revoked.
    #[cfg(test)]
    pub(crate) fn revocable(mut self, revocation: crate::revocation::Revocation) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("the only handle");
        inner.validity.revocation = Some(revocation);
        self
    }

    /// Returns the decisions of policies on this identity.
    pub(crate) fn decisions(&self) -> &DecisionMemo {
        &self.0.decisions
    }

    /// Returns how long the token may be used.
    pub(crate) fn validity(&self) -> &Validity {
        &self.0.validity
    }

    /// Returns whether this identity and another learn of the same revocation.
    pub(crate) fn shares_revocation(&self, other: &Self) -> bool {
        let (own, others) = (&self.0.validity, &other.0.validity);
        match (&own.revocation, &others.revocation) {
            (Some(own), Some(others)) => own.is_same(others),
            (own, others) => own.is_none() && others.is_none(),
        }
    }

    /// Returns the times at which the token is valid.
    pub(crate) fn times(&self) -> &Times {
        &self.0.times
    }

    /// Returns the issuer's name for logs and metrics, which is one of a fixed set.
    pub(crate) fn issuer_label(&self) -> &Arc<str> {
        &self.0.issuer.label
    }

    /// Returns the subject for a log event: with its characters escaped that are not printable.
    pub(crate) fn printable_subject(&self) -> &str {
        self.0.escaped_subject.as_deref().unwrap_or(&self.0.subject)
    }

    /// Returns the counter of requests that are allowed with a token of this issuer.
    pub(crate) fn allowed_counter(&self) -> &AllowedCounter {
        &self.0.issuer.allowed
    }

    /// Returns the JSON text of the claims.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.0.payload
    }

    /// Returns the approximate size in memory, in bytes.
    pub(crate) fn size_in_memory(&self) -> usize {
        let texts = self
            .0
            .audiences
            .iter()
            .map(|text| text.len() + size_of::<String>());
        let view = match self.0.platform_claims {
            PlatformClaims::GitHubActions(_) => size_of::<GitHubActionsIdentity>(),
            PlatformClaims::GitLab(_) => size_of::<GitLabIdentity>(),
            _ => 0,
        };
        size_of::<Inner>()
            + view
            + 2 * self.0.payload.len()
            + self.0.subject.len()
            + self.0.scopes.len()
            + texts.sum::<usize>()
    }

    /// Returns the issuer (`iss`).
    ///
    /// Google's tokens have either of two spellings of its name; this method returns `https://accounts.google.com` for both.
    pub fn issuer(&self) -> &str {
        &self.0.issuer.issuer
    }

    /// Returns all names that a policy may use for the issuer.
    pub(crate) fn accepted_issuers(&self) -> impl Iterator<Item = &str> {
        let accepted = self.0.issuer.accepted.iter().map(String::as_str);
        std::iter::once(self.issuer()).chain(accepted)
    }

    /// Returns the platform of the issuer, which follows from the constructor of its [`Issuer`](crate::Issuer).
    pub fn platform(&self) -> Platform {
        self.0.platform
    }

    /// Returns the subject (`sub`), which identifies the caller. It is unique only within its issuer.
    pub fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Returns all audiences (`aud`). At least one of them is accepted by this guard.
    pub fn audiences(&self) -> &[String] {
        &self.0.audiences
    }

    /// Returns the time at which the token expires (`exp`).
    pub fn expires_at(&self) -> SystemTime {
        system_time(self.0.times.expires_at)
    }

    /// Returns a future that completes once the token is not valid any longer: when `exp` plus the leeway of its issuer has
    /// passed by the guard's clock, or, with [`Issuer::token_review`](crate::Issuer::token_review), when the API server of its cluster
    /// has refused it.
    ///
    /// It is for what outlives a request and is not a body, such as a WebSocket or another upgraded connection; streamed bodies
    /// end with their token behind [`end_streams_with_token`](crate::OidcGuardLayer::end_streams_with_token).
    ///
    /// The future is independent of the identity, [`Unpin`] and cancel safe. Create it once, and poll it by reference in a
    /// `tokio::select!`: as long as it exists, the token counts as in use, so its issuer is asked about it. It spawns no task and
    /// creates no timer until it is polled. It looks at the clock at least once a minute, so that a clock that is set is
    /// noticed.
    ///
    /// Where there are no timers, outside a tokio runtime or in one without `enable_time`, it looks at the clock only when it is
    /// polled. In such a runtime, tokio's panic because of the missing timers is caught, and printed once for each thread; in a
    /// program that is compiled with `panic = "abort"`, it ends the program.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_oidc_guard::Identity;
    /// # use tokio::sync::mpsc::Receiver;
    /// async fn serve(caller: Identity, mut messages: Receiver<String>) {
    ///     let mut expired = caller.expired();
    ///     loop {
    ///         tokio::select! {
    ///             end = &mut expired => {
    ///                 println!("closing the connection: {end}");
    ///                 return;
    ///             }
    ///             Some(message) = messages.recv() => println!("{message}"),
    ///             else => return,
    ///         }
    ///     }
    /// }
    /// ```
    pub fn expired(&self) -> Expired {
        Expired::new(self.clone())
    }

    /// Returns the time at which the token was issued (`iat`), or `None` if it has no such claim.
    pub fn issued_at(&self) -> Option<SystemTime> {
        self.0.times.issued_at.map(system_time)
    }

    /// Returns the time from which the token is valid (`nbf`), or `None` if it has no such claim.
    pub fn not_before(&self) -> Option<SystemTime> {
        self.0.times.not_before.map(system_time)
    }

    /// Returns the ID of the token (`jti`), or `None` if it has none.
    ///
    /// Kubernetes 1.32 and later writes it to the API server's audit log as the credential ID.
    pub fn token_id(&self) -> Option<&str> {
        self.0.token_id.as_deref()
    }

    /// Returns the scopes of the token: those in the claim `scope` (RFC 8693, RFC 9068), which some issuers write as `scp`.
    ///
    /// Both claims are read, each as a text with the scopes separated by spaces or as an array. What cannot be a scope (RFC 6749,
    /// section 3.3) is left out, and a claim of another type has no scopes. Require a scope with
    /// [`Policy::require_scope`](crate::Policy::require_scope).
    ///
    /// ```
    /// # #[cfg(feature = "testing")] {
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::oidc("https://id.example", "ann").claim("scope", "orders.read orders.write").build();
    /// assert!(caller.scopes().any(|scope| scope == "orders.write"));
    /// # }
    /// ```
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.iter()
    }

    /// Returns the namespace, service account, pod and node of a Kubernetes workload.
    ///
    /// Returns `None` if the issuer is not a Kubernetes cluster, or if the token has no claim `kubernetes.io` that agrees with
    /// its subject.
    pub fn kubernetes(&self) -> Option<&KubernetesIdentity> {
        match &self.0.platform_claims {
            PlatformClaims::Kubernetes(kubernetes) => kubernetes.as_ref(),
            _ => None,
        }
    }

    /// Returns the email, authorized party and instance of a Google account, or `None` if the issuer is not Google.
    pub fn google(&self) -> Option<&GoogleIdentity> {
        match &self.0.platform_claims {
            PlatformClaims::Google(google) => Some(google),
            _ => None,
        }
    }

    /// Returns the repository, ref, workflow and run of a job of GitHub Actions, or `None` if the issuer is not GitHub Actions.
    ///
    /// The issuer is one that was created with [`Issuer::github_actions`](crate::Issuer::github_actions) or
    /// [`Issuer::github_enterprise`](crate::Issuer::github_enterprise). Tokens of any other issuer have no such view, whatever
    /// their claims.
    pub fn github_actions(&self) -> Option<&GitHubActionsIdentity> {
        match &self.0.platform_claims {
            PlatformClaims::GitHubActions(job) => Some(job),
            _ => None,
        }
    }

    /// Returns the project, ref, pipeline and user of a job of GitLab CI/CD, or `None` if the issuer is not GitLab.
    ///
    /// The issuer is one that was created with [`Issuer::gitlab`](crate::Issuer::gitlab). Tokens of any other issuer have no such
    /// view, whatever their claims.
    pub fn gitlab(&self) -> Option<&GitLabIdentity> {
        match &self.0.platform_claims {
            PlatformClaims::GitLab(job) => Some(job),
            _ => None,
        }
    }

    /// Deserializes the claims into any type.
    ///
    /// This calls `serde_json::from_slice`, with its limit of 128 nested levels and with the features of `serde_json` that the
    /// build enables.
    ///
    /// # Errors
    ///
    /// Returns an error if the claims do not match the type.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_oidc_guard::Identity;
    /// #[derive(serde::Deserialize)]
    /// struct Workflow {
    ///     repository_id: String,
    /// }
    ///
    /// fn repository(caller: &Identity) -> Result<String, serde_json::Error> {
    ///     Ok(caller.claims::<Workflow>()?.repository_id)
    /// }
    /// ```
    pub fn claims<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0.payload)
    }

    /// Deserializes the claims into openidconnect's [`IdTokenClaims`], which have the standard claims of OpenID Connect as typed
    /// values.
    ///
    /// `AC` is the type of additional claims: a struct that implements [`AdditionalClaims`], or
    /// [`EmptyAdditionalClaims`](openidconnect::EmptyAdditionalClaims).
    ///
    /// # Errors
    ///
    /// An ID token must meet requirements that the guard does not impose on a bearer token. This method returns an error if
    ///
    /// - `iss` is not a URL, such as Google's `accounts.google.com`;
    /// - the token has no `iat`;
    /// - a claim of OpenID Connect, such as `email` or `locale`, or an additional claim has another type;
    /// - the claims are nested more than 128 levels deep.
    ///
    /// # Examples
    ///
    /// ```
    /// use serde::{Deserialize, Serialize};
    /// use tower_oidc_guard::Identity;
    /// use tower_oidc_guard::openidconnect::AdditionalClaims;
    ///
    /// #[derive(Debug, Deserialize, Serialize)]
    /// struct Groups {
    ///     groups: Vec<String>,
    /// }
    ///
    /// impl AdditionalClaims for Groups {}
    ///
    /// fn greeting(caller: &Identity) -> Result<String, serde_json::Error> {
    ///     let claims = caller.id_token_claims::<Groups>()?;
    ///     let email = claims.email().map_or("unknown", |email| email.as_str());
    ///     Ok(format!("{email} in {:?}", claims.additional_claims().groups))
    /// }
    /// ```
    pub fn id_token_claims<AC: AdditionalClaims>(
        &self,
    ) -> Result<IdTokenClaims<AC, CoreGenderClaim>, serde_json::Error> {
        self.claims()
    }
}

/// Converts a time since the Unix epoch. Times after the year 9999 become the end of that year, because a `SystemTime` cannot
/// represent all of them on every platform.
fn system_time(since_epoch: Duration) -> SystemTime {
    const END_OF_YEAR_9999: Duration = Duration::from_secs(253_402_300_799);
    SystemTime::UNIX_EPOCH + since_epoch.min(END_OF_YEAR_9999)
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
