//! Decides which callers are allowed.
//!
//! A [`Policy`] is built in code or read from a file, and resolved against the trusted issuers when the guard is built
//! ([`ResolvedPolicy`]). For each request it is evaluated as follows:
//!
//! 1. A caller that any deny list matches, or may match, is denied.
//! 2. A caller that no allow list matches is not allowed.
//! 3. A caller must also meet the requirements of the rule that allows it: audiences, claims, conditions.
//!
//! The same evaluation decides on requests and explains decisions to operators, so the two cannot differ.

#[cfg(feature = "policy-file")]
mod changes;
mod decision_memo;
mod error;
#[cfg(feature = "policy-file")]
mod file;
mod member;
mod members;
mod outcome;
mod public_issuer;
mod resolved;
mod rule;

use std::fmt;
use std::sync::Arc;

#[cfg(feature = "policy-file")]
pub(crate) use self::changes::{Effect, PolicyChanges};
pub(crate) use self::decision_memo::{DecisionMemo, PolicyId};
pub use self::error::PolicyError;
#[cfg(feature = "policy-file")]
pub(crate) use self::file::PolicyContent;
#[cfg(all(test, feature = "policy-file"))]
pub(crate) use self::file::fuzz::check_policy_content;
#[cfg(feature = "policy-file")]
pub use self::file::{PolicyFile, PolicyHealth};
#[cfg(feature = "policy-file")]
pub(crate) use self::member::{is_close, is_similar};
use self::members::Members;
pub use self::outcome::Decision;
pub(crate) use self::outcome::Difference;
use self::outcome::{Outcome, Reason};
pub(crate) use self::public_issuer::PublicIssuer;
pub(crate) use self::resolved::{Misfit, PolicyIssuer, PolicyIssuers, PolicyRole, ResolvedPolicy};
use self::rule::{Rule, has_scope};
use crate::identity::Identity;
use crate::jose::claim_matcher::ClaimMatcher;
use crate::jose::required_claims::RequiredClaim;

/// The callers that a guard allows: those that the policy lists, and no others.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "testing")] {
/// use tower_oidc_guard::{Issuer, OidcGuard, Policy, testing::MemoryIssuer};
///
/// let issuer = MemoryIssuer::new("https://cluster.example")?;
/// let guard = OidcGuard::builder()
///     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
///     .policy(Policy::members(["system:serviceaccounts:shop"]).deny(["system:serviceaccount:shop:legacy"]))
///     .http_client(issuer.client())
///     .build()?;
///
/// let token = |account| issuer.token().audience("orders").service_account("shop", account).mint();
/// let web = guard.verifier().verify(token("web")).await?;
/// assert!(guard.policy().explain(&web).is_allowed());
/// let legacy = guard.verifier().verify(token("legacy")).await?;
/// assert!(!guard.policy().explain(&legacy).is_allowed());
/// # }
/// # Ok(())
/// # }
/// ```
///
/// # Members
///
/// | member | callers | issuer |
/// | --- | --- | --- |
/// | `system:serviceaccount:<namespace>:<name>` | a service account | Kubernetes |
/// | `system:serviceaccounts:<namespace>` | all service accounts of a namespace | Kubernetes |
/// | `system:serviceaccounts` | all service accounts of the cluster | Kubernetes |
/// | `system:authenticated` | everyone with a token of the cluster | Kubernetes |
/// | `serviceAccount:<email>`, `user:<email>` | the account with this email address, if Google has verified it | Google |
/// | `principal:<issuer>#<subject>` | a subject of an issuer | that issuer |
/// | `allAuthenticatedUsers` | everyone with a valid token of any trusted issuer; with Google, anyone on the internet | any |
/// | `allUsers` | everyone with a valid token, and requests without a token; an invalid token is still rejected | none |
///
/// `serviceAccount:` and `user:` are equivalent: a token does not show which kind of account it is for. Email addresses are
/// compared without regard to case. Google's groups (`group:`, `domain:`) are not in its tokens, so they cannot be members.
///
/// Namespaces are DNS-1123 labels and names of service accounts are DNS-1123 subdomains, as in Kubernetes. There are no
/// wildcards. A member that its platform cannot have does not build, because in a deny list it would deny no caller.
///
/// If two issuers of one platform are trusted, [`members_of`](Self::members_of) or `principal:` has to state which one is
/// meant.
///
/// # Deny lists
///
/// A caller that any part of a policy denies is rejected, whatever the other parts allow. So is a caller whose token does not
/// show whether it is denied:
///
/// - a caller of Google without a verified `email`, if the deny list contains email addresses. Google adds that claim only on
///   request, so a caller could otherwise evade the deny list by leaving it out;
/// - a caller of a Kubernetes issuer whose subject is not a service account, if the deny list contains service accounts or
///   namespaces;
/// - a request without a token that `allUsers` would allow: a denied caller can always leave its token out.
///
/// Only callers of the issuer that a denied member belongs to are affected.
///
/// # Errors
///
/// An invalid policy is reported as [`BuildError::Policy`](crate::BuildError::Policy) when the guard is built, or as a
/// [`PolicyError`] by [`OidcGuard::layer_with`](crate::OidcGuard::layer_with).
#[derive(Clone)]
#[must_use]
pub struct Policy(pub(crate) Arc<Node>);

