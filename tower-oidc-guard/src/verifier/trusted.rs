//! One trusted issuer: its rules, its keys, and what they say of a token.

use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use crate::identity::{Identity, IssuerNames, Platform};
use crate::keys::{Keys, NoNewerKeys, Seen};
use crate::rejection::Rejection;
use crate::verify::Unverified;
use crate::verify::demands::Demands;
use crate::verify::rules::Rules;

/// One issuer with its rules and the life of its keys.
pub(crate) struct TrustedIssuer {
    /// As it is told.
    pub(crate) name: Arc<str>,
    pub(crate) named: Named,
    pub(crate) aliases: Vec<String>,
    /// All names that policies may call it by, whatever name its tokens bear at the moment.
    pub(crate) policy_names: Arc<[String]>,
    pub(crate) demands: Demands,
    pub(crate) platform: Platform,
    pub(crate) rules: Rules,
    pub(crate) keys: Keys,
}

/// Where the name comes from that an issuer's tokens bear.
pub(crate) enum Named {
    /// It is the one that is told.
    BySettings,
    /// Its API server says it, with the keys.
    ByItsKeys {
        /// What the pod's own token says.
        until_then: Option<Arc<str>>,
    },
}

/// What comes of a token that is acceptable except perhaps for its signature.
pub(crate) enum Attempt {
    Verified(Identity),
    /// The current keys do not verify it, and newer keys may.
    NeedsNewerKeys(NeedsNewerKeys),
}

/// A token that the current keys do not verify.
pub(crate) struct NeedsNewerKeys {
    /// The index of its issuer.
    pub(super) issuer: usize,
    pub(super) seen: Seen,
    /// Why the current keys do not verify it.
    pub(super) rejection: Rejection,
}

impl TrustedIssuer {
    /// Verifies a token with the current keys. `index` is that of this issuer. Also returns the generation of the keys.
    pub(super) fn attempt(
        &self,
        index: usize,
        token: Unverified<'_>,
        now: Duration,
    ) -> Result<(Attempt, u64), Rejection> {
        let acceptable = token.check(&self.rules, now)?;
        let seen = self.keys.look();
        let needs = |seen, rejection| NeedsNewerKeys {
            issuer: index,
            seen,
            rejection,
        };
        let Some(current) = &seen.current else {
            let needs = needs(seen, Rejection::UnknownKey);
            return Ok((Attempt::NeedsNewerKeys(needs), 0));
        };
        let generation = current.generation;
        let verified = match acceptable.verify(&current.keys) {
            Ok(verified) => verified,
            Err(rejection) if self.keys.may_cure(&rejection) => {
                let needs = needs(seen, rejection);
                return Ok((Attempt::NeedsNewerKeys(needs), generation));
            }
            Err(rejection) => return Err(rejection),
        };
        self.demands.meets(&verified)?;
        let configured = self.name.clone();
        let name = current.issuer.clone();
        let name = name.unwrap_or_else(|| configured.clone());
        let names = IssuerNames {
            issuer: name,
            others: self.policy_names.clone(),
            configured,
        };
        let identity = Identity::new(names, self.platform, &verified);
        Ok((Attempt::Verified(identity), generation))
    }

    pub(super) fn refusal(&self, rejection: Rejection) -> Refusal {
        let issuer = Some(self.name.clone());
        Refusal { rejection, issuer }
    }

    /// The name that its tokens bear, as far as it is known.
    pub(super) fn known_name(&self) -> Option<Arc<str>> {
        match &self.named {
            Named::BySettings => Some(self.name.clone()),
            Named::ByItsKeys { until_then } => self.keys.issuer().or_else(|| until_then.clone()),
        }
    }

    /// True, too, where its name is not known yet: its keys have to be asked for.
    pub(super) fn may_be_called(&self, name: &str) -> bool {
        self.known_name().is_none_or(|known| *known == *name)
    }
}

impl NoNewerKeys {
    /// Returns the answer to a token that the current keys refuse for that reason.
    pub(super) fn rejection(self, reason: Rejection) -> Rejection {
        match self.has_usable {
            true => reason,
            false => Rejection::KeysUnavailable {
                retry_after: self.retry_after,
            },
        }
    }
}
