//! Counts requests, responses and the rotations that the server has observed.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};
use tower_oidc_guard::Identity;

use crate::client::Endpoint;
use crate::output::{Component, EventLog};

/// The smallest number of token rotations in a successful scenario.
const MIN_TOKEN_ROTATIONS: usize = 5;
/// The smallest number of key rotations in a successful scenario.
const MIN_KEY_ROTATIONS: usize = 1;
/// The largest number of unexpected responses that are printed. Further ones are only counted.
const MAX_PRINTED_UNEXPECTED: u64 = 20;

/// A kind of request, for which one response is expected.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestCase {
    /// The name of its events in JSON.
    pub(super) name: &'static str,
    /// The requested path.
    pub(super) endpoint: Endpoint,
    /// The circumstances of the request, for a reader.
    pub(super) description: &'static str,
}

/// Counts what happens in the scenario, and prints the first event of each kind.
#[derive(Debug)]
pub(super) struct Report {
    events: Arc<EventLog>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    unexpected: u64,
    /// The tokens that the kubelet has written, by `jti`.
    written: HashMap<String, WrittenToken>,
    printed_cases: BTreeSet<&'static str>,
    observed_tokens: BTreeSet<usize>,
    observed_keys: BTreeSet<usize>,
}

/// A token that the kubelet has written.
#[derive(Debug, Clone, Copy)]
struct WrittenToken {
    rotation: usize,
    key: usize,
    written_at: Instant,
}

/// The result of the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// The number of requests that the client has sent.
    pub requests: u64,
    /// The number of token rotations after which the server has admitted the new token.
    pub token_rotations: usize,
    /// The number of key rotations after which the server has admitted a token signed with the new key.
    pub key_rotations: usize,
    /// The number of requests that did not receive the expected response.
    pub unexpected: u64,
}

impl Summary {
    /// Returns whether all responses were expected and at least 5 token rotations and 1 key rotation were observed.
    pub fn is_successful(&self) -> bool {
        self.unexpected == 0
            && self.token_rotations >= MIN_TOKEN_ROTATIONS
            && self.key_rotations >= MIN_KEY_ROTATIONS
    }

    /// Returns the summary as an event in JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "event": "summary",
            "requests": self.requests,
            "token_rotations": self.token_rotations,
            "key_rotations": self.key_rotations,
            "unexpected_answers": self.unexpected,
        })
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

impl Report {
    pub(super) fn new(events: Arc<EventLog>) -> Self {
        Self {
            events,
            counts: Mutex::default(),
        }
    }

    /// Records that the kubelet is about to write a token. `token_id` is its `jti`; `rotation` and `key` number the token
    /// and its signing key from 0.
    pub(super) fn record_token(&self, token_id: String, rotation: usize, key: usize) {
        let token = WrittenToken {
            rotation,
            key,
            written_at: Instant::now(),
        };
        self.counts().written.insert(token_id, token);
    }

    /// Records that the server has admitted a caller. Prints an event for the first use of each token and each key.
    pub(super) fn record_caller(&self, caller: &Identity) {
        let mut counts = self.counts();
        let token = caller.token_id().and_then(|id| counts.written.get(id));
        let Some(&WrittenToken {
            rotation,
            key,
            written_at,
        }) = token
        else {
            return;
        };
        let is_new_token = counts.observed_tokens.insert(rotation);
        let is_new_key = counts.observed_keys.insert(key);
        drop(counts);
        if is_new_key && key > 0 {
            let text =
                "fetched the new key for the first request that used it, and admitted the request";
            self.events.print(Component::Server, "new_key_seen", text);
        }
        if is_new_token && rotation > 0 {
            let milliseconds = written_at.elapsed().as_secs_f64() * 1000.0;
            let text =
                format!("received token {rotation}, {milliseconds:.1} ms after it was written");
            self.events
                .print(Component::Server, "new_token_seen", &text);
        }
    }

    /// Records an expected response. Prints an event for the first one of each case.
    pub(super) fn record_expected(&self, case: RequestCase, response: &str) {
        let mut counts = self.counts();
        counts.requests += 1;
        let is_first = counts.printed_cases.insert(case.name);
        drop(counts);
        if is_first {
            let (path, description) = (case.endpoint.path(), case.description);
            let text = format!("GET {path:<8}  {description:<38}  {response}");
            self.events.print(Component::Client, case.name, &text);
        }
    }

    /// Records an unexpected response, or an error instead of a response.
    pub(super) fn record_unexpected(&self, case: RequestCase, response: &str) {
        let mut counts = self.counts();
        counts.requests += 1;
        counts.unexpected += 1;
        let unexpected = counts.unexpected;
        drop(counts);
        if unexpected <= MAX_PRINTED_UNEXPECTED {
            let text = format!("UNEXPECTED for {}: {response}", case.name);
            self.events.print(Component::Client, "unexpected", &text);
        }
    }

    pub(super) fn summary(&self) -> Summary {
        let counts = self.counts();
        // The first token and the first key are numbered 0, and no rotation led to them.
        let rotations =
            |observed: &BTreeSet<usize>| observed.iter().filter(|&&number| number > 0).count();
        Summary {
            requests: counts.requests,
            token_rotations: rotations(&counts.observed_tokens),
            key_rotations: rotations(&counts.observed_keys),
            unexpected: counts.unexpected,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUCCESSFUL: Summary = Summary {
        requests: 9,
        token_rotations: 5,
        key_rotations: 1,
        unexpected: 0,
    };

    #[test]
    fn a_summary_is_successful_only_with_enough_rotations_and_no_unexpected_response() {
        assert!(SUCCESSFUL.is_successful());
        for unsuccessful in [
            Summary {
                token_rotations: 4,
                ..SUCCESSFUL
            },
            Summary {
                key_rotations: 0,
                ..SUCCESSFUL
            },
            Summary {
                unexpected: 1,
                ..SUCCESSFUL
            },
        ] {
            assert!(!unsuccessful.is_successful(), "{unsuccessful:?}");
        }
    }

    #[test]
    fn a_summary_is_displayed_in_one_line() {
        let line = "demo: 9 requests, 5 token rotations, 1 key rotations, 0 unexpected answers";
        assert_eq!(SUCCESSFUL.to_string(), line);
    }
}
