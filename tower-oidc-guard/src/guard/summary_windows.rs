//! Windows of time in which occurrences are counted and then logged as one event.
//!
//! 1. The first occurrence after a quiet time is logged immediately, and opens a window.
//! 2. The occurrences within the window are only counted. At its end they are logged as one event, and the next window begins.
//!    If there were none, the quiet time begins.
//! 3. A timer task ends the window. It is spawned for the first occurrence, so at most one runs, and it ends with the last
//!    window, with the summary or with its runtime. Outside a runtime, the first occurrence after the window ends it.
//!
//! An event is about many requests, so it is not part of the span of the one that happens to cause it, which may have fields
//! from the request: see [`OutsideSpans`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::instrument::WithSubscriber as _;
use tracing::span::Id;
use tracing::{Dispatch, dispatcher};

/// The most nested spans that are left for an event.
const MAX_SPANS: usize = 64;

/// Occurrences that are counted in a window, and logged at its end.
pub(super) trait Summarized: Send + Sync + 'static {
    /// The occurrences of a window. The default value has none.
    type Counted: Default + Send;

    fn is_empty(counted: &Self::Counted) -> bool;

    /// Logs the occurrences, which are some. `elapsed` is the time in which they were counted, or `None` for a single one that
    /// is logged immediately.
    fn log(&self, counted: Self::Counted, elapsed: Option<Elapsed>);
}

/// The time in which occurrences were counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elapsed(Duration);

impl Elapsed {
    /// Returns the time in seconds, at least one.
    pub(super) fn seconds(self) -> u64 {
        (self.0.as_secs_f64().round() as u64).max(1)
    }
}

/// Counts occurrences, and logs them at most once per interval.
pub(super) struct SummaryWindows<S: Summarized> {
    /// The time between two events.
    interval: Duration,
    summarized: S,
    state: Mutex<State<S::Counted>>,
}

struct State<C> {
    /// The current window, or `None` during a quiet time.
    window: Option<Window>,
    counted: C,
    timer: Timer,
}

#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

/// The timer task.
#[derive(Default)]
enum Timer {
    #[default]
    Idle,
    /// It is being spawned.
    Starting,
    Running(AbortHandle),
    /// The task has panicked, because its runtime has no timers.
    Unavailable,
}

/// The occurrences of one window.
struct Summary<C> {
    counted: C,
    elapsed: Option<Elapsed>,
}

impl<S: Summarized> SummaryWindows<S> {
    pub(super) fn new(interval: Duration, summarized: S) -> Self {
        let state = State {
            window: None,
            counted: S::Counted::default(),
            timer: Timer::Idle,
        };
        Self {
            interval,
            summarized,
            state: Mutex::new(state),
        }
    }

    /// Takes over from another summary, so that the current window goes on. Logs what that one has counted.
    #[cfg(feature = "policy-file")]
    pub(super) fn succeed(&self, previous: &Self) {
        previous.flush();
        let window = previous.with_state(|state| state.window.take());
        self.with_state(|state| state.window = window);
    }

    /// Counts an occurrence with this function, which must not block.
    pub(super) fn record(self: &Arc<Self>, count: impl FnOnce(&mut S::Counted)) {
        let now = Instant::now();
        let (summary, has_timer) = self.with_state(|state| {
            let summary = state.record::<S>(now, self.interval, count);
            (summary, !matches!(state.timer, Timer::Idle))
        });
        if !has_timer {
            self.spawn_timer();
        }
        if let Some(summary) = summary {
            self.log(summary);
        }
    }

    /// Calls a function with the occurrences that are counted and not yet logged.
    pub(super) fn with_counted<R>(&self, look: impl FnOnce(&S::Counted) -> R) -> R {
        self.with_state(|state| look(&state.counted))
    }

    /// Ends the window if its time has come. Returns the end of the next window, or `None` if the quiet time begins.
    fn end_window(&self) -> Option<Instant> {
        let now = Instant::now();
        let (next, summary) = self.with_state(|state| {
            let Some(window) = state.window else {
                state.timer = Timer::Idle;
                return (None, None);
            };
            if now < window.end {
                return (Some(window.end), None);
            }
            if S::is_empty(&state.counted) {
                (state.window, state.timer) = (None, Timer::Idle);
                return (None, None);
            }
            let next = Window::new(now, self.interval);
            state.window = Some(next);
            let summary = Summary {
                counted: std::mem::take(&mut state.counted),
                elapsed: Some(window.elapsed(now)),
            };
            (Some(next.end), Some(summary))
        });
        if let Some(summary) = summary {
            self.log(summary);
        }
        next
    }

