//! Resolves a policy against the issuers that a guard trusts.

use std::sync::Arc;
#[cfg(feature = "policy-file")]
use std::sync::{Mutex, PoisonError, Weak};

#[cfg(feature = "policy-file")]
use reqwest_wi_auth::FileError;

#[cfg(feature = "policy-file")]
use super::PolicyHealth;
use super::outcome::Outcome;
use super::public_issuer::PublicIssuer;
use super::{Decision, Node, Policy, PolicyError, PolicyId};
use crate::identity::{Identity, Platform};
use crate::telemetry;
use crate::text::is_invisible;

/// The issuers that a guard trusts, as policies refer to them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PolicyIssuers {
    pub(crate) issuers: Vec<PolicyIssuer>,
}

/// An issuer that a guard trusts, as policies refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PolicyIssuer {
    /// All values of `iss` by which a policy may name it.
    pub(crate) iss: Vec<String>,
    pub(crate) platform: Platform,
    pub(crate) audiences: Vec<String>,
    /// The public issuer that this is, if the guard accepts tokens that anyone can get.
    pub(crate) public: Option<PublicIssuer>,
}

impl PolicyIssuer {
    fn is_named(&self, iss: &str) -> bool {
        self.iss.iter().any(|own| own == iss)
    }
}

impl PolicyIssuers {
    /// Returns the platform of the issuer with this `iss`.
    pub(super) fn platform(&self, iss: &str) -> Result<Platform, PolicyError> {
        match self.issuers.iter().find(|issuer| issuer.is_named(iss)) {
            Some(issuer) => Ok(issuer.platform),
            None => Err(PolicyError::UntrustedIssuer {
                issuer: iss.to_owned(),
                suggestion: self.similar_to(iss),
            }),
        }
    }

    /// Returns the trusted issuer that differs from `iss` only in case, a trailing slash or invisible characters.
    fn similar_to(&self, iss: &str) -> Option<String> {
        let normalized = |iss: &str| {
            let visible: String = iss.chars().filter(|c| !is_invisible(*c)).collect();
            visible.trim_end_matches('/').to_lowercase()
        };
        let mut all = self.issuers.iter().flat_map(|issuer| &issuer.iss);
        all.find(|own| normalized(own) == normalized(iss)).cloned()
    }

    /// Checks that exactly one issuer issues tokens for members of a platform: the one with this `iss`, or the only one of the
    /// platform. `name` is the name of the platform.
    pub(super) fn check_platform(
        &self,
        iss: Option<&str>,
        platform: Platform,
        name: &'static str,
    ) -> Result<(), PolicyError> {
        if let Some(iss) = iss {
            return if self.platform(iss)? == platform {
                Ok(())
            } else {
                Err(PolicyError::PlatformMismatch {
                    issuer: iss.to_owned(),
                    platform: name,
                })
            };
        }
        let candidates = self.issuers.iter().filter(|own| own.platform == platform);
        match candidates.count() {
            0 => Err(PolicyError::NoIssuerForPlatform { platform: name }),
            1 => Ok(()),
            _ => Err(PolicyError::AmbiguousIssuer { platform: name }),
        }
    }

    /// Returns whether tokens for this audience are accepted from any issuer.
    pub(super) fn accepts_audience(&self, audience: &str) -> bool {
        let mut all = self.issuers.iter().flat_map(|issuer| &issuer.audiences);
        all.any(|own| own == audience)
    }

    /// Returns whether the issuer with this `iss` is this public one or, for `None`, whether any issuer is.
    fn is_public(&self, public: PublicIssuer, iss: Option<&str>) -> bool {
        self.issuers.iter().any(|issuer| {
            issuer.public == Some(public) && iss.is_none_or(|iss| issuer.is_named(iss))
        })
    }
}

/// Whether a policy decides on requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolicyRole {
    /// It decides which callers are allowed.
    Enforced,
    /// Its decisions are compared with those of the enforced policy, and have no other effect.
    Shadow,
}

/// The treatment of a policy that does not fit the trusted issuers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// It is an error.
    Reject,
    /// It is suspended until it fits. For shadow policies, because of which a change of enforced settings must not fail.
    #[cfg(feature = "policy-file")]
    Suspend,
}

/// The use of a policy file by policies of guards that trust the same issuers, until it is dropped.
///
/// A policy file accepts no content that does not fit the issuers of an enforced policy. That of a shadow policy is suspended if
/// the file is part of an enforced policy, too.
#[cfg(feature = "policy-file")]
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) trusted: PolicyIssuers,
    pub(super) role: PolicyRole,
    /// Why the content does not fit, if it is suspended.
    error: arc_swap::ArcSwapOption<PolicyError>,
}

#[cfg(feature = "policy-file")]
impl Registered {
    pub(super) fn new(
        trusted: PolicyIssuers,
        role: PolicyRole,
        error: Option<PolicyError>,
    ) -> Self {
        Self {
            trusted,
            role,
            error: error.map(Arc::new).into(),
        }
    }

