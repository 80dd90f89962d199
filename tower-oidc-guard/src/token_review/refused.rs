//! The memory of tokens that the API server has refused.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::api::{Denial, DenialKind};
use super::token::Digest;
use crate::jose::TokenError;

/// The longest time until the API server is asked again about a refused token.
const MAX_ASK_INTERVAL: Duration = Duration::from_secs(600);

/// The memory of a token without a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prior {
    /// The API server has not refused it.
    NotRefused,
    /// The API server has refused it, and may be asked again.
    Refused,
    /// It may be one that the API server has refused and that is forgotten.
    Unknown,
}

/// The tokens that were refused and have not ended, up to a limit.
#[derive(Clone, Default)]
pub(super) struct RefusedTokens {
    tokens: HashMap<Digest, RefusedToken>,
    /// The ends of the tokens.
    ends: BTreeSet<(Duration, Digest)>,
    /// Until when a token that is not remembered may be one that was refused, counted from the Unix epoch.
    forgotten_until: Duration,
}

#[derive(Clone)]
struct RefusedToken {
    denial: Denial,
    /// When the token ends, counted from the Unix epoch.
    end: Duration,
    /// When the API server is asked again, because some failures of the API server look like a deleted pod.
    ask_again: Instant,
    /// The time between the last two answers.
    interval: Duration,
}

impl RefusedTokens {
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Returns why a token was refused.
    pub(super) fn denial(&self, digest: &Digest) -> Option<&Denial> {
        self.tokens.get(digest).map(|refused| &refused.denial)
    }

    /// Returns what is remembered about a token, or the error if it is refused without asking. `wall_clock` is the time since
    /// the Unix epoch; `may_ask` is whether a review can be made now.
    pub(super) fn prior(
        &mut self,
        digest: &Digest,
        now: Instant,
        wall_clock: Duration,
        may_ask: bool,
    ) -> Result<Prior, TokenError> {
        self.forget_ended(wall_clock);
        if let Some(refused) = self.tokens.get(digest) {
            if may_ask && now >= refused.ask_again {
                return Ok(Prior::Refused);
            }
            return Err(refused.denial.kind.error());
        }
        if wall_clock < self.forgotten_until {
            return Ok(Prior::Unknown);
        }
        Ok(Prior::NotRefused)
    }

    /// Remembers a token. If there is no room, the token that ends first is forgotten.
    pub(super) fn insert(
        &mut self,
        digest: Digest,
        denial: Denial,
        end: Duration,
        now: Instant,
        first_interval: Duration,
        limit: usize,
    ) {
        let interval = match self.tokens.get(&digest) {
            Some(refused) => refused.interval.saturating_mul(2).min(MAX_ASK_INTERVAL),
            None => first_interval,
        };
        // The token has expired for good.
        let interval = match denial.kind {
            DenialKind::Expired => MAX_ASK_INTERVAL,
            DenialKind::Gone | DenialKind::NotRecognized => interval,
        };
        self.remove(&digest);
        while self.tokens.len() >= limit
            && let Some((end, digest)) = self.ends.first().copied()
        {
            self.forgotten_until = self.forgotten_until.max(end);
            self.remove(&digest);
        }
        self.ends.insert((end, digest));
        let ask_again = now + interval;
        let refused = RefusedToken {
            denial,
            end,
            ask_again,
            interval,
        };
        self.tokens.insert(digest, refused);
    }

    /// Forgets a token, which is valid nevertheless.
    pub(super) fn remove(&mut self, digest: &Digest) {
        if let Some(refused) = self.tokens.remove(digest) {
            self.ends.remove(&(refused.end, *digest));
        }
    }

    fn forget_ended(&mut self, wall_clock: Duration) {
        while let Some((end, digest)) = self.ends.first().copied()
            && end <= wall_clock
        {
            self.remove(&digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(refused: &mut RefusedTokens, number: u8, end: u64, now: Instant) {
        let denial = Denial {
            kind: DenialKind::Gone,
            text: String::new(),
        };
        let (end, ttl) = (Duration::from_secs(end), Duration::from_secs(10));
        refused.insert([number; 32], denial, end, now, ttl, 2);
    }

    #[test]
    fn the_token_that_ends_first_is_forgotten_and_not_taken_for_a_new_one() {
        let (mut refused, now) = (RefusedTokens::default(), Instant::now());
        for (number, end) in [(1, 300), (2, 100), (3, 200)] {
            refuse(&mut refused, number, end, now);
        }
        let mut prior =
            |number: u8, at| refused.prior(&[number; 32], now, Duration::from_secs(at), true);
        assert_eq!(prior(1, 0), Err(TokenError::TokenRevoked));
        assert_eq!(prior(2, 99), Ok(Prior::Unknown));
        assert_eq!(prior(4, 99), Ok(Prior::Unknown));
        assert_eq!(prior(4, 100), Ok(Prior::NotRefused));
        assert_eq!(prior(3, 200), Ok(Prior::NotRefused));
        assert_eq!(refused.len(), 1);
    }

    #[test]
    fn the_api_server_is_asked_again_at_growing_intervals() {
        let (mut refused, start) = (RefusedTokens::default(), Instant::now());
        let (mut now, mut intervals) = (start, Vec::new());
        for _ in 0..9 {
            refuse(&mut refused, 1, 100_000, now);
            let asked = now;
            while refused.prior(&[1; 32], now, Duration::ZERO, true).is_err() {
                now += Duration::from_secs(1);
            }
            let is_refused = refused.prior(&[1; 32], now, Duration::ZERO, false);
            assert_eq!(is_refused, Err(TokenError::TokenRevoked));
            intervals.push((now - asked).as_secs());
        }
        assert_eq!(intervals, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    }
}
