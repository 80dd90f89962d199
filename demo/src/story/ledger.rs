//! What was asked and answered, counted.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tower_oidc_guard::Identity;

use crate::narrator::{Narrator, Who};

/// The fewest rotations of the token in a story that went well.
const MIN_TOKEN_ROTATIONS: usize = 5;
/// The fewest rotations of the issuer's key.
const MIN_KEY_ROTATIONS: usize = 1;
/// So many unexpected answers are told one by one.
const MAX_TOLD: u64 = 20;

/// Counts requests, and the rotations that the server has seen tokens of.
#[derive(Debug)]
pub(super) struct Ledger {
    narrator: Arc<Narrator>,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    requests: u64,
    unexpected: u64,
    written: HashMap<String, Written>,
    told: BTreeSet<&'static str>,
    seen: BTreeSet<usize>,
    keys_seen: BTreeSet<usize>,
}

/// A token that the kubelet wrote.
#[derive(Debug, Clone, Copy)]
struct Written {
    rotation: usize,
    key: usize,
    at: Instant,
}

/// How the story went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Requests that the client sent.
    pub requests: u64,
    /// Rotations of which the server has seen a token; the first token is none.
    pub token_rotations: usize,
    /// Rotations of the issuer's key of which the server has seen a token.
    pub key_rotations: usize,
    /// Requests that were not answered as they should have been.
    pub unexpected: u64,
}

impl Summary {
    /// Whether all went well, through enough rotations.
    pub fn is_good(&self) -> bool {
        self.unexpected == 0
            && self.token_rotations >= MIN_TOKEN_ROTATIONS
            && self.key_rotations >= MIN_KEY_ROTATIONS
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            token_rotations,
            key_rotations,
            unexpected,
        } = self;
        write!(
            f,
            "demo: {requests} requests, {token_rotations} token rotations, \
             {key_rotations} key rotations, {unexpected} unexpected answers"
        )
    }
}

impl Ledger {
    pub(super) fn new(narrator: Arc<Narrator>) -> Self {
        Self {
            narrator,
            entries: Mutex::default(),
        }
    }

    /// The kubelet writes a token of that id.
    pub(super) fn written(&self, token_id: String, rotation: usize, key: usize) {
        let written = Written {
            rotation,
            key,
            at: Instant::now(),
        };
        self.entries().written.insert(token_id, written);
    }

    /// The server let somebody in.
    pub(super) fn caller(&self, caller: &Identity) {
        let mut entries = self.entries();
        let written = caller
            .token_id()
            .and_then(|id| entries.written.get(id))
            .copied();
        let Some(Written { rotation, key, at }) = written else {
            return;
        };
        let (new_token, new_key) = (entries.seen.insert(rotation), entries.keys_seen.insert(key));
        drop(entries);
        if new_key && key > 0 {
            let text = "fetched the new key in the same request that named it, and let it in";
            self.narrator.tell(Who::Server, "new_key_seen", text);
        }
        if new_token && rotation > 0 {
            let milliseconds = at.elapsed().as_secs_f64() * 1000.0;
            let text = format!("saw token {rotation}, {milliseconds:.1} ms after it was written");
            self.narrator.tell(Who::Server, "new_token_seen", &text);
        }
    }

    /// The client got the answer it should; the first of each kind is told.
    pub(super) fn expected(&self, kind: &'static str, text: &str) {
        let mut entries = self.entries();
        entries.requests += 1;
        let first = entries.told.insert(kind);
        drop(entries);
        if first {
            self.narrator.tell(Who::Client, kind, text);
        }
    }

    /// The client got another answer, or none.
    pub(super) fn unexpected(&self, kind: &'static str, what: &str) {
        let mut entries = self.entries();
        entries.requests += 1;
        entries.unexpected += 1;
        let count = entries.unexpected;
        drop(entries);
        if count <= MAX_TOLD {
            self.narrator.tell(
                Who::Client,
                "unexpected",
                &format!("UNEXPECTED for {kind}: {what}"),
            );
        }
    }

    pub(super) fn summary(&self) -> Summary {
        let entries = self.entries();
        Summary {
            requests: entries.requests,
            token_rotations: entries
                .seen
                .iter()
                .filter(|&&rotation| rotation > 0)
                .count(),
            key_rotations: entries.keys_seen.iter().filter(|&&key| key > 0).count(),
            unexpected: entries.unexpected,
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_good_only_with_enough_rotations_and_nothing_unexpected() {
        let good = Summary {
            requests: 9,
            token_rotations: 5,
            key_rotations: 1,
            unexpected: 0,
        };
        assert!(good.is_good());
        assert!(
            !Summary {
                token_rotations: 4,
                ..good
            }
            .is_good()
        );
        assert!(
            !Summary {
                key_rotations: 0,
                ..good
            }
            .is_good()
        );
        assert!(
            !Summary {
                unexpected: 1,
                ..good
            }
            .is_good()
        );
        let line = "demo: 9 requests, 5 token rotations, 1 key rotations, 0 unexpected answers";
        assert_eq!(good.to_string(), line);
    }
}
