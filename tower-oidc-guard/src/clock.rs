//! The current time, which tests can replace.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Returns the time that tokens are validated with: the system's, or that of a function.
#[derive(Clone, Default)]
pub(crate) struct Clock(Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>);

impl Clock {
    #[cfg(feature = "testing")]
    /// Creates a clock that calls a function.
    pub(crate) fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> SystemTime {
        self.0.as_ref().map_or_else(SystemTime::now, |now| now())
    }

    /// Returns the time since the Unix epoch, or zero if the clock is set to an earlier time, so that every token is one from
    /// the future.
    pub(crate) fn since_epoch(&self) -> Duration {
        let now = self.now();
        now.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Clock(function)"
        } else {
            "Clock(system)"
        })
    }
}
