//! Waits for the end of a token.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::time::{Sleep, sleep};

use super::Identity;

/// The longest time without a look at the clock. The clock may be set meanwhile, and timers do not run while a machine is
/// suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// The resolution of tokio's timers.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);

/// Why a token that was valid is not valid any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum TokenEnd {
    /// Its time (`exp`, plus the leeway of its issuer) has passed.
    #[error("the token has expired")]
    Expired,
    /// The API server of its cluster has refused it, with [`Issuer::token_review`](crate::Issuer::token_review).
    #[error("the token was revoked")]
    Revoked,
}

impl TokenEnd {
    /// Returns a short name, which is one of a fixed set, for logs and metrics.
    ///
    /// ```
    /// use tower_oidc_guard::TokenEnd;
    ///
    /// assert_eq!(TokenEnd::Expired.reason(), "expired");
    /// assert_eq!(TokenEnd::Revoked.reason(), "revoked");
    /// ```
    pub fn reason(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A future that completes once a token is not valid any longer. Returned by [`Identity::expired`].
#[must_use = "futures do nothing unless polled"]
pub struct Expired {
    identity: Identity,
    /// Exists from the start, so that the token counts as in use; `None` if the token cannot be revoked.
    revoked: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    timer: Timer,
}

impl Expired {
    pub(super) fn new(identity: Identity) -> Self {
        let revocation = identity.validity().revocation.as_ref();
        let revoked = revocation.map(|revocation| Box::pin(revocation.revoked()) as _);
        Self {
            identity,
            revoked,
            timer: Timer::default(),
        }
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    #[cfg(test)]
    pub(crate) fn has_timer(&self) -> bool {
        self.timer.sleep.is_some()
    }
}

impl Future for Expired {
    type Output = TokenEnd;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TokenEnd> {
        let this = &mut *self;
        loop {
            let remaining = match this.identity.validity().remaining() {
                Ok(remaining) => remaining,
                Err(end) => return Poll::Ready(end),
            };
            if let Some(revoked) = &mut this.revoked
                && revoked.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(TokenEnd::Revoked);
            }
            if this.timer.poll(remaining, cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl fmt::Debug for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expired")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// A timer of the current tokio runtime, created when it is needed.
#[derive(Default)]
struct Timer {
    sleep: Option<(runtime::Id, Pin<Box<Sleep>>)>,
}

impl Timer {
    /// Waits until it is time to look at the clock, at the latest after `remaining`. Stays pending where there are no timers.
    fn poll(&mut self, remaining: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let Ok(runtime) = Handle::try_current() else {
            return Poll::Pending;
        };
        // A timer of another runtime ends with it, so it is replaced.
        let current = self.sleep.take().filter(|(id, _)| *id == runtime.id());
        let duration = remaining.clamp(SHORTEST_SLEEP, LONGEST_SLEEP);
        let sleep = current.or_else(|| Some((runtime.id(), new_sleep(runtime.id(), duration)?)));
        let Some((id, mut sleep)) = sleep else {
            return Poll::Pending;
        };
        let polled = sleep.as_mut().poll(cx);
        if polled.is_pending() {
            self.sleep = Some((id, sleep));
        }
        polled
    }
}

/// Creates a timer. Returns `None` if the current runtime, which has this ID, has no timers.
fn new_sleep(runtime: runtime::Id, duration: Duration) -> Option<Pin<Box<Sleep>>> {
    thread_local! {
        /// The runtime without timers that this thread has met last.
        static WITHOUT_TIMERS: Cell<Option<runtime::Id>> = const { Cell::new(None) };
    }
    if WITHOUT_TIMERS.get() == Some(runtime) {
        return None;
    }
    // A runtime does not tell whether it has timers.
    let created = catch_unwind(AssertUnwindSafe(|| Box::pin(sleep(duration))));
    if created.is_err() {
        WITHOUT_TIMERS.set(Some(runtime));
    }
    created.ok()
}