    /// Returns why the content does not fit, if it is suspended.
    pub(super) fn error(&self) -> Option<Arc<PolicyError>> {
        self.error.load_full()
    }

    /// Suspends the policies, or resumes them. Returns whether that is a change.
    pub(super) fn set_error(&self, error: Option<PolicyError>) -> bool {
        let is_suspended = error.is_some();
        self.error.swap(error.map(Arc::new)).is_some() != is_suspended
    }
}

#[cfg(feature = "policy-file")]
pub(super) type Registration = Arc<Registered>;

/// A policy whose members and audiences all belong to issuers that the guard trusts.
#[derive(Debug, Clone)]
pub(crate) struct ResolvedPolicy {
    installed: Arc<Installed>,
    /// The policies of the guard and of its layers, enforced or not.
    #[cfg(feature = "policy-file")]
    of_guard: Arc<Mutex<Vec<Weak<Installed>>>>,
}

/// A policy with the issuers that it has been checked against.
#[derive(Debug)]
pub(super) struct Installed {
    pub(super) policy: Policy,
    /// Set if the decisions of the policy can be remembered.
    id: Option<PolicyId>,
    #[cfg(feature = "policy-file")]
    pub(super) role: PolicyRole,
    #[cfg(feature = "policy-file")]
    pub(super) trusted: PolicyIssuers,
    /// One for each file that the policy comes from.
    #[cfg(feature = "policy-file")]
    registrations: Vec<Registration>,
    /// Why the parts of the policy that are in code do not fit, if the policy is suspended.
    error: Option<Arc<PolicyError>>,
}

impl ResolvedPolicy {
    /// Resolves the policy that a guard enforces.
    pub(crate) fn new(policy: Policy, trusted: &PolicyIssuers) -> Result<Self, PolicyError> {
        let installed = Installed::new(policy, PolicyRole::Enforced, trusted, Misfit::Reject)?;
        Ok(Self {
            #[cfg(feature = "policy-file")]
            of_guard: Arc::new(Mutex::new(vec![Arc::downgrade(&installed)])),
            installed,
        })
    }

    /// Resolves a further policy of the same guard: of another layer, or a shadow policy.
    pub(crate) fn resolve_further(
        &self,
        policy: Policy,
        role: PolicyRole,
        trusted: &PolicyIssuers,
        misfit: Misfit,
    ) -> Result<Self, PolicyError> {
        let installed = Installed::new(policy, role, trusted, misfit)?;
        #[cfg(feature = "policy-file")]
        {
            let mut all = self.of_guard.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|policy| policy.strong_count() > 0);
            all.push(Arc::downgrade(&installed));
        }
        Ok(Self {
            installed,
            #[cfg(feature = "policy-file")]
            of_guard: self.of_guard.clone(),
        })
    }

    /// Returns the status of each file in the policies of the guard and of its existing layers: one for each path, and if there
    /// are several for a path, one with an error if there is one. A file that is part of any enforced policy is not a shadow.
    #[cfg(feature = "policy-file")]
    pub(crate) fn file_health(&self) -> Vec<PolicyHealth> {
        let policies: Vec<_> = {
            let all = self.of_guard.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        let mut files: Vec<PolicyHealth> = Vec::new();
        let all = policies.iter().flat_map(|policy| {
            let of_policy = policy.policy.files().into_iter();
            let of_policy = of_policy.zip(&policy.registrations);
            of_policy.map(|(file, registered)| (file, policy.role, registered))
        });
        for (file, role, registered) in all {
            let mut health = file.health();
            health.is_shadow = role == PolicyRole::Shadow;
            if let (None, Some(source)) = (&health.last_error, registered.error()) {
                let path = health.path.clone();
                health.last_error = Some(FileError::InvalidContent { path, source });
            }
            match files.iter_mut().find(|other| other.path == health.path) {
                Some(other) => {
                    let is_shadow = other.is_shadow && health.is_shadow;
                    if other.last_error.is_none() {
                        *other = health;
                    }
                    other.is_shadow = is_shadow;
                }
                None => files.push(health),
            }
        }
        files
    }

    /// Returns whether the policy does not fit the trusted issuers at the moment, so that it is not to be evaluated.
    pub(crate) fn is_suspended(&self) -> bool {
        #[cfg(feature = "policy-file")]
        if self
            .installed
            .registrations
            .iter()
            .any(|file| file.error.load().is_some())
        {
            return true;
        }
        self.installed.error.is_some()
    }

    /// Returns why the policy does not fit the trusted issuers at the moment, if it does not.
    #[cfg(feature = "policy-file")]
    pub(crate) fn suspension(&self) -> Option<Arc<PolicyError>> {
        let mut of_files = self.installed.registrations.iter();
        let of_file = of_files.find_map(|registered| registered.error());
        of_file.or_else(|| self.installed.error.clone())
    }

    /// Returns the policy that was resolved.
    pub(crate) fn as_policy(&self) -> &Policy {
        &self.installed.policy
    }

    /// Returns whether a caller is allowed.
    pub(crate) fn allows(&self, caller: &Identity) -> bool {
        self.installed.policy.allows(caller, self.installed.id)
    }

    /// Returns the scopes that a caller needs, separated by spaces, if the policy does not allow it and would allow it with them.
    pub(crate) fn missing_scopes(&self, caller: &Identity) -> Option<String> {
        self.installed.policy.missing_scopes(caller)
    }

    /// Returns whether a request without a token is allowed.
    pub(crate) fn allows_anonymous(&self) -> bool {
        matches!(
            self.installed.policy.decide::<()>(None),
            Outcome::Allowed(())
        )
    }

    /// Returns the decision on a request without a token, with its reason.
    pub(crate) fn explain_anonymous(&self) -> Decision {
        self.installed.policy.decide::<String>(None).into()
    }

    /// Returns the decision on a caller, with its reason.
    pub(crate) fn explain(&self, caller: &Identity) -> Decision {
        self.installed.policy.explain(caller)
    }
}

