//! Who may call.

mod bound;
pub(crate) mod claims;
mod decision;
mod error;
#[cfg(feature = "policy-file")]
mod file;
mod member;
mod members;
mod rule;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use self::bound::{Bound, TrustedNames};
pub use self::decision::Decision;
pub use self::error::PolicyError;
#[cfg(feature = "policy-file")]
#[cfg(feature = "policy-file")]
pub use self::file::{PolicyFile, PolicyHealth};
use self::members::Members;
use self::rule::Rule;
use crate::identity::Identity;

/// Who may call: callers whom it names, and no others.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_oidc_guard::Policy;
///
/// let policy = Policy::members(["system:serviceaccount:id-namespace:gke-sa", "system:serviceaccounts:shop"])
///     .deny(["system:serviceaccount:shop:legacy"]);
/// # Ok(())
/// # }
/// ```
///
/// # Members
///
/// | member | who that is | issuer |
/// | --- | --- | --- |
/// | `system:serviceaccount:<namespace>:<name>` | a service account | a Kubernetes one |
/// | `system:serviceaccounts:<namespace>` | all of a namespace | a Kubernetes one |
/// | `system:serviceaccounts` | all of the cluster | a Kubernetes one |
/// | `system:authenticated` | whoever has a token of the cluster | a Kubernetes one |
/// | `serviceAccount:<email>`, `user:<email>` | an account whose email Google has verified | Google |
/// | `principal:<issuer>#<subject>` | a subject of an issuer | that one |
/// | `allAuthenticatedUsers` | whoever has a valid token of any trusted issuer; with Google among them, the whole internet | any |
/// | `allUsers` | anyone, without a token too | none |
///
/// Where two issuers of one platform are trusted, say which is meant: with [`members_of`](Self::members_of), or with
/// `principal:`. Groups of Google's (`group:`, `domain:`) cannot be checked with a token alone, and are an error.
///
/// What is wrong with a member is told when the guard is built.
#[derive(Clone)]
#[must_use]
pub struct Policy(pub(crate) Arc<Node>);

/// A policy, or several in one.
pub(crate) enum Node {
    Rule(Box<Rule>),
    Any(Vec<Policy>),
    All(Vec<Policy>),
    /// What is wrong with it is told at building.
    Unsound(PolicyError),
    #[cfg(feature = "policy-file")]
    File(PolicyFile),
}

impl Policy {
    /// These members may call. With nobody named, nobody may.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["system:serviceaccount:id-namespace:gke-sa"]);
    /// ```
    pub fn members<M: AsRef<str>>(members: impl IntoIterator<Item = M>) -> Self {
        Self::allowing(Members::parse(None, members))
    }

    /// These members of that issuer may call, where another issuer of its platform is trusted too.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let cluster = "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c";
    /// let policy = Policy::members_of(cluster, ["system:serviceaccounts:shop"]);
    /// ```
    pub fn members_of<M: AsRef<str>>(
        issuer: impl Into<String>,
        members: impl IntoIterator<Item = M>,
    ) -> Self {
        Self::allowing(Members::parse(Some(issuer.into()), members))
    }

    /// Whoever has a valid token of a trusted issuer for one of its audiences may call. For a Kubernetes issuer
    /// that is every pod that asks for such a token, for Google it is everybody.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::any_verified_caller().require_claim("repository", "octo-org/octo-repo");
    /// ```
    pub fn any_verified_caller() -> Self {
        Self::members(["allAuthenticatedUsers"])
    }

    /// Whoever one at least of these policies lets in may call.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::any_of([
    ///     Policy::members(["system:serviceaccounts:shop"]),
    ///     Policy::members(["user:jane@example.com"]).audience("https://admin.example"),
    /// ]);
    /// ```
    pub fn any_of(policies: impl IntoIterator<Item = Self>) -> Self {
        Self(Arc::new(Node::Any(policies.into_iter().collect())))
    }

    /// Whoever each of these policies lets in may call; with no policy at all, nobody.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::all_of([
    ///     Policy::members(["system:serviceaccounts:shop"]),
    ///     Policy::any_verified_caller().audience("https://admin.example"),
    /// ]);
    /// ```
    pub fn all_of(policies: impl IntoIterator<Item = Self>) -> Self {
        Self(Arc::new(Node::All(policies.into_iter().collect())))
    }

    /// These members may not call, whatever else is said.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["system:serviceaccounts:shop"]).deny(["system:serviceaccount:shop:legacy"]);
    /// ```
    pub fn deny<M: AsRef<str>>(self, members: impl IntoIterator<Item = M>) -> Self {
        match Members::parse(None, members) {
            Ok(denied) => self.narrowed(|rule| rule.denied.add(denied)),
            Err(error) => Self::unsound(error),
        }
    }

    /// The caller's token must have this claim with this value as well. Several may be named; all of them are
    /// asked for.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::any_verified_caller().require_claim("ref", "refs/heads/main");
    /// ```
    pub fn require_claim(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let claim = (name.into(), value.into());
        self.narrowed(|rule| rule.claims.push(claim))
    }

