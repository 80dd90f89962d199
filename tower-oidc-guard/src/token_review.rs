//! Confirmation of tokens by the API server of their cluster (TokenReview), which knows what no signature tells: whether the
//! pod, the service account or the node that a token is bound to still exists.
//!
//! [`TokenReviews`] is what a request uses. A token is reviewed only after all offline checks have succeeded.
//!
//! - [`settings`] is what the user chooses;
//! - [`api`] makes one review: its request, its response and what the response means;
//! - [`store`] remembers the tokens, within limits, and decides which of them is reviewed next; [`token_bucket`] limits the
//!   rate;
//! - [`outage`] is the state of the API server: whether reviews fail, and when the next one is made;
//! - [`driver`] makes the reviews that are due;
//! - [`health`] and [`log`] report.

mod api;
mod driver;
mod error;
mod health;
mod log;
mod outage;
mod settings;
mod store;
mod token_bucket;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use self::api::Reviewer;
use self::driver::Driver;
pub use self::error::TokenReviewError;
pub use self::health::TokenReviewHealth;
use self::log::Limit;
pub(crate) use self::settings::ReviewSettings;
pub use self::settings::{TokenReview, WhenUnavailable};
use self::store::{Admitted, Lookup, Prior, Shared, Standing, WaitSlot, digest_of};
pub(crate) use self::store::{ReviewDescription, ReviewedToken};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::jose::TokenError;
use crate::revocation::Revocation;
use crate::verifier::VerifyError;

/// How often a waiting request checks by itself whether a review can be started, in case that the runtime of the background
/// task does not run.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// The reviews of the tokens of one issuer. Nothing is sent before the first token.
pub(crate) struct TokenReviews {
    shared: Arc<Shared>,
    driver: Driver,
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
    pub(crate) fn new(
        label: Arc<str>,
        settings: ReviewSettings,
        audiences: Vec<String>,
        clock: Clock,
    ) -> Self {
        crate::telemetry::register_token_reviews(&label);
        let reviewer = Reviewer::new(settings.api.clone(), settings.time_limit, audiences);
        Self {
            shared: Arc::new(Shared::new(label, settings, reviewer, clock)),
            driver: Driver::default(),
        }
    }

    /// Returns whether these are reviews with these settings for these audiences.
    pub(crate) fn has_settings(&self, settings: &ReviewSettings, audiences: &[String]) -> bool {
        self.shared.settings == *settings && self.shared.audiences() == audiences
    }

    /// Takes over what other reviews of the same issuer know about refused tokens.
    pub(crate) fn inherit_refusals(&self, earlier: &Self) {
        self.shared.inherit_refusals(&earlier.shared);
    }

    /// Returns what is known about a token that has been confirmed before. Takes no lock while the confirmation is valid.
    pub(crate) fn check(&self, token: &Arc<ReviewedToken>) -> Knowledge {
        match token.standing() {
            Standing::Kept => {}
            Standing::Refused => return Knowledge::Refused(token.refusal()),
            Standing::Dropped => return Knowledge::Unknown,
        }
        self.driver.ensure_running(&self.shared);
        let now = self.shared.milliseconds(Instant::now());
        match token.admitted(now, self.shared.is_lenient()) {
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
        let shared = &self.shared;
        let (kept, prior) = match shared.keep(token, identity) {
            Lookup::Refused(error) => return Err(error.into()),
            Lookup::Kept { token, prior } => (token, prior),
            Lookup::NoRoom { prior } => {
                shared.limited(Limit::Tokens);
                return self.decide_unavailable(None, prior);
            }
        };
        let unavailable = || self.decide_unavailable(Some(kept.clone()), prior);
        if Handle::try_current().is_err() {
            return unavailable();
        }
        self.driver.ensure_running(shared);
        let Some(_slot) = WaitSlot::acquire(shared) else {
            shared.limited(Limit::Waiting);
            return unavailable();
        };
        let _waiting = shared.wait_for(&kept);
        let deadline = Instant::now() + shared.settings.time_limit;
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
                shared.record_missed_deadline(&kept);
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
        if self.shared.accepts_unconfirmed() && prior == Prior::NotRefused {
            self.shared.record_unconfirmed();
            if let Some(token) = &token {
                self.shared.accept_unconfirmed(token);
            }
            return Ok(token);
        }
        Err(VerifyError::TokenReviewUnavailable {
            retry_after: self.shared.retry_after(),
        })
    }

    /// Returns the state of the reviews.
    pub(crate) fn health(&self) -> TokenReviewHealth {
        self.shared.health()
    }

    /// Returns what is known about a token that has passed all other checks, for a diagnosis.
    pub(crate) fn describe(&self, token: &[u8]) -> ReviewDescription {
        self.shared.describe(&digest_of(token))
    }

    /// Returns the setting for when no review can be made.
    pub(crate) fn when_unavailable(&self) -> WhenUnavailable {
        self.shared.settings.when_unavailable
    }

    /// Returns why tokens cannot be reviewed.
    pub(crate) fn obstacle(&self) -> String {
        self.shared.obstacle()
    }
}

impl Drop for TokenReviews {
    fn drop(&mut self) {
        self.shared.close();
    }
}