/// The structure of a policy.
pub(crate) enum Node {
    Rule(Box<Rule>),
    Any(Vec<Policy>),
    All(Vec<Policy>),
    /// A policy with further requirements and denials. The allow list of the rule contains everyone.
    Narrowed(Policy, Box<Rule>),
    /// An invalid policy. The error is reported when a guard is built with it.
    Invalid(PolicyError),
    #[cfg(feature = "policy-file")]
    File(PolicyFile),
}

impl Policy {
    /// Creates a policy that allows these [members](Self#members). An empty list allows no caller.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // Any other service account gets 403.
    /// let policy = Policy::members(["system:serviceaccount:id-namespace:gke-sa"]);
    /// ```
    pub fn members<M: AsRef<str>>(members: impl IntoIterator<Item = M>) -> Self {
        Self::allowing(Members::parse(None, members))
    }

    /// Creates a policy that allows these members of one issuer, and no caller of another. Required if the guard trusts two
    /// issuers of the members' platform.
    ///
    /// `allAuthenticatedUsers` means everyone with a valid token of this issuer. `allUsers`, and a `principal:` of another
    /// issuer, do not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // The namespace `shop` of this cluster, and not that of another trusted cluster.
    /// let cluster = "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c";
    /// let policy = Policy::members_of(cluster, ["system:serviceaccounts:shop"]);
    /// ```
    pub fn members_of<M: AsRef<str>>(
        issuer: impl Into<String>,
        members: impl IntoIterator<Item = M>,
    ) -> Self {
        Self::allowing(Members::parse(Some(issuer.into()), members))
    }

    /// Creates a policy that allows every caller with a valid token of a trusted issuer for one of its audiences.
    ///
    /// For a Kubernetes issuer these are all pods that request such a token; for Google it is anyone.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // With Issuer::github_actions(): workflows of any repository get a valid token, and those of this one are allowed.
    /// let policy = Policy::any_verified_caller().require_claim("repository", "octo-org/octo-repo");
    /// ```
    pub fn any_verified_caller() -> Self {
        Self::members(["allAuthenticatedUsers"])
    }

    /// Creates a policy that allows callers that at least one of these policies allows. An empty list allows no caller.
    ///
    /// A caller that one of the policies [denies](Self::deny) is rejected, whatever the others allow.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // Jane is allowed only with a token for the audience of the administration.
    /// let policy = Policy::any_of([
    ///     Policy::members(["system:serviceaccounts:shop"]),
    ///     Policy::members(["user:jane@example.com"]).audience("https://admin.example"),
    /// ]);
    /// ```
    pub fn any_of(policies: impl IntoIterator<Item = Self>) -> Self {
        Self(Arc::new(Node::Any(policies.into_iter().collect())))
    }

    /// Creates a policy that allows callers that each of these policies allows. An empty list allows no caller.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // Service accounts of `shop`, with a token for the audience of the administration.
    /// let policy = Policy::all_of([
    ///     Policy::members(["system:serviceaccounts:shop"]),
    ///     Policy::any_verified_caller().audience("https://admin.example"),
    /// ]);
    /// ```
    pub fn all_of(policies: impl IntoIterator<Item = Self>) -> Self {
        Self(Arc::new(Node::All(policies.into_iter().collect())))
    }

