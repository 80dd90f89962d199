//! A token and what the API server has said about it.

use aws_lc_rs::digest::{SHA256, digest};

use super::api::DenialKind;
use super::refused::Prior;
use crate::identity::Identity;
use crate::jose::TokenError;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::sync::watch;

/// The SHA-256 hash of the signed part of a token.
pub(super) type Digest = [u8; 32];

/// Returns the digest of a token that was verified.
///
/// The signature is left out: one of ECDSA has a second valid spelling, with which a refused token would be another one.
pub(super) fn digest_of(token: &[u8]) -> Digest {
    let mut bytes = Digest::default();
    let end = token.iter().rposition(|byte| *byte == b'.');
    let signed = token.get(..end.unwrap_or(token.len())).unwrap_or_default();
    let hash = digest(&SHA256, signed);
    for (byte, hashed) in bytes.iter_mut().zip(hash.as_ref()) {
        *byte = *hashed;
    }
    bytes
}

/// A token that has passed all offline checks, and what the API server has said about it. Requests read it without a lock.
pub(crate) struct ReviewedToken {
    pub(super) digest: Digest,
    pub(super) token: Box<[u8]>,
    identity: Identity,
    /// Whether the token is never accepted without confirmation, because the API server has refused it before, or may have.
    pub(super) needs_confirmation: AtomicBool,
    standing: AtomicU8,
    /// Until when the confirmation is used, in milliseconds since the creation of [`Shared`]; 0 without a confirmation.
    pub(super) valid_until: AtomicU64,
    /// Until when the token is accepted without confirmation, in the same unit.
    pub(super) unconfirmed_until: AtomicU64,
    /// From when on a request requests a renewal, in the same unit.
    pub(super) renew_at: AtomicU64,
    /// Whether the token was used since the start of its last review.
    pub(super) is_used: AtomicBool,
    attempts: watch::Sender<Attempts>,
}

/// The ends of a token's reviews.
#[derive(Default)]
pub(super) struct Attempts {
    /// Whether the last review failed. Not if it was interrupted, in which case another one is made.
    has_failed: bool,
}

impl Attempts {
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }
}

/// Whether a [`ReviewedToken`] is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Kept,
    /// It was displaced by other tokens, or has expired.
    Dropped,
    /// The API server has refused it.
    Refused,
}

const KEPT: u8 = 0;
const DROPPED: u8 = 1;
const REVOKED: u8 = 2;
const EXPIRED: u8 = 3;

/// Whether a token is accepted without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admitted {
    Confirmed,
    Unconfirmed,
    No,
}

/// Which tokens without a current confirmation are accepted without waiting. Never those that need one because of an earlier refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leniency {
    None,
    /// Those that were accepted without confirmation, for the time to live.
    Remembered,
    /// All, because reviews fail.
    Outage,
}

impl ReviewedToken {
    pub(super) fn new(digest: Digest, token: &[u8], identity: &Identity, prior: Prior) -> Self {
        Self {
            digest,
            token: token.into(),
            identity: identity.clone(),
            needs_confirmation: AtomicBool::new(prior != Prior::NotRefused),
            standing: AtomicU8::new(KEPT),
            valid_until: AtomicU64::new(0),
            unconfirmed_until: AtomicU64::new(0),
            renew_at: AtomicU64::new(0),
            is_used: AtomicBool::new(false),
            attempts: watch::Sender::default(),
        }
    }

    /// Returns the identity whose revocation the reviews of this token report.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn standing(&self) -> Standing {
        match self.standing.load(Ordering::Acquire) {
            KEPT => Standing::Kept,
            DROPPED => Standing::Dropped,
            _ => Standing::Refused,
        }
    }

    /// Returns the error for requests with this token, which was refused.
    pub(super) fn refusal(&self) -> TokenError {
        match self.standing.load(Ordering::Acquire) {
            EXPIRED => TokenError::Expired,
            _ => TokenError::TokenRevoked,
        }
    }

    pub(super) fn is_confirmed(&self, now: u64) -> bool {
        now < self.valid_until.load(Ordering::Acquire)
    }

    /// Returns whether a request with this token is accepted without waiting, and if so, records the use.
    pub(super) fn admitted(&self, now: u64, leniency: Leniency) -> Admitted {
        let is_lenient = || match leniency {
            Leniency::None => false,
            Leniency::Remembered => now < self.unconfirmed_until.load(Ordering::Relaxed),
            Leniency::Outage => true,
        };
        let admitted = if self.is_confirmed(now) {
            Admitted::Confirmed
        } else if !self.needs_confirmation.load(Ordering::Relaxed) && is_lenient() {
            Admitted::Unconfirmed
        } else {
            return Admitted::No;
        };
        // The flag is written once, so that threads do not contend for it.
        if !self.is_used.load(Ordering::Relaxed) {
            self.is_used.store(true, Ordering::Relaxed);
        }
        admitted
    }

    pub(super) fn is_renewal_due(&self, now: u64) -> bool {
        now >= self.renew_at.load(Ordering::Relaxed)
    }

    pub(super) fn attempts(&self) -> watch::Receiver<Attempts> {
        self.attempts.subscribe()
    }

    /// Returns whether the token was used since its last review, or something waits for its revocation.
    pub(super) fn is_in_use(&self) -> bool {
        self.is_used.load(Ordering::Relaxed) || self.is_watched()
    }

    pub(super) fn refuse(&self, kind: DenialKind) {
        let standing = match kind {
            DenialKind::Expired => EXPIRED,
            DenialKind::Gone | DenialKind::NotRecognized => REVOKED,
        };
        self.standing.store(standing, Ordering::Release);
        // The end of a token's time ends its streams, and an API server that does not recognize a token may learn its key.
        if kind == DenialKind::Gone
            && let Some(revocation) = &self.identity.validity().revocation
        {
            revocation.revoke();
        }
    }

    /// Records that the token is not kept any more.
    pub(super) fn drop_state(&self) {
        self.standing.store(DROPPED, Ordering::Release);
    }

    /// Returns whether something waits for the token's revocation.
    pub(super) fn is_watched(&self) -> bool {
        let revocation = self.identity.validity().revocation.as_ref();
        revocation.is_some_and(|revocation| revocation.is_watched())
    }

    pub(super) fn end_attempt(&self, has_failed: bool) {
        self.attempts.send_replace(Attempts { has_failed });
    }
}
