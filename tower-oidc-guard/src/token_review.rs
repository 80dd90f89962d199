//! Confirmation of tokens by the API server of their cluster (TokenReview), which, unlike a signature, shows whether the pod, the
//! service account or the node that a token is bound to still exists.
//!
//! [`TokenReviews`] is what a request uses. A token is reviewed only after all offline checks have succeeded.
//!
//! - [`settings`] is what the user chooses, and [`policy`] the settings that are in effect;
//! - [`api`] makes one review: its request, its response and what the response means;
//! - [`token`] is the state of one token, which requests read without a lock; [`refused`] remembers those that were refused;
//! - [`store`] decides which token is reviewed next; [`token_bucket`] limits the rate, and [`outage`] is the state of the API
//!   server: whether reviews fail, and when the next one is made;
//! - [`shared`] is what requests and the [`driver`] share, which makes the reviews that are due;
//! - [`health`] and [`log`] report.

mod api;
mod driver;
mod error;
mod health;
mod log;
#[cfg(feature = "testing")]
#[cfg(test)]
mod models;
mod outage;
mod policy;
mod refused;
mod settings;
mod shared;
mod store;
mod token;
mod token_bucket;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use self::error::TokenReviewError;
pub use self::health::TokenReviewHealth;
use self::log::Limit;
use self::policy::ReviewPolicy;
use self::refused::Prior;
pub(crate) use self::settings::ReviewSettings;
pub use self::settings::{TokenReview, WhenUnavailable};
pub(crate) use self::shared::ReviewDescription;
use self::shared::{Lookup, Shared, WaitSlot, Waiting};
pub(crate) use self::token::ReviewedToken;
use self::token::{Admitted, Leniency, Standing, digest_of};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::jose::TokenError;
use crate::keys::sources::ApiServer;
use crate::revocation::Revocation;
use crate::sync::Handle;
use crate::sync::time::timeout_at;
use crate::verifier::VerifyError;

/// How often a waiting request checks by itself whether a review can be started, in case that the runtime of the background
/// task does not run.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The reviews of the tokens of one issuer, as a verifier uses them. Nothing is sent before the first token.
pub(crate) struct TokenReviews {
    shared: Arc<Shared>,
    policy: Arc<ReviewPolicy>,
}

/// A token by what is remembered about it.
pub(crate) enum KnownToken {
    /// The API server has been asked about it, or is about to be.
    Kept(Arc<ReviewedToken>),
    /// The API server has refused it, and is not asked again now.
    Refused(TokenError),
    New,
}

impl KnownToken {
    /// Returns the revocation that all identities of the token share.
    pub(crate) fn revocation(&self) -> Option<Revocation> {
        match self {
            Self::Kept(token) => token.identity().validity().revocation.clone(),
            Self::Refused(_) | Self::New => None,
        }
    }

    pub(crate) fn into_kept(self) -> Option<Arc<ReviewedToken>> {
        match self {
            Self::Kept(token) => Some(token),
            Self::Refused(_) | Self::New => None,
        }
    }
}

/// The decision on a token that is possible without waiting.
pub(crate) enum Knowledge {
    /// The API server has confirmed the token within the time to live, or it is accepted without confirmation.
    Accepted,
    Refused(TokenError),
    /// The token has to be confirmed.
    Unknown,
}

impl TokenReviews {
    /// Creates the reviews of the issuer with that label, for these audiences.
    ///
    /// What `earlier` reviews of the same API server know about tokens is kept, also about those that open streams use. If files that
    /// authenticate it or this process are others, only refusals are kept. The new settings and audiences are put into effect by
    /// `take_effect`, or by the first use.
    pub(crate) fn new(
        label: Arc<str>,
        settings: ReviewSettings,
        audiences: Vec<String>,
        clock: Clock,
        earlier: Option<&Self>,
    ) -> Self {
        crate::telemetry::register_token_reviews(&label);
        let same_server =
            earlier.filter(|earlier| earlier.shared.api().address == settings.api.address);
        let earlier = same_server.filter(|earlier| *earlier.shared.api() == settings.api);
        if let Some(earlier) = earlier
            && earlier.policy.settings == settings
            && earlier.policy.audiences == audiences
        {
            return Self::with(earlier.shared.clone(), earlier.policy.clone());
        }
        let policy = Arc::new(ReviewPolicy::new(settings, audiences));
        let shared = match earlier {
            Some(earlier) => earlier.shared.clone(),
            None => {
                let shared = Shared::new(label, policy.clone(), clock);
                if let Some(same_server) = same_server {
                    shared.remember_refused(&same_server.shared);
                }
                Arc::new(shared)
            }
        };
        Self::with(shared, policy)
    }

    fn with(shared: Arc<Shared>, policy: Arc<ReviewPolicy>) -> Self {
        shared.add_user();
        Self { shared, policy }
    }

    /// Returns the API server that reviews the tokens.
    pub(crate) fn api(&self) -> &ApiServer {
        self.shared.api()
    }

    /// Puts the settings into effect.
    #[cfg(feature = "policy-file")]
    pub(crate) fn take_effect(&self) {
        self.shared.adopt(&self.policy);
    }

    /// Prepares for a use: puts the settings into effect, and starts the background task.
    fn begin_use(&self) {
        self.shared.adopt(&self.policy);
        self.shared.ensure_driven();
    }