    /// Denies these members, whatever else this policy, or a policy that it becomes part of, allows. If called several times,
    /// all of the members are denied.
    ///
    /// A caller whose token does not show whether it is one of them is denied, too; see [Deny lists](Self#deny-lists).
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // All service accounts of `shop` except one.
    /// let policy = Policy::members(["system:serviceaccounts:shop"]).deny(["system:serviceaccount:shop:legacy"]);
    /// ```
    pub fn deny<M: AsRef<str>>(self, members: impl IntoIterator<Item = M>) -> Self {
        match Members::parse(None, members) {
            Ok(denied) => self.narrowed(|rule| rule.denied.add(denied)),
            Err(error) => Self::invalid(error),
        }
    }

    /// Also requires the token to have this claim with this value, or with one that matches this [matcher](ClaimMatcher). Other
    /// callers get 403. If called several times, all of the claims are required. An empty name, a null value or an invalid
    /// matcher does not build.
    ///
    /// A name that begins with `/` is a JSON pointer (RFC 6901) to a nested claim: `/kubernetes.io/pod/name` is the member `name`
    /// of the member `pod` of the claim `kubernetes.io`. Elements of arrays have their index as name, from 0. In a part of a
    /// pointer, `~1` stands for `/` and `~0` for `~`. Any other name is that of a top-level claim, such as
    /// `https://id.example/roles`; one that itself begins with `/` is written as a pointer: `/~1roles`. A nested claim whose name
    /// occurs twice in its object counts as missing. A pointer has at most 32 parts.
    ///
    /// Use this for claims that decide what a verified caller may do, and for rules that differ between routes. Use
    /// [`Issuer::require_claim`](crate::Issuer::require_claim), which makes a token invalid (401), for claims that decide
    /// whether this service may accept a token at all. Integers of up to 64 bits are compared exactly, other numbers as `f64`; the
    /// order of fields in an object does not matter.
    ///
    /// ```
    /// # use tower_oidc_guard::{ClaimMatcher, Policy};
    /// // A workflow that runs for another branch gets 403.
    /// let policy = Policy::any_verified_caller().require_claim("ref", "refs/heads/main");
    /// // A pod of another Deployment gets 403.
    /// let policy = Policy::members(["system:serviceaccounts:shop"])
    ///     .require_claim("/kubernetes.io/pod/name", ClaimMatcher::prefix("web-"));
    /// ```
    pub fn require_claim(self, name: impl Into<String>, value: impl Into<ClaimMatcher>) -> Self {
        let claim = RequiredClaim::new(name, value.into());
        self.narrowed(|rule| rule.claims.push(claim))
    }

    /// Also requires the token to have this scope, in the claim `scope` or `scp`; see [`Identity::scopes`]. If called several
    /// times, all of the scopes are required. Combine policies with [`any_of`](Self::any_of) if one of several is enough. A text
    /// that cannot be a scope (RFC 6749, section 3.3) does not build.
    ///
    /// A caller that is allowed except for a missing scope gets 403 with
    /// [`Rejection::InsufficientScope`](crate::Rejection::InsufficientScope), and the challenge names the required scopes:
    /// `error="insufficient_scope", scope="orders.read orders.write"` (RFC 6750, section 3.1). The response to any other caller
    /// names none. If [`any_of`](Self::any_of) combines several policies, the scopes are those of the first one that would allow
    /// the caller with them; for [`all_of`](Self::all_of), those of all of them.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // A client without both scopes gets 403.
    /// let policy = Policy::any_verified_caller().require_scope("orders.read").require_scope("orders.write");
    /// // One of the two is enough.
    /// let policy = Policy::any_of([
    ///     Policy::any_verified_caller().require_scope("orders.read"),
    ///     Policy::any_verified_caller().require_scope("orders.admin"),
    /// ]);
    /// ```
    pub fn require_scope(self, scope: impl Into<String>) -> Self {
        let scope = scope.into();
        self.narrowed(|rule| rule.require_scope(scope))
    }