    /// The caller's token must be for one of these audiences as well: for a route that wants one of its own. The
    /// issuer must take it too.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["user:jane@example.com"]).audience("https://admin.example");
    /// ```
    pub fn audience(self, audience: impl Into<String>) -> Self {
        let audience = audience.into();
        self.narrowed(|rule| rule.audiences.push(audience))
    }

    /// This function must be content with the caller as well.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["system:serviceaccounts:shop"])
    ///     .check(|caller| caller.kubernetes().is_some_and(|account| account.pod().is_some()));
    /// ```
    pub fn check(self, check: impl Fn(&Identity) -> bool + Send + Sync + 'static) -> Self {
        self.narrowed(|rule| rule.checks.push(Arc::new(check)))
    }

    /// Says for the operator whether that caller may call, and by which rule. Not to be shown to callers.
    pub fn explain(&self, caller: &Identity) -> Decision {
        match &*self.0 {
            Node::Rule(rule) => rule.explain(caller),
            Node::Any(policies) => {
                let mut refused = Vec::new();
                for policy in policies {
                    match policy.explain(caller) {
                        decision if decision.is_allowed() => return decision,
                        decision => refused.push(decision.into_reason()),
                    }
                }
                Decision::refused(match refused.is_empty() {
                    true => "no policy is named".to_owned(),
                    false => refused.join("; "),
                })
            }
            Node::All(policies) => {
                let mut reasons = Vec::new();
                for policy in policies {
                    match policy.explain(caller) {
                        decision if decision.is_allowed() => reasons.push(decision.into_reason()),
                        decision => return decision,
                    }
                }
                match reasons.is_empty() {
                    true => Decision::refused("no policy is named".to_owned()),
                    false => Decision::allowed(reasons.join("; ")),
                }
            }
            Node::Unsound(error) => Decision::refused(error.to_string()),
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| rule.explain(caller)),
        }
    }

    /// The same without the words.
    pub(crate) fn allows(&self, caller: &Identity) -> bool {
        match &*self.0 {
            Node::Rule(rule) => rule.allows(caller),
            Node::Any(policies) => policies.iter().any(|policy| policy.allows(caller)),
            Node::All(policies) => {
                !policies.is_empty() && policies.iter().all(|policy| policy.allows(caller))
            }
            Node::Unsound(_) => false,
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| rule.allows(caller)),
        }
    }

    /// Whether a request without a token may pass.
    pub(crate) fn allows_anyone(&self) -> bool {
        match &*self.0 {
            Node::Rule(rule) => rule.allows_anyone(),
            Node::Any(policies) => policies.iter().any(Self::allows_anyone),
            Node::All(policies) => !policies.is_empty() && policies.iter().all(Self::allows_anyone),
            Node::Unsound(_) => false,
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(Rule::allows_anyone),
        }
    }

    /// The files that it comes from.
    #[cfg(feature = "policy-file")]
    pub(crate) fn files(&self) -> Vec<&PolicyFile> {
        match &*self.0 {
            Node::File(file) => vec![file],
            Node::Any(policies) | Node::All(policies) => {
                policies.iter().flat_map(Self::files).collect()
            }
            Node::Rule(_) | Node::Unsound(_) => Vec::new(),
        }
    }

    fn allowing(members: Result<Members, PolicyError>) -> Self {
        match members {
            Ok(allowed) => Self(Arc::new(Node::Rule(Box::new(Rule::allowing(allowed))))),
            Err(error) => Self::unsound(error),
        }
    }

    fn unsound(error: PolicyError) -> Self {
        Self(Arc::new(Node::Unsound(error)))
    }

    /// The same policy and one thing more. What is not a single rule is taken together with one that says it.
    fn narrowed(self, narrow: impl FnOnce(&mut Rule)) -> Self {
        match Arc::try_unwrap(self.0) {
            Ok(Node::Rule(mut rule)) => {
                narrow(&mut rule);
                Self(Arc::new(Node::Rule(rule)))
            }
            Ok(Node::Unsound(error)) => Self::unsound(error),
            Ok(node) => Self::all_of([Self(Arc::new(node)), Self::one_more(narrow)]),
            Err(shared) => Self::all_of([Self(shared), Self::one_more(narrow)]),
        }
    }

    fn one_more(narrow: impl FnOnce(&mut Rule)) -> Self {
        let mut rule = Rule::allowing(Members::anyone());
        narrow(&mut rule);
        Self(Arc::new(Node::Rule(Box::new(rule))))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Node::Rule(rule) => rule.fmt(f),
            Node::Any(policies) => f.debug_tuple("Any").field(policies).finish(),
            Node::All(policies) => f.debug_tuple("All").field(policies).finish(),
            Node::Unsound(error) => f.debug_tuple("Unsound").field(error).finish(),
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.fmt(f),
        }
    }
}
