//! One trusted issuer: its rules, its keys, and what they say of a token.

use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use crate::identity::{Identity, IssuerNames, Platform};
use crate::keys::store::Current;
use crate::keys::{Keys, NoNewer};
use crate::rejection::Rejection;
use crate::verify::Unverified;
use crate::verify::demands::Demands;
use crate::verify::rules::Rules;

/// One issuer with its rules and the life of its keys.
pub(crate) struct TrustedIssuer {
    /// As it is told.
    pub(crate) name: Arc<str>,
    pub(crate) named: Named,
    pub(crate) aliases: Arc<[String]>,
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

/// What the keys at hand say of a token that is acceptable otherwise.
pub(super) enum Attempt<'v> {
    Verified(Identity),
    KeyAbsent(Absent<'v>),
}

pub(super) struct Absent<'v> {
    pub(super) issuer: &'v TrustedIssuer,
    seen: Option<Arc<Current>>,
    issued_at: Option<Duration>,
}

impl TrustedIssuer {
    /// What the keys at hand say of a token, and which set they are.
    pub(super) fn attempt(
        &self,
        token: Unverified<'_>,
        now: Duration,
    ) -> Result<(Attempt<'_>, u64), Rejection> {
        let acceptable = token.check(&self.rules, now)?;
        let issued_at = acceptable.issued_at();
        let seen = self.keys.current();
        let generation = seen.as_ref().map_or(0, |current| current.generation);
        let keys = seen.as_deref().map(|current| &current.keys);
        let verified = keys
            .map(|keys| acceptable.verify(keys))
            .transpose()?
            .flatten();
        let Some(verified) = verified else {
            let absent = Absent {
                issuer: self,
                seen,
                issued_at,
            };
            return Ok((Attempt::KeyAbsent(absent), generation));
        };
        self.demands.meets(&verified)?;
        let configured = self.name.clone();
        let name = seen.and_then(|current| current.issuer.clone());
        let name = name.unwrap_or_else(|| configured.clone());
        let names = IssuerNames {
            issuer: name,
            aliases: self.aliases.clone(),
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

impl Absent<'_> {
    /// Has newer keys fetched, if the limits allow; otherwise says what to answer.
    pub(super) async fn newer_keys(self) -> Result<(), Rejection> {
        let (retry_after, too_soon) = match self.issuer.keys.newer_than(self.seen.as_ref()).await {
            Ok(_) => return Ok(()),
            Err(NoNewer::TooSoon { retry_after }) => (retry_after, true),
            Err(NoNewer::Failed { retry_after }) => (retry_after, false),
        };
        // A token that is older than the keys at hand was signed by none of theirs; clocks may differ.
        let leeway = self.issuer.rules.leeway;
        let outdated = |current: &Arc<Current>| {
            self.issued_at
                .is_none_or(|issued| issued.saturating_add(leeway) < current.fetched_wall)
        };
        if too_soon && self.seen.as_ref().is_some_and(outdated) {
            return Err(Rejection::UnknownKey);
        }
        Err(Rejection::KeysUnavailable { retry_after })
    }
}