    /// Also requires the token to be for this audience. If called several times, a token for any one of the audiences is
    /// enough. An audience that no trusted issuer has does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // For a guard whose issuer has further audiences: Jane's tokens for those get 403.
    /// let policy = Policy::members(["user:jane@example.com"]).audience("https://admin.example");
    /// ```
    pub fn audience(self, audience: impl Into<String>) -> Self {
        let audience = audience.into();
        self.narrowed(|rule| rule.audiences.push(audience))
    }

    /// Also requires `condition(caller)` to return true. If called several times, every condition has to return true.
    ///
    /// The condition is evaluated for each request, and its result is never cached. It must not block.
    ///
    /// ```
    /// # use tower_oidc_guard::Policy;
    /// // A token that is not bound to a pod, such as one from `kubectl create token`, gets 403.
    /// let policy = Policy::members(["system:serviceaccounts:shop"])
    ///     .require(|caller| caller.kubernetes().is_some_and(|account| account.pod().is_some()));
    /// ```
    pub fn require(self, condition: impl Fn(&Identity) -> bool + Send + Sync + 'static) -> Self {
        self.narrowed(|rule| rule.conditions.push(Arc::new(condition)))
    }

    /// Returns whether a caller is allowed, and by which rule. For operators, not for callers.
    ///
    /// ```
    /// # use tower_oidc_guard::{Identity, OidcGuard};
    /// # fn example(guard: &OidcGuard, caller: &Identity) {
    /// // "rejected: system:serviceaccount:shop:legacy is denied"
    /// println!("{}", guard.policy().explain(caller));
    /// # }
    /// ```
    pub fn explain(&self, caller: &Identity) -> Decision {
        self.decide::<String>(Some(caller)).into()
    }

    /// Returns the scopes that a caller needs, separated by spaces, if the policy does not allow it and would allow it if its token
    /// had them.
    pub(crate) fn missing_scopes(&self, caller: &Identity) -> Option<String> {
        let mut requires_scope = false;
        self.for_each_rule(&mut |rule| requires_scope |= !rule.scopes.is_empty());
        if !requires_scope || self.denies(Some(caller)) {
            return None;
        }
        let scopes = self.needed_scopes(caller)?;
        let are_missing = scopes.iter().any(|scope| !has_scope(caller, scope));
        are_missing.then(|| scopes.join(" "))
    }

    /// Returns the scopes with which the policy would allow a caller that it does not deny, or `None` if no scope is enough.
    fn needed_scopes(&self, caller: &Identity) -> Option<Vec<String>> {
        let of_rule = |rule: &Rule| {
            let is_enough = rule.allows_but_for_scopes(caller);
            is_enough.then(|| rule.scopes.clone())
        };
        match &*self.0 {
            Node::Rule(rule) => of_rule(rule),
            Node::Any(policies) => policies
                .iter()
                .find_map(|policy| policy.needed_scopes(caller)),
            Node::All(policies) if policies.is_empty() => None,
            Node::All(policies) => {
                let mut all = Vec::new();
                for policy in policies {
                    add_missing(&mut all, policy.needed_scopes(caller)?);
                }
                Some(all)
            }
            Node::Narrowed(policy, rule) => {
                let mut all = policy.needed_scopes(caller)?;
                add_missing(&mut all, of_rule(rule)?);
                Some(all)
            }
            Node::Invalid(_) => None,
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(of_rule),
        }
    }

    /// Returns the scopes that rules of the policy require, each once.
    pub(crate) fn scopes(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.for_each_rule(&mut |rule| add_missing(&mut all, rule.scopes.clone()));
        all
    }

