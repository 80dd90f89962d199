//! The revocation of a token before it expires.

use std::fmt;
use std::future::Future;

use crate::sync::watch;

/// Whether a token is revoked. Clones share the state, so all identities of one token learn of its revocation.
///
/// A revoked token stays revoked.
#[derive(Clone)]
pub(crate) struct Revocation(watch::Sender<bool>);

impl Revocation {
    /// Creates the state of a token that is not revoked.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Revokes the token.
    pub(crate) fn revoke(&self) {
        self.0
            .send_if_modified(|is_revoked| !std::mem::replace(is_revoked, true));
    }

    pub(crate) fn is_revoked(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns whether something waits for the revocation, such as a stream, so that the token is in use although no request
    /// arrives with it.
    pub(crate) fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Returns whether this is a clone of the other one.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }

    /// Waits until the token is revoked. Watches the token from this call until the future is dropped.
    pub(crate) fn revoked(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.0.subscribe();
        // The channel stays open for as long as the future exists, so waiting cannot fail.
        let sender = self.0.clone();
        async move {
            let _ = receiver.wait_for(|is_revoked| *is_revoked).await;
            drop(sender);
        }
    }
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocation")
            .field("is_revoked", &self.is_revoked())
            .field("watchers", &self.0.receiver_count())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn all_clones_are_revoked_and_their_watchers_complete() {
        let (revocation, mut cx) = (Revocation::new(), Context::from_waker(Waker::noop()));
        let clone = revocation.clone();
        let mut waiting = Box::pin(clone.revoked());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        assert!(!revocation.is_revoked());
        revocation.revoke();
        revocation.revoke();
        assert!(clone.is_revoked());
        assert_eq!(waiting.as_mut().poll(&mut cx), Poll::Ready(()));
        assert_eq!(
            Box::pin(clone.revoked()).as_mut().poll(&mut cx),
            Poll::Ready(())
        );
    }

    #[test]
    fn a_token_is_watched_from_the_call_until_the_future_is_dropped() {
        let revocation = Revocation::new();
        assert!(!revocation.is_watched());
        let first = revocation.revoked();
        let second = revocation.clone().revoked();
        assert!(revocation.is_watched());
        drop(first);
        assert!(revocation.is_watched());
        drop(second);
        assert!(!revocation.is_watched());
    }

    #[test]
    fn waiting_goes_on_after_all_other_handles_are_dropped() {
        let revocation = Revocation::new();
        let mut waiting = Box::pin(revocation.revoked());
        drop(revocation);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
    }
}
