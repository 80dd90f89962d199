//! Checks a policy against the issuers that a guard trusts.

use std::sync::Arc;

use super::outcome::Outcome;
use super::{Node, Policy, PolicyError};
use crate::identity::{Identity, Platform};
use crate::text::is_invisible;

/// The issuers that a guard trusts, as policies name them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TrustedNames {
    pub(crate) issuers: Vec<TrustedName>,
}

/// An issuer that a guard trusts, as policies name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrustedName {
    /// All names that a policy may call it by.
    pub(crate) names: Vec<String>,
    pub(crate) platform: Platform,
    pub(crate) audiences: Vec<String>,
}

impl TrustedNames {
    /// Returns the platform of the issuer of that name.
    pub(super) fn check_name(&self, name: &str) -> Result<Platform, PolicyError> {
        let has_name = |issuer: &&TrustedName| issuer.names.iter().any(|own| own == name);
        let named = self.issuers.iter().find(has_name);
        match named {
            Some(issuer) => Ok(issuer.platform),
            None => Err(PolicyError::UntrustedIssuer {
                issuer: name.to_owned(),
                suggestion: self.close_to(name),
            }),
        }
    }

    /// The trusted issuer that differs in its case, a slash at its end or white space only.
    fn close_to(&self, name: &str) -> Option<String> {
        let plain = |name: &str| {
            let visible: String = name.chars().filter(|c| !is_invisible(*c)).collect();
            visible.trim_end_matches('/').to_lowercase()
        };
        let mut all = self.issuers.iter().flat_map(|issuer| &issuer.names);
        all.find(|own| plain(own) == plain(name)).cloned()
    }

    /// Checks that exactly one issuer speaks for members of that platform; `label` is the platform in words.
    pub(super) fn check(
        &self,
        name: Option<&str>,
        platform: Platform,
        label: &'static str,
    ) -> Result<(), PolicyError> {
        if let Some(name) = name {
            return match self.check_name(name)? == platform {
                true => Ok(()),
                false => Err(PolicyError::PlatformMismatch {
                    issuer: name.to_owned(),
                    platform: label,
                }),
            };
        }
        let speakers = self.issuers.iter().filter(|own| own.platform == platform);
        match speakers.count() {
            0 => Err(PolicyError::NoIssuerForPlatform { platform: label }),
            1 => Ok(()),
            _ => Err(PolicyError::AmbiguousIssuer { platform: label }),
        }
    }

    /// Returns whether an issuer's tokens are accepted for that audience.
    pub(super) fn accepts_audience(&self, audience: &str) -> bool {
        let mut all = self.issuers.iter().flat_map(|issuer| &issuer.audiences);
        all.any(|own| own == audience)
    }

    /// Returns whether the issuer of that name is Google; with `None`, whether any is.
    fn is_google(&self, name: Option<&str>) -> bool {
        self.issuers.iter().any(|issuer| {
            issuer.platform == Platform::Google
                && name.is_none_or(|name| issuer.names.iter().any(|own| own == name))
        })
    }
}

/// Keeps a policy file from taking a content that the guard of this policy could not use; ends when it is dropped.
#[cfg(feature = "policy-file")]
pub(super) type Registration = Arc<TrustedNames>;

/// A policy whose every member and audience belongs to an issuer that the guard trusts.
#[derive(Debug, Clone)]
pub(crate) struct Bound(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: Policy,
    /// With the files that the policy comes from.
    #[cfg(feature = "policy-file")]
    _registrations: Vec<Registration>,
}

impl Bound {
    /// Checks a policy.
    pub(crate) fn new(policy: Policy, trusted: &TrustedNames) -> Result<Self, PolicyError> {
        #[cfg(feature = "policy-file")]
        let registrations = {
            let mut registrations = Vec::new();
            // From here on no file takes a content that does not fit these issuers.
            for file in policy.files() {
                registrations.push(file.bind(trusted)?);
            }
            registrations
        };
        check(&policy, trusted)?;
        warn(&policy, trusted);
        Ok(Self(Arc::new(Inner {
            policy,
            #[cfg(feature = "policy-file")]
            _registrations: registrations,
        })))
    }

    /// The policy.
    pub(crate) fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// Returns whether a caller may call.
    pub(crate) fn allows(&self, caller: &Identity) -> bool {
        matches!(
            self.0.policy.decide::<()>(Some(caller)),
            Outcome::Allowed(())
        )
    }

    /// Returns whether a request without a token may pass.
    pub(crate) fn allows_anonymous(&self) -> bool {
        matches!(self.0.policy.decide::<()>(None), Outcome::Allowed(()))
    }
}

fn check(policy: &Policy, trusted: &TrustedNames) -> Result<(), PolicyError> {
    match &*policy.0 {
        Node::Rule(rule) => rule.check(trusted),
        Node::Any(policies) | Node::All(policies) => policies
            .iter()
            .try_for_each(|policy| check(policy, trusted)),
        Node::Narrowed(policy, rule) => {
            check(policy, trusted)?;
            rule.check(trusted)
        }
        Node::Unsound(error) => Err(error.clone()),
        // Its content was checked by `bind`.
        #[cfg(feature = "policy-file")]
        Node::File(_) => Ok(()),
    }
}

fn warn(policy: &Policy, trusted: &TrustedNames) {
    if allows_all_of_google(policy, trusted) {
        tracing::warn!(
            "the policy allows allAuthenticatedUsers, and Google is among the trusted issuers: anyone on the internet can get such a token"
        );
    }
    if policy.names_anyone() && policy.denies(None) {
        tracing::warn!(
            "the policy allows allUsers and has a deny list; a request without a token may be from a denied caller, so requests without a token are refused"
        );
    }
}

fn allows_all_of_google(policy: &Policy, trusted: &TrustedNames) -> bool {
    let is_google = |name: Option<&str>| trusted.is_google(name);
    match &*policy.0 {
        Node::Rule(rule) => rule.allows_all_of(is_google),
        Node::Any(policies) => policies
            .iter()
            .any(|policy| allows_all_of_google(policy, trusted)),
        Node::All(policies) => {
            let mut all = policies.iter();
            !policies.is_empty() && all.all(|policy| allows_all_of_google(policy, trusted))
        }
        Node::Narrowed(policy, rule) => {
            rule.requires_nothing() && allows_all_of_google(policy, trusted)
        }
        Node::Unsound(_) => false,
        #[cfg(feature = "policy-file")]
        Node::File(file) => file.with(|rule| rule.allows_all_of(is_google)),
    }
}
