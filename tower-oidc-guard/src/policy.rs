//! Decides who may call.

mod error;
#[cfg(feature = "policy-file")]
mod file;
mod member;
mod members;
mod outcome;
mod resolved;
mod rule;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub use self::error::PolicyError;
#[cfg(feature = "policy-file")]
pub use self::file::{PolicyFile, PolicyHealth};
use self::members::Members;
pub use self::outcome::Decision;
use self::outcome::{Outcome, Reason};
pub(crate) use self::resolved::{PolicyIssuer, PolicyIssuers, ResolvedPolicy};
use self::rule::Rule;
use crate::identity::Identity;

/// Which callers are allowed: those that it names, and no others.
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
/// | `system:serviceaccounts:<namespace>` | all service accounts of a namespace | a Kubernetes one |
/// | `system:serviceaccounts` | all service accounts of the cluster | a Kubernetes one |
/// | `system:authenticated` | everyone with a token of the cluster | a Kubernetes one |
/// | `serviceAccount:<email>`, `user:<email>` | an account whose email Google has verified | Google |
/// | `principal:<issuer>#<subject>` | a subject of an issuer | that one |
/// | `allAuthenticatedUsers` | everyone with a valid token of any trusted issuer; with Google among them, the whole internet | any |
/// | `allUsers` | anyone, with or without a token | none |
///
/// If two issuers of one platform are trusted, say which is meant, with [`members_of`](Self::members_of) or `principal:`.
/// Google's groups (`group:`, `domain:`) cannot be checked with a token alone, and are an error.
///
/// Namespaces are DNS-1123 labels and service account names are DNS-1123 subdomains, as Kubernetes requires; `<email>` is an
/// address such as `jane@example.com`, compared without regard to case. There are no wildcards. A member that its
/// platform cannot have is an error, because in a deny list it would keep nobody out.
///
/// # Deny lists
///
/// A caller that any part of a policy denies is refused, whatever the other parts allow. So is a caller whose token
/// does not show whether it is denied:
///
/// - a caller of Google without a verified `email`, if the deny list names accounts by email. Google adds that claim only on
///   request, so a deny list could otherwise be evaded by leaving it out;
/// - a caller of a Kubernetes issuer whose subject is not that of a service account, if the deny list names service
///   accounts or namespaces;
/// - a request without a token, where `allUsers` would let it pass: a denied caller can always leave its token out.
///
/// Only callers of the issuer that a denied member belongs to are affected.
///
/// # Errors
///
/// What is wrong with a policy is reported when the guard is built.
#[derive(Clone)]
#[must_use]
pub struct Policy(pub(crate) Arc<Node>);

/// A policy, or several in one.
pub(crate) enum Node {
    Rule(Box<Rule>),
    Any(Vec<Policy>),
    All(Vec<Policy>),
    /// A policy, and what else is required or denied: the allow list of the rule is everyone.
    Narrowed(Policy, Box<Rule>),
    /// The error is reported when a guard is built with it.
    Invalid(PolicyError),
    #[cfg(feature = "policy-file")]
    File(PolicyFile),
}

impl Policy {
    /// Allows these members. An empty list allows nobody.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["system:serviceaccount:id-namespace:gke-sa"]);
    /// ```
    pub fn members<M: AsRef<str>>(members: impl IntoIterator<Item = M>) -> Self {
        Self::allowing(Members::parse(None, members))
    }

    /// Allows these members of one issuer, and nobody of any other. Required for members in the words of a platform of
    /// which two issuers are trusted.
    ///
    /// `allAuthenticatedUsers` means everyone with a valid token of this issuer. `allUsers`, and a `principal:` of another
    /// issuer, are errors.
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

    /// Allows everyone with a valid token of a trusted issuer for one of its audiences. For a Kubernetes issuer that is
    /// every pod that asks for such a token, for Google it is everybody.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::any_verified_caller().require_claim("repository", "octo-org/octo-repo");
    /// ```
    pub fn any_verified_caller() -> Self {
        Self::members(["allAuthenticatedUsers"])
    }