    /// Logs what is counted, in the middle of a window.
    fn flush(&self) {
        let now = Instant::now();
        let summary = self.with_state(|state| Summary {
            counted: std::mem::take(&mut state.counted),
            elapsed: state.window.map(|window| window.elapsed(now)),
        });
        if !S::is_empty(&summary.counted) {
            self.log(summary);
        }
    }

    fn log(&self, Summary { counted, elapsed }: Summary<S::Counted>) {
        self.summarized.log(counted, elapsed);
    }

    /// Spawns the timer task, unless it runs already. Does nothing outside a tokio runtime.
    fn spawn_timer(self: &Arc<Self>) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let is_first = self.with_state(|state| {
            let is_idle = matches!(state.timer, Timer::Idle);
            if is_idle {
                state.timer = Timer::Starting;
            }
            is_idle
        });
        if !is_first {
            return;
        }
        let timer = TimerTask {
            summary: Arc::downgrade(self),
            is_interrupted: true,
        };
        // The subscriber of the request that opens the window gets the events. A runtime that is shutting down drops the task
        // here, so the state must not be locked.
        let task = runtime.spawn(timer.run().with_current_subscriber());
        self.with_state(|state| {
            if matches!(state.timer, Timer::Starting) {
                state.timer = Timer::Running(task.abort_handle());
            }
        });
    }

    fn with_state<R>(&self, access: impl FnOnce(&mut State<S::Counted>) -> R) -> R {
        access(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<C: Default> State<C> {
    /// Counts an occurrence. Returns what is to be logged now, if it is not within a window.
    fn record<S: Summarized<Counted = C>>(
        &mut self,
        now: Instant,
        interval: Duration,
        count: impl FnOnce(&mut C),
    ) -> Option<Summary<C>> {
        let elapsed = match self.window {
            Some(window) if now < window.end => {
                count(&mut self.counted);
                return None;
            }
            Some(window) if !S::is_empty(&self.counted) => Some(window.elapsed(now)),
            _ => None,
        };
        count(&mut self.counted);
        self.window = Some(Window::new(now, interval));
        let counted = std::mem::take(&mut self.counted);
        Some(Summary { counted, elapsed })
    }
}

impl Window {
    fn new(start: Instant, interval: Duration) -> Self {
        Self {
            start,
            end: start + interval,
        }
    }

    fn elapsed(self, now: Instant) -> Elapsed {
        Elapsed(now.saturating_duration_since(self.start))
    }
}

/// Leaves the current spans until it is dropped, as an executor does between two polls of a future.
///
/// A summary is about many requests, but is logged while one of them is handled. `parent: None` is not enough: the JSON
/// formatter of tracing-subscriber lists the current spans nevertheless, with the method and path of that request.
pub(super) struct OutsideSpans {
    subscriber: Dispatch,
    /// The spans that were left, from the innermost to the outermost.
    left: Vec<Id>,
}

impl OutsideSpans {
    pub(super) fn leave() -> Self {
        let subscriber = dispatcher::get_default(Dispatch::clone);
        let mut left = Vec::new();
        while let Some(span) = subscriber.current_span().id().cloned() {
            // A span that was entered twice is left twice. A subscriber that does not support this keeps its current span.
            if left.len() == MAX_SPANS {
                break;
            }
            subscriber.exit(&span);
            left.push(span);
        }
        Self { subscriber, left }
    }
}

impl Drop for OutsideSpans {
    fn drop(&mut self) {
        for span in self.left.iter().rev() {
            self.subscriber.enter(span);
        }
    }
}

/// The task that ends the windows.
struct TimerTask<S: Summarized> {
    summary: Weak<SummaryWindows<S>>,
    /// Whether the task has not come to its end. It is dropped in this state with its runtime, or if it panics.
    is_interrupted: bool,
}

impl<S: Summarized> TimerTask<S> {
    async fn run(mut self) {
        while let Some(end) = self.end_window() {
            sleep_until(end).await;
        }
        self.is_interrupted = false;
    }

    fn end_window(&self) -> Option<Instant> {
        self.summary.upgrade()?.end_window()
    }
}

impl<S: Summarized> Drop for TimerTask<S> {
    fn drop(&mut self) {
        let summary = self.summary.upgrade();
        let Some(summary) = summary.filter(|_| self.is_interrupted) else {
            return;
        };
        if std::thread::panicking() {
            summary.with_state(|state| state.timer = Timer::Unavailable);
        } else {
            summary.with_state(|state| state.timer = Timer::Idle);
            summary.flush();
        }
    }
}

impl<S: Summarized> Drop for SummaryWindows<S> {
    fn drop(&mut self) {
        let timer = self.with_state(|state| std::mem::take(&mut state.timer));
        if let Timer::Running(task) = timer {
            task.abort();
        }
        self.flush();
    }
}

impl<S: Summarized> fmt::Debug for SummaryWindows<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SummaryWindows")
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}
