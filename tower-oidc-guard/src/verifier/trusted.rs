//! One trusted issuer: its rules, its keys, and what they say of a token.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use crate::identity::{Identity, IssuerNames, Platform};
use crate::jose::Unverified;
use crate::jose::demands::Demands;
use crate::jose::rules::Rules;
use crate::keys::store::Current;
use crate::keys::{Keys, NoNewerKeys, Seen};
use crate::rejection::Rejection;

/// One issuer with its rules and the life of its keys.
pub(crate) struct TrustedIssuer {
    /// Its label for logs and metrics, which never changes. With [`Named::BySettings`] it is its name, too.
    pub(crate) name: Arc<str>,
    pub(crate) named: Named,
    /// Other names that its tokens may have.
    pub(crate) aliases: Vec<String>,
    /// Those of the other names that are spellings of its name, and that identities do not show.
    pub(crate) spellings: Vec<String>,
    /// All names that policies may call it by, whatever name its tokens have at the moment.
    pub(crate) policy_names: Arc<[String]>,
    pub(crate) demands: Demands,
    pub(crate) platform: Platform,
    pub(crate) rules: Rules,
    pub(crate) keys: Keys,
    /// The names of the other configured issuers. An API server that announces one of them does not become that issuer:
    /// policies that name it mean the configured one.
    pub(crate) names_of_others: HashSet<String>,
}

/// Where the name of an issuer comes from.
pub(crate) enum Named {
    /// It was configured.
    BySettings,
    /// It comes from its API server and from the pod's own token, with the keys, and may change.
    ByItsKeys {
        /// The name in the pod's own token when the guard was built.
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
        let is_called = self.is_called(token.issuer());
        let checked = token.check(&self.rules, now);
        if checked.is_err() && !is_called {
            return Err(Rejection::UnknownIssuer);
        }
        let acceptable = checked?;
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
        // The keys may have been replaced since, and the name withdrawn with them.
        let is_called = is_called && self.is_called_with(current, acceptable.issuer());
        if !is_called {
            let needs = needs(seen, Rejection::UnknownIssuer);
            return Ok((Attempt::NeedsNewerKeys(needs), generation));
        }
        let verified = match acceptable.verify(&current.keys) {
            Ok(verified) => verified,
            Err(rejection) if self.keys.may_cure(&rejection) => {
                let needs = needs(seen, rejection);
                return Ok((Attempt::NeedsNewerKeys(needs), generation));
            }
            Err(rejection) => return Err(rejection),
        };
        self.demands.meets(&verified)?;
        let names = self.names(&verified.claims().issuer, current);
        let identity = Identity::new(names, self.platform, &verified);
        Ok((Attempt::Verified(identity), generation))
    }

    /// Returns the names for the identity of a token with that `iss`.
    fn names(&self, iss: &str, current: &Current) -> IssuerNames {
        let configured = self.name.clone();
        let is_configured = *iss == *configured || self.spellings.iter().any(|own| own == iss);
        let is_own = |name: &&Arc<str>| !self.names_of_others.contains(&***name);
        let with_keys = || current.names.iter().filter(is_own);
        let issuer = match is_configured {
            true => configured.clone(),
            false => with_keys()
                .find(|name| ***name == *iss)
                .map_or_else(|| Arc::from(iss), Arc::clone),
        };
        let is_known = |name: &&Arc<str>| self.policy_names.iter().any(|own| **own == ***name);
        let others = match with_keys().all(|name| is_known(&name)) {
            true => self.policy_names.clone(),
            false => {
                let more = with_keys().map(|name| name.to_string());
                more.chain(self.policy_names.iter().cloned()).collect()
            }
        };
        IssuerNames {
            issuer,
            others,
            configured,
        }
    }

    pub(super) fn refusal(&self, rejection: Rejection) -> Refusal {
        let is_own = rejection != Rejection::UnknownIssuer;
        let issuer = is_own.then(|| self.name.clone());
        Refusal { rejection, issuer }
    }

    /// Returns the name that its new tokens have, if it is known.
    pub(super) fn known_name(&self) -> Option<Arc<str>> {
        match &self.named {
            Named::BySettings => Some(self.name.clone()),
            Named::ByItsKeys { until_then } => {
                let names = self.keys.names();
                let first = names.and_then(|names| names.into_iter().next());
                first.or_else(|| until_then.clone())
            }
        }
    }

    /// Returns whether the issuer is known to have that name.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let Named::ByItsKeys { until_then } = &self.named else {
            return true;
        };
        let is_until_then = || until_then.as_ref().is_some_and(|own| **own == *name);
        self.keys.has_name(name).unwrap_or_else(is_until_then)
            || self.aliases.iter().any(|alias| alias == name)
    }

    /// Returns whether the issuer has that name according to these keys.
    fn is_called_with(&self, current: &Current, name: &str) -> bool {
        matches!(self.named, Named::BySettings)
            || current.names.iter().any(|own| **own == *name)
            || self.aliases.iter().any(|alias| alias == name)
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