    /// Allows callers that at least one of these policies allows; without any policy, nobody. A caller that one of them
    /// [denies](Self::deny) is refused, whatever the others allow.
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

    /// Allows callers that each of these policies allows; without any policy, nobody.
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

    /// Denies these members: they are refused whatever else this policy, or a policy that it becomes part of, allows.
    ///
    /// A caller whose token does not show whether it is one of them is refused, too; see [Deny lists](Self#deny-lists).
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["system:serviceaccounts:shop"]).deny(["system:serviceaccount:shop:legacy"]);
    /// ```
    pub fn deny<M: AsRef<str>>(self, members: impl IntoIterator<Item = M>) -> Self {
        match Members::parse(None, members) {
            Ok(denied) => self.narrowed(|rule| rule.denied.add(denied)),
            Err(error) => Self::invalid(error),
        }
    }

    /// Also requires the token to have this claim with this value. If called several times, all claims are required.
    /// A null value is an error.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::any_verified_caller().require_claim("ref", "refs/heads/main");
    /// ```
    pub fn require_claim(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.narrowed(|rule| rule.claims.push(name, value))
    }

    /// Also requires the token to be for this audience. If called several times, one of the audiences is enough. An
    /// audience for which no trusted issuer's tokens are accepted is an error.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["user:jane@example.com"]).audience("https://admin.example");
    /// ```
    pub fn audience(self, audience: impl Into<String>) -> Self {
        let audience = audience.into();
        self.narrowed(|rule| rule.audiences.push(audience))
    }

    /// Also requires `check(caller)` to return true. If called several times, all have to.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// let policy = Policy::members(["system:serviceaccounts:shop"])
    ///     .require(|caller| caller.kubernetes().is_some_and(|account| account.pod().is_some()));
    /// ```
    pub fn require(self, condition: impl Fn(&Identity) -> bool + Send + Sync + 'static) -> Self {
        self.narrowed(|rule| rule.conditions.push(Arc::new(condition)))
    }

    /// Explains to the operator whether a caller is allowed, and by which rule. Not to be shown to callers.
    ///
    /// ```
    /// # use tower_oidc_guard::{Identity, OidcGuard};
    /// # fn example(guard: &OidcGuard, caller: &Identity) {
    /// // "refused: system:serviceaccount:shop:legacy is denied"
    /// println!("{}", guard.policy().explain(caller));
    /// # }
    /// ```
    pub fn explain(&self, caller: &Identity) -> Decision {
        self.decide::<String>(Some(caller)).into()
    }

    /// Decides on a caller; `None` is a request without a token.
    ///
    /// A deny list counts wherever it stands, so each part is asked at least for that. The content of a policy file is
    /// read once for allowing and denying, so that a decision never mixes two of its versions.
    fn decide<R: Reason>(&self, caller: Option<&Identity>) -> Outcome<R> {
        match &*self.0 {
            Node::Rule(rule) => rule.decide(caller),
            Node::Any(policies) => {
                let (mut allowed, mut not_allowed) = (None, Vec::new());
                for policy in policies {
                    match policy.decide_unless(allowed.is_some(), caller) {
                        Some(Outcome::Denied(reason)) => return Outcome::Denied(reason),
                        Some(Outcome::Allowed(reason)) => allowed = Some(reason),
                        Some(Outcome::NotAllowed(reason)) => not_allowed.push(reason),
                        None => {}
                    }
                }
                match allowed {
                    Some(reason) => Outcome::Allowed(reason),
                    None => Outcome::NotAllowed(R::join(not_allowed)),
                }
            }
            Node::All(policies) => {
                let (mut allowed, mut not_allowed) = (Vec::new(), None);
                for policy in policies {
                    match policy.decide_unless(not_allowed.is_some(), caller) {
                        Some(Outcome::Denied(reason)) => return Outcome::Denied(reason),
                        Some(Outcome::Allowed(reason)) => allowed.push(reason),
                        Some(Outcome::NotAllowed(reason)) => not_allowed = Some(reason),
                        None => {}
                    }
                }
                match not_allowed {
                    Some(reason) => Outcome::NotAllowed(reason),
                    None if policies.is_empty() => Outcome::NotAllowed(R::join(allowed)),
                    None => Outcome::Allowed(R::join(allowed)),
                }
            }
            Node::Narrowed(policy, rule) => {
                let outcome = policy.decide(caller);
                if matches!(outcome, Outcome::Denied(_)) {
                    return outcome;
                }
                match (rule.decide(caller), outcome) {
                    (Outcome::Denied(reason), _) => Outcome::Denied(reason),
                    (Outcome::NotAllowed(reason), Outcome::Allowed(_)) => {
                        Outcome::NotAllowed(reason)
                    }
                    (_, outcome) => outcome,
                }
            }
            Node::Invalid(error) => Outcome::denied(|| error.to_string()),
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| rule.decide(caller)),
        }
    }

    /// Decides on a caller; if the rest of the policy has settled whether it is allowed, returns only whether it is denied.
    fn decide_unless<R: Reason>(
        &self,
        is_settled: bool,
        caller: Option<&Identity>,
    ) -> Option<Outcome<R>> {
        match is_settled && !self.denies(caller) {
            true => None,
            false => Some(self.decide(caller)),
        }
    }

    fn denies(&self, caller: Option<&Identity>) -> bool {
        match &*self.0 {
            Node::Rule(rule) => rule.denies(caller),
            Node::Any(policies) | Node::All(policies) => {
                policies.iter().any(|policy| policy.denies(caller))
            }
            Node::Narrowed(policy, rule) => policy.denies(caller) || rule.denies(caller),
            Node::Invalid(_) => true,
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| rule.denies(caller)),
        }
    }

    /// Returns whether a part of it allows `allUsers`.
    fn allows_anyone(&self) -> bool {
        match &*self.0 {
            Node::Rule(rule) => rule.allowed.has_anyone(),
            Node::Any(policies) | Node::All(policies) => policies.iter().any(Self::allows_anyone),
            Node::Narrowed(policy, _) => policy.allows_anyone(),
            Node::Invalid(_) => false,
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| rule.allowed.has_anyone()),
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
            Node::Narrowed(policy, _) => policy.files(),
            Node::Rule(_) | Node::Invalid(_) => Vec::new(),
        }
    }

    fn allowing(members: Result<Members, PolicyError>) -> Self {
        match members {
            Ok(allowed) => Self(Arc::new(Node::Rule(Box::new(Rule::allowing(allowed))))),
            Err(error) => Self::invalid(error),
        }
    }

    fn invalid(error: PolicyError) -> Self {
        Self(Arc::new(Node::Invalid(error)))
    }

    /// Adds a requirement or a denial. A policy that is not a single rule is combined with a rule that has it.
    fn narrowed(self, narrow: impl FnOnce(&mut Rule)) -> Self {
        let node = match &*self.0 {
            Node::Rule(rule) => {
                let mut rule = rule.clone();
                narrow(&mut rule);
                Node::Rule(rule)
            }
            Node::Narrowed(policy, rule) => {
                let mut rule = rule.clone();
                narrow(&mut rule);
                Node::Narrowed(policy.clone(), rule)
            }
            Node::Invalid(_) => return self,
            _ => {
                let mut rule = Box::new(Rule::allowing(Members::anyone()));
                narrow(&mut rule);
                Node::Narrowed(self, rule)
            }
        };
        Self(Arc::new(node))
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Node::Rule(rule) => rule.fmt(f),
            Node::Any(policies) => f.debug_tuple("Any").field(policies).finish(),
            Node::All(policies) => f.debug_tuple("All").field(policies).finish(),
            Node::Narrowed(policy, rule) => {
                f.debug_tuple("Narrowed").field(policy).field(rule).finish()
            }
            Node::Invalid(error) => f.debug_tuple("Invalid").field(error).finish(),
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.fmt(f),
        }
    }
}
