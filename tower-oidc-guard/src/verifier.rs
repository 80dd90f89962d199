//! One token in; the identity it proves, or the reason why not, out.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::identity::{Identity, Platform};
use crate::keys::error::KeysError;
use crate::keys::health::IssuerHealth;
use crate::keys::store::Current;
use crate::keys::{Keys, NoNewer};
use crate::rejection::Rejection;
use crate::verify::demands::Demands;
use crate::verify::rules::Rules;
use crate::verify::{Jws, MAX_TOKEN_BYTES, Unverified};

/// A key set that lacks the token's key is replaced so often at most before the token is refused.
const MAX_ROUNDS: usize = 2;

/// Verifies tokens of trusted issuers, wherever they come from: requests, queues, sockets.
///
/// Made by [`OidcGuard::verifier`](crate::OidcGuard::verifier). Cloning copies a pointer.
#[derive(Clone)]
pub struct TokenVerifier(Arc<Inner>);

struct Inner {
    issuers: Vec<TrustedIssuer>,
    /// Which issuer bears a name.
    by_name: HashMap<String, usize>,
    /// Those whose names come with their keys.
    named_by_keys: Vec<usize>,
    clock: Clock,
}

/// One issuer with its rules and the life of its keys.
pub(crate) struct TrustedIssuer {
    /// As it is told.
    pub(crate) name: Arc<str>,
    pub(crate) named: Named,
    pub(crate) aliases: Vec<String>,
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
enum Attempt<'v> {
    Verified(Identity),
    KeyAbsent(Absent<'v>),
}

struct Absent<'v> {
    issuer: &'v TrustedIssuer,
    seen: Option<Arc<Current>>,
    issued_at: Option<Duration>,
}

impl TokenVerifier {
    pub(crate) fn new(issuers: impl IntoIterator<Item = TrustedIssuer>, clock: Clock) -> Self {
        let issuers: Vec<TrustedIssuer> = issuers.into_iter().collect();
        let (mut by_name, mut named_by_keys) = (HashMap::new(), Vec::new());
        for (index, issuer) in issuers.iter().enumerate() {
            match issuer.named {
                Named::BySettings => drop(by_name.insert(issuer.name.to_string(), index)),
                Named::ByItsKeys { .. } => named_by_keys.push(index),
            }
            by_name.extend(issuer.aliases.iter().map(|alias| (alias.clone(), index)));
        }
        Self(Arc::new(Inner {
            issuers,
            by_name,
            named_by_keys,
            clock,
        }))
    }

    /// Verifies a token: its form, issuer, audience, times, algorithm and signature.
    ///
    /// A key that is at hand is used at once. For one that is not, the issuer is asked, and the call
    /// waits for the answer, 5 s at most; it has to run in a tokio runtime. Dropping the future stops
    /// nothing that others wait for.
    ///
    /// # Errors
    ///
    /// The reason why the token is not taken.
    pub async fn verify(&self, token: impl AsRef<[u8]>) -> Result<Identity, Rejection> {
        let token = token.as_ref();
        let mut rounds = 0;
        loop {
            let absent = match self.attempt(token)? {
                Attempt::Verified(identity) => return Ok(identity),
                Attempt::KeyAbsent(absent) if rounds < MAX_ROUNDS => absent,
                Attempt::KeyAbsent(_) => return Err(Rejection::UnknownKey),
            };
            rounds += 1;
            absent.newer_keys().await?;
        }
    }

    /// The same without waiting; nothing where waiting for keys may help.
    pub(crate) fn verify_at_once(&self, token: &[u8]) -> Option<Result<Identity, Rejection>> {
        match self.attempt(token) {
            Ok(Attempt::Verified(identity)) => Some(Ok(identity)),
            Ok(Attempt::KeyAbsent(_)) => None,
            Err(rejection) => Some(Err(rejection)),
        }
    }

    fn attempt(&self, token: &[u8]) -> Result<Attempt<'_>, Rejection> {
        let jws = Jws::parse(token, MAX_TOKEN_BYTES)?;
        let unverified = Unverified::read(&jws)?;
        let issuer = self.issuer(unverified.issuer());
        let issuer = issuer.ok_or(Rejection::UnknownIssuer)?;
        let acceptable = unverified.check(&issuer.rules, self.0.clock.since_epoch())?;
        let issued_at = acceptable.issued_at();
        let seen = issuer.keys.current();
        let keys = seen.as_deref().map(|current| &current.keys);
        let verified = keys
            .map(|keys| acceptable.verify(keys))
            .transpose()?
            .flatten();
        Ok(match verified {
            Some(verified) => {
                issuer.demands.meets(&verified)?;
                let name = seen.and_then(|current| current.issuer.clone());
                let name = name.unwrap_or_else(|| issuer.name.clone());
                Attempt::Verified(Identity::new(name, issuer.platform, &verified))
            }
            None => Attempt::KeyAbsent(Absent {
                issuer,
                seen,
                issued_at,
            }),
        })
    }

    /// The one issuer that a token of that `iss` can be from.
    fn issuer(&self, name: &str) -> Option<&TrustedIssuer> {
        let inner = &self.0;
        if let Some(&index) = inner.by_name.get(name) {
            return inner.issuers.get(index);
        }
        let mut others = inner
            .named_by_keys
            .iter()
            .filter_map(|&index| inner.issuers.get(index));
        others.find(|issuer| issuer.may_be_called(name))
    }

    pub(crate) fn health(&self) -> Vec<IssuerHealth> {
        self.0
            .issuers
            .iter()
            .map(|issuer| issuer.keys.health(&issuer.name))
            .collect()
    }

    /// Waits for the keys of every issuer, or for the next fetch of one to fail.
    pub(crate) async fn ready(&self) -> Result<(), NotReady> {
        // The first look has the fetches of all begin, so that they run side by side.
        for issuer in &self.0.issuers {
            let _ = issuer.keys.current();
        }
        for issuer in &self.0.issuers {
            let failed = |source| NotReady {
                issuer: issuer.name.to_string(),
                source,
            };
            issuer.keys.ready().await.map_err(failed)?;
        }
        Ok(())
    }
}

impl TrustedIssuer {
    /// True, too, where its name is not known yet: its keys have to be asked for.
    fn may_be_called(&self, name: &str) -> bool {
        let until_then = match &self.named {
            Named::BySettings => return *self.name == *name,
            Named::ByItsKeys { until_then } => until_then,
        };
        let known = self.keys.issuer().or_else(|| until_then.clone());
        known.is_none_or(|known| *known == *name)
    }
}

impl Absent<'_> {
    /// Has newer keys fetched, if the limits allow; otherwise says what to answer.
    async fn newer_keys(self) -> Result<(), Rejection> {
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

impl fmt::Debug for TokenVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenVerifier")
            .field("issuers", &self.0.by_name.keys())
            .finish_non_exhaustive()
    }
}

/// An issuer's keys could not be had. Asking goes on, with growing pauses of up to a minute.
#[derive(Debug, thiserror::Error)]
#[error("the keys of the issuer {issuer:?} could not be fetched")]
pub struct NotReady {
    issuer: String,
    #[source]
    source: Arc<KeysError>,
}

impl NotReady {
    /// The issuer, as configured.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What went wrong.
    pub fn reason(&self) -> &KeysError {
        &self.source
    }
}
