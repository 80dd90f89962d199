//! Limits the number of metric series, since an exporter never drops one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::SharedString;

/// The number of different audiences and paths that have their own series.
const MAX_LABELS: usize = 1000;

/// The label of all further ones.
const OTHER: &str = "(other)";

static LABELS: Mutex<Labels> = Mutex::new(Labels(BTreeMap::new()));

/// The labels that have their own series, each with the number of sources of fetched tokens for this audience.
struct Labels(BTreeMap<String, usize>);

/// Returns an audience or a path as a label: itself, or `(other)` if there were too many different ones in this process before.
/// The origins that a client sends requests to may determine audiences, so there is no other limit.
pub(super) fn bounded(text: &str) -> SharedString {
    if lock().add(text) {
        SharedString::from(text.to_owned())
    } else {
        SharedString::from(OTHER)
    }
}

/// Counts a source of fetched tokens for an audience.
pub(super) fn source_created(audience: &str) {
    lock().source_created(audience);
}

/// Counts the end of a source. Returns the label of its series if they belong to no other source.
pub(super) fn source_dropped(audience: &str) -> Option<SharedString> {
    let is_last = lock().source_dropped(audience);
    is_last.then(|| SharedString::from(audience.to_owned()))
}

fn lock() -> MutexGuard<'static, Labels> {
    LABELS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Labels {
    /// Adds a label, unless there are too many. Returns whether it has its own series.
    fn add(&mut self, text: &str) -> bool {
        if self.0.contains_key(text) {
            return true;
        }
        let has_room = self.0.len() < MAX_LABELS;
        if has_room {
            self.0.insert(text.to_owned(), 0);
        }
        has_room
    }

    fn source_created(&mut self, audience: &str) {
        self.add(audience);
        if let Some(sources) = self.0.get_mut(audience) {
            *sources += 1;
        }
    }

    /// Returns whether this was the last source of a series. The series of all further audiences is never the last one's.
    fn source_dropped(&mut self, audience: &str) -> bool {
        let Some(sources) = self.0.get_mut(audience) else {
            return false;
        };
        // The sources that were created before this audience had its own series were not counted.
        *sources = sources.saturating_sub(1);
        *sources == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_beyond_the_limit_share_one_series_and_earlier_ones_keep_theirs() {
        let mut labels = Labels(BTreeMap::new());
        for number in 0..MAX_LABELS {
            assert!(labels.add(&number.to_string()), "{number}");
        }
        assert!(!labels.add("another"));
        assert!(labels.add("0"));
        assert_eq!(labels.0.len(), MAX_LABELS);
        labels.source_created("another");
        assert!(!labels.source_dropped("another"));
    }

    #[test]
    fn the_series_of_an_audience_end_with_its_last_source() {
        let mut labels = Labels(BTreeMap::new());
        labels.source_created("a");
        labels.source_created("a");
        assert!(!labels.source_dropped("a"));
        labels.source_created("a");
        assert!(!labels.source_dropped("a"));
        assert!(labels.source_dropped("a"));
    }
}