    /// Calls a function for each rule of the policy.
    fn for_each_rule(&self, visit: &mut dyn FnMut(&Rule)) {
        match &*self.0 {
            Node::Rule(rule) => visit(rule),
            Node::Any(policies) | Node::All(policies) => {
                policies
                    .iter()
                    .for_each(|policy| policy.for_each_rule(visit));
            }
            Node::Narrowed(policy, rule) => {
                policy.for_each_rule(visit);
                visit(rule);
            }
            Node::Invalid(_) => {}
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| visit(rule)),
        }
    }

    /// Returns the members of allow lists that are similar to a caller, for an operator who expected it to be allowed.
    pub(crate) fn members_near(&self, caller: &Identity) -> Vec<String> {
        match &*self.0 {
            Node::Rule(rule) => rule.allowed.near(caller),
            Node::Any(policies) | Node::All(policies) => {
                let all = policies.iter();
                all.flat_map(|policy| policy.members_near(caller)).collect()
            }
            Node::Narrowed(policy, _) => policy.members_near(caller),
            Node::Invalid(_) => Vec::new(),
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| rule.allowed.near(caller)),
        }
    }

    /// Decides on a caller; `None` is a request without a token.
    ///
    /// Every part is evaluated at least for its deny list, which counts wherever it is. The content of a policy file is read
    /// once per decision, so that a decision never mixes two versions of it.
    fn decide<R: Reason>(&self, caller: Option<&Identity>) -> Outcome<R> {
        match &*self.0 {
            Node::Rule(rule) => rule.decide(caller),
            Node::Any(policies) => {
                let (mut allowed, mut not_allowed) = (None, Vec::new());
                for policy in policies {
                    let outcome = match allowed {
                        Some(_) => policy.decide_denied(caller),
                        None => Some(policy.decide(caller)),
                    };
                    match outcome {
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
                    let outcome = match not_allowed {
                        Some(_) => policy.decide_denied(caller),
                        None => Some(policy.decide(caller)),
                    };
                    match outcome {
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

    /// Returns the decision on a caller if it denies the caller.
    ///
    /// For parts of a policy whose other parts have decided whether the caller is allowed: composing the reason of a decision
    /// that does not matter is avoided.
    fn decide_denied<R: Reason>(&self, caller: Option<&Identity>) -> Option<Outcome<R>> {
        self.denies(caller).then(|| self.decide(caller))
    }

    /// Returns whether a caller is allowed, with the decision that is remembered with the identity if there is one. `id` identifies
    /// this policy if it [is constant](Self::is_constant).
    pub(crate) fn allows(&self, caller: &Identity, id: Option<PolicyId>) -> bool {
        let is_allowed = |outcome: Outcome<()>| matches!(outcome, Outcome::Allowed(()));
        match (&*self.0, id) {
            #[cfg(feature = "policy-file")]
            (Node::File(file), _) => file.with_id(|rule, id| {
                // The content of a file has no conditions.
                let memo = caller.decisions();
                memo.get_or_decide(id, || is_allowed(rule.decide(Some(caller))))
            }),
            (_, Some(id)) => {
                let memo = caller.decisions();
                memo.get_or_decide(id, || is_allowed(self.decide(Some(caller))))
            }
            (_, None) => is_allowed(self.decide(Some(caller))),
        }
    }

    /// Returns whether decisions depend on the caller alone: the policy has no conditions, and no content of a file.
    fn is_constant(&self) -> bool {
        match &*self.0 {
            Node::Rule(rule) => rule.conditions.is_empty(),
            Node::Any(policies) | Node::All(policies) => policies.iter().all(Self::is_constant),
            Node::Narrowed(policy, rule) => rule.conditions.is_empty() && policy.is_constant(),
            Node::Invalid(_) => true,
            #[cfg(feature = "policy-file")]
            Node::File(_) => false,
        }
    }

    /// Returns whether a deny list of the policy matches the caller; `None` is a request without a token.
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

    /// Returns whether a part of the policy allows `allUsers`.
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

    /// Returns the number of members on the allow lists of the policy.
    pub(crate) fn allowed_members(&self) -> usize {
        match &*self.0 {
            Node::Rule(rule) => rule.allowed.len(),
            Node::Any(policies) | Node::All(policies) => {
                policies.iter().map(Self::allowed_members).sum()
            }
            Node::Narrowed(policy, _) => policy.allowed_members(),
            Node::Invalid(_) => 0,
            #[cfg(feature = "policy-file")]
            Node::File(file) => file.with(|rule| rule.allowed.len()),
        }
    }

    /// Returns the files that the policy comes from.
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

    /// Adds a requirement or a denial to the rule of a policy. A policy that has no single rule is combined with a new one.
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

/// Adds the scopes that a list does not contain.
fn add_missing(all: &mut Vec<String>, scopes: Vec<String>) {
    for scope in scopes {
        if !all.contains(&scope) {
            all.push(scope);
        }
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
