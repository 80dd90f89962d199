//! Remembers with an identity whether a policy allows it.
//!
//! A decision depends on the identity and the policy alone, unless the policy has a condition of the application. So it is made
//! once for each cached token, not for each request. Every request reads the memo; it is written only when a policy decides on the
//! identity for the first time.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of policies whose decisions are remembered: that of a guard, its shadow policy, and those of further layers.
const SLOTS: usize = 4;

/// Identifies a policy, or one version of the content of a policy file, among all of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyId(u64);

impl PolicyId {
    pub(crate) fn new() -> Self {
        /// 0 is the value of an empty slot.
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The last decisions of policies on an identity.
#[derive(Default)]
pub(crate) struct DecisionMemo([AtomicU64; SLOTS]);

impl DecisionMemo {
    /// Returns the remembered decision of a policy: whether it allows the identity. Makes the decision if none is remembered.
    #[inline]
    pub(crate) fn get_or_decide(&self, policy: PolicyId, decide: impl FnOnce() -> bool) -> bool {
        let PolicyId(id) = policy;
        let (allowed, not_allowed) = (id << 1 | 1, id << 1);
        let Some(slot) = self.0.get(id as usize % SLOTS) else {
            return decide();
        };
        // One value has both the policy and its decision, so no other order is needed.
        let remembered = slot.load(Ordering::Relaxed);
        if remembered == allowed {
            return true;
        }
        if remembered == not_allowed {
            return false;
        }
        let is_allowed = decide();
        slot.store(
            if is_allowed { allowed } else { not_allowed },
            Ordering::Relaxed,
        );
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_decides_once_and_other_policies_for_themselves() {
        let memo = DecisionMemo::default();
        let never = || panic!("the decision is remembered");
        let policies: Vec<_> = (0..SLOTS).map(|_| PolicyId::new()).collect();
        for (index, policy) in policies.iter().enumerate() {
            assert_eq!(
                memo.get_or_decide(*policy, || index % 2 == 0),
                index % 2 == 0
            );
        }
        for (index, policy) in policies.iter().enumerate() {
            assert_eq!(memo.get_or_decide(*policy, never), index % 2 == 0);
        }
    }

    #[test]
    fn more_policies_than_slots_decide_again() {
        let memo = DecisionMemo::default();
        let policies: Vec<_> = (0..3 * SLOTS).map(|_| PolicyId::new()).collect();
        for round in 0..2 {
            for (index, policy) in policies.iter().enumerate() {
                let expected = (index + round) % 2 == 0;
                assert_eq!(memo.get_or_decide(*policy, || expected), expected);
            }
        }
    }
}