impl Installed {
    fn new(
        policy: Policy,
        role: PolicyRole,
        trusted: &PolicyIssuers,
        misfit: Misfit,
    ) -> Result<Arc<Self>, PolicyError> {
        #[cfg(feature = "policy-file")]
        let registrations = {
            let mut registrations = Vec::new();
            // From here on no file accepts content that does not fit these issuers.
            for file in policy.files() {
                registrations.push(file.register(trusted, role, misfit)?);
            }
            registrations
        };
        let error = match (check_issuers(&policy, trusted), misfit) {
            (Err(error), Misfit::Reject) => return Err(error),
            #[cfg(feature = "policy-file")]
            (Err(error), Misfit::Suspend) => Some(Arc::new(error)),
            (Ok(()), _) => None,
        };
        for warning in too_wide(&policy, trusted) {
            telemetry::record_too_wide(role, None, warning);
        }
        let installed = Arc::new(Self {
            id: policy.is_constant().then(PolicyId::new),
            policy,
            #[cfg(feature = "policy-file")]
            role,
            #[cfg(feature = "policy-file")]
            trusted: trusted.clone(),
            #[cfg(feature = "policy-file")]
            registrations,
            error,
        });
        #[cfg(feature = "policy-file")]
        for file in installed.policy.files() {
            file.install(&installed);
        }
        Ok(installed)
    }
}

/// Checks that each part of a policy refers to trusted issuers only.
fn check_issuers(policy: &Policy, trusted: &PolicyIssuers) -> Result<(), PolicyError> {
    match &*policy.0 {
        Node::Rule(rule) => rule.check_issuers(trusted),
        Node::Any(policies) | Node::All(policies) => policies
            .iter()
            .try_for_each(|policy| check_issuers(policy, trusted)),
        Node::Narrowed(policy, rule) => {
            check_issuers(policy, trusted)?;
            rule.check_issuers(trusted)
        }
        Node::Invalid(error) => Err(error.clone()),
        // Checked by `PolicyFile::register`.
        #[cfg(feature = "policy-file")]
        Node::File(_) => Ok(()),
    }
}

/// Returns warnings about a policy that allows more, or less, than its author may expect.
pub(super) fn too_wide(policy: &Policy, trusted: &PolicyIssuers) -> Vec<&'static str> {
    let public = PublicIssuer::ALL.into_iter();
    let open = public.filter(|public| allows_everyone_of(*public, policy, trusted));
    let mut warnings: Vec<_> = open.map(PublicIssuer::warning).collect();
    if policy.allows_anyone() && policy.denies(None) {
        warnings.push(
            "the policy allows allUsers and has a deny list: requests without a token are rejected, because a denied caller could leave its token out",
        );
    }
    warnings
}

fn allows_everyone_of(public: PublicIssuer, policy: &Policy, trusted: &PolicyIssuers) -> bool {
    let is_meant = |iss: Option<&str>| trusted.is_public(public, iss);
    match &*policy.0 {
        Node::Rule(rule) => rule.allows_everyone_of(public, is_meant),
        Node::Any(policies) => policies
            .iter()
            .any(|policy| allows_everyone_of(public, policy, trusted)),
        Node::All(policies) => {
            let mut all = policies.iter();
            !policies.is_empty() && all.all(|policy| allows_everyone_of(public, policy, trusted))
        }
        Node::Narrowed(policy, rule) => {
            rule.admits_outsiders(public) && allows_everyone_of(public, policy, trusted)
        }
        Node::Invalid(_) => false,
        #[cfg(feature = "policy-file")]
        Node::File(file) => file.with(|rule| rule.allows_everyone_of(public, is_meant)),
    }
}