    fn accepts_unconfirmed(&self) -> bool {
        self.when_unavailable() == WhenUnavailable::Accept
    }

    /// Returns what is known about a token that has been confirmed before. Takes no lock while the confirmation is valid.
    pub(crate) fn check(&self, token: &Arc<ReviewedToken>) -> Knowledge {
        match token.standing() {
            Standing::Kept => {}
            Standing::Refused => return Knowledge::Refused(token.refusal()),
            Standing::Dropped => return Knowledge::Unknown,
        }
        self.begin_use();
        let now = self.shared.milliseconds(Instant::now());
        // The settings may have been others when the token was accepted without confirmation.
        let leniency = if !self.accepts_unconfirmed() {
            Leniency::None
        } else if self.shared.is_failing(now) {
            Leniency::Outage
        } else {
            Leniency::Remembered
        };
        match token.admitted(now, leniency) {
            Admitted::Confirmed => {}
            Admitted::Unconfirmed => self.shared.record_unconfirmed(),
            Admitted::No => return Knowledge::Unknown,
        }
        if token.is_renewal_due(now) {
            self.shared.request_renewal(token);
        }
        Knowledge::Accepted
    }

    /// Returns what is remembered about a token that has passed all other checks.
    pub(crate) fn find(&self, token: &[u8]) -> KnownToken {
        self.shared.find(&digest_of(token))
    }

    /// Waits until the API server has confirmed a token that has passed all other checks, within the time limit. Requests with
    /// the same token share one review; dropping this future does not cancel it.
    ///
    /// Returns the state of the token, or `None` if it is accepted without one because there is no room.
    ///
    /// # Panics
    ///
    /// In a tokio runtime without timers.
    pub(crate) async fn confirm(
        &self,
        token: &[u8],
        identity: &Identity,
    ) -> Result<Option<Arc<ReviewedToken>>, VerifyError> {
        let (shared, settings) = (&self.shared, &self.policy.settings);
        shared.adopt(&self.policy);
        let (kept, prior) = match shared.keep(token, identity) {
            Lookup::Refused(error) => return Err(error.into()),
            Lookup::Kept { token, prior } => (token, prior),
            Lookup::NoRoom { prior } => {
                shared.limited(settings, Limit::Tokens);
                return self.decide_unavailable(None, prior);
            }
        };
        let _waiting = Waiting {
            shared,
            digest: kept.digest,
        };
        if kept.is_confirmed(shared.milliseconds(Instant::now())) {
            return Ok(Some(kept));
        }
        let unavailable = || self.decide_unavailable(Some(kept.clone()), prior);
        if Handle::try_current().is_err() {
            return unavailable();
        }
        shared.ensure_driven();
        let Some(_slot) = WaitSlot::acquire(shared) else {
            shared.limited(settings, Limit::Waiting);
            return unavailable();
        };
        let deadline = Instant::now() + settings.time_limit;
        let mut attempts = kept.attempts();
        loop {
            match kept.standing() {
                Standing::Refused => return Err(kept.refusal().into()),
                Standing::Dropped | Standing::Kept => {}
            }
            let now = Instant::now();
            if kept.is_confirmed(shared.milliseconds(now)) {
                return Ok(Some(kept));
            }
            if now >= deadline {
                shared.record_missed_deadline(&kept, settings);
                return unavailable();
            }
            if !shared.request_first_review(&kept, now) {
                return unavailable();
            }
            shared.wake.notify_one();
            let check = deadline.min(now + CHECK_INTERVAL);
            if let Ok(Ok(())) = timeout_at(check, attempts.changed()).await
                && attempts.borrow_and_update().has_failed()
            {
                return unavailable();
            }
        }
    }

    /// Decides on a token that the API server has neither confirmed nor refused.
    fn decide_unavailable(
        &self,
        token: Option<Arc<ReviewedToken>>,
        prior: Prior,
    ) -> Result<Option<Arc<ReviewedToken>>, VerifyError> {
        if prior == Prior::Refused {
            return Err(TokenError::TokenRevoked.into());
        }
        if self.accepts_unconfirmed() && prior == Prior::NotRefused {
            self.shared.record_unconfirmed();
            if let Some(token) = &token {
                self.shared
                    .accept_unconfirmed(token, self.policy.settings.ttl);
            }
            return Ok(token);
        }
        Err(VerifyError::TokenReviewUnavailable {
            retry_after: self.shared.retry_after(),
        })
    }

    /// Returns the state of the reviews.
    pub(crate) fn health(&self) -> TokenReviewHealth {
        self.shared.health(self.when_unavailable())
    }

    /// Returns what is known about a token that has passed all other checks, for a diagnosis.
    pub(crate) fn describe(&self, token: &[u8]) -> ReviewDescription {
        self.shared.describe(&digest_of(token))
    }

    /// Returns the setting for when no review can be made.
    pub(crate) fn when_unavailable(&self) -> WhenUnavailable {
        self.policy.settings.when_unavailable
    }

    /// Returns why tokens cannot be reviewed.
    pub(crate) fn obstacle(&self) -> String {
        self.shared.obstacle()
    }
}

impl Drop for TokenReviews {
    fn drop(&mut self) {
        self.shared.remove_user();
    }
}
