//! Limits the number of metric series, since an exporter never drops one.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use metrics::SharedString;

/// The number of different audiences and paths that have their own series.
const MAX_LABELS: usize = 1000;

/// The label of all further ones.
const OTHER: &str = "(other)";

static LABELS: Mutex<Labels> = Mutex::new(Labels(BTreeSet::new()));

/// The labels that have their own series.
struct Labels(BTreeSet<String>);

/// Returns an audience or a path as a label: itself, or `(other)` if there were too many different ones in this process before.
/// The origins that a client sends requests to may determine audiences, so there is no other limit.
pub(super) fn bounded(text: &str) -> SharedString {
    let mut labels = LABELS.lock().unwrap_or_else(PoisonError::into_inner);
    if labels.add(text) {
        SharedString::from(text.to_owned())
    } else {
        SharedString::from(OTHER)
    }
}

impl Labels {
    /// Adds a label, unless there are too many. Returns whether it has its own series.
    fn add(&mut self, text: &str) -> bool {
        if self.0.contains(text) {
            return true;
        }
        let has_room = self.0.len() < MAX_LABELS;
        if has_room {
            self.0.insert(text.to_owned());
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beyond_the_limit_share_one_series_and_earlier_ones_keep_theirs() {
        let mut labels = Labels(BTreeSet::new());
        for number in 0..MAX_LABELS {
            assert!(labels.add(&number.to_string()), "{number}");
        }
        assert!(!labels.add("another"));
        assert!(labels.add("0"));
        assert_eq!(labels.0.len(), MAX_LABELS);
    }
}
