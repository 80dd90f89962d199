//! A policy and the issuers that speak for its members.

use super::{Node, Policy, PolicyError};
use crate::identity::Platform;

/// The issuers that a guard trusts, as policies name them.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrustedNames {
    /// Each with its name; none where its API server says it later.
    pub(crate) issuers: Vec<(Option<String>, Platform)>,
}

impl TrustedNames {
    /// Whether an issuer of that name is trusted.
    pub(super) fn check_name(&self, name: &str) -> Result<Option<Platform>, PolicyError> {
        let is_named = |(own, _): &&(Option<String>, Platform)| own.as_deref() == Some(name);
        let mut named = self.issuers.iter().filter(is_named);
        if let Some((_, platform)) = named.next() {
            return Ok(Some(*platform));
        }
        // The cluster that this runs in may bear any name: it is held against each token's.
        match self.issuers.iter().any(|(own, _)| own.is_none()) {
            true => Ok(None),
            false => Err(PolicyError::UntrustedIssuer {
                issuer: name.to_owned(),
            }),
        }
    }

    /// Whether exactly one issuer speaks for members of that platform.
    pub(super) fn check(
        &self,
        name: Option<&str>,
        platform: Platform,
        told: &'static str,
    ) -> Result<(), PolicyError> {
        if let Some(name) = name {
            return match self.check_name(name)? {
                Some(other) if other != platform => Err(PolicyError::OtherPlatform {
                    issuer: name.to_owned(),
                    platform: told,
                }),
                _ => Ok(()),
            };
        }
        let speakers = self.issuers.iter().filter(|(_, own)| *own == platform);
        match speakers.count() {
            0 => Err(PolicyError::NoSuchIssuer { platform: told }),
            1 => Ok(()),
            _ => Err(PolicyError::WhichIssuer { platform: told }),
        }
    }

    fn has_google(&self) -> bool {
        self.issuers.iter().any(|(_, own)| *own == Platform::Google)
    }
}

/// A policy whose every member can be spoken for.
#[derive(Debug, Clone)]
pub(crate) struct Bound(Policy);

impl Bound {
    pub(crate) fn new(policy: Policy, trusted: &TrustedNames) -> Result<Self, PolicyError> {
        check(&policy, trusted)?;
        if trusted.has_google() && lets_all_in(&policy) {
            tracing::warn!(
                "the policy lets in allAuthenticatedUsers, and Google is among the trusted issuers: anyone on the internet can get such a token"
            );
        }
        Ok(Self(policy))
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.0
    }
}

fn check(policy: &Policy, trusted: &TrustedNames) -> Result<(), PolicyError> {
    match &*policy.0 {
        Node::Rule(rule) => rule.check(trusted),
        Node::Any(policies) | Node::All(policies) => policies
            .iter()
            .try_for_each(|policy| check(policy, trusted)),
        Node::Unsound(error) => Err(error.clone()),
        #[cfg(feature = "policy-file")]
        Node::File(file) => file.bind(trusted),
    }
}

fn lets_all_in(policy: &Policy) -> bool {
    match &*policy.0 {
        Node::Rule(rule) => rule.lets_all_verified_in(),
        Node::Any(policies) => policies.iter().any(lets_all_in),
        Node::All(policies) => !policies.is_empty() && policies.iter().all(lets_all_in),
        Node::Unsound(_) => false,
        #[cfg(feature = "policy-file")]
        Node::File(file) => file.with(super::Rule::lets_all_verified_in),
    }
}
