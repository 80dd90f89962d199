//! A summary of refused requests in the log, so that an operator sees at the default level what is refused, and why.
//!
//! 1. The first refusal after a quiet time is logged immediately, and opens a window.
//! 2. The refusals within the window are only counted, by reason and issuer. At its end they are logged as one event, and the
//!    next window begins. If there were none, the quiet time begins.
//! 3. A timer task ends the window. It is spawned for the first refusal, so at most one runs per guard, and it ends with the
//!    last window, with the guard or with its runtime. Outside a runtime, the first refusal after the window ends it.
//!
//! An event consists of counts and of what is configured, and contains nothing from a request. Therefore it is not part of the
//! request's span, which may have fields from the request.

use std::cmp::Reverse;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use http::HeaderName;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tracing::instrument::WithSubscriber as _;
use tracing::span::Id;
use tracing::{Dispatch, Level, dispatcher};

use super::expected::{detail, expected};
use crate::jose::TokenError;
use crate::policy::ResolvedPolicy;
use crate::rejection::Rejection;
use crate::verifier::{TokenVerifier, alternatives};

/// The most combinations of reason and issuer that a message describes.
const MAX_DESCRIBED: usize = 8;

/// The most nested spans that are left for an event.
const MAX_SPANS: usize = 64;

/// Counts and logs the refused requests of a guard and all its layers.
pub(super) struct RefusalSummary {
    /// The time between two events.
    interval: Duration,
    verifier: TokenVerifier,
    token_headers: Vec<HeaderName>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The current window, or `None` during a quiet time.
    window: Option<Window>,
    counted: Vec<Counted>,
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

/// The refusals for one reason that concern one issuer.
struct Counted {
    rejection: Rejection,
    /// The label of the issuer, if it is a trusted one.
    issuer: Option<Arc<str>>,
    /// The number of members of the policy that did not allow the callers, or `None` if there are several such policies.
    members: Option<usize>,
    count: u64,
}

/// The refusals of one window.
struct Summary {
    counted: Vec<Counted>,
    /// The time in which they were counted, or `None` for a single refusal that is logged immediately.
    elapsed: Option<Duration>,
}

impl RefusalSummary {
    pub(super) fn new(
        interval: Duration,
        verifier: TokenVerifier,
        token_headers: Vec<HeaderName>,
    ) -> Self {
        Self {
            interval,
            verifier,
            token_headers,
            state: Mutex::default(),
        }
    }

    /// Takes over from another summary, so that the current window goes on. Logs what that one has counted.
    #[cfg(feature = "policy-file")]
    pub(super) fn succeed(&self, previous: &Self) {
        previous.flush();
        let window = previous.with_state(|state| state.window.take());
        self.with_state(|state| state.window = window);
    }

    /// Counts a refused request. `issuer` is the label of the token's issuer, if that is a trusted one, and `policy` the policy
    /// of the layer.
    pub(super) fn record(
        self: &Arc<Self>,
        rejection: Rejection,
        issuer: Option<&Arc<str>>,
        policy: &ResolvedPolicy,
    ) {
        let now = Instant::now();
        let members = match rejection {
            Rejection::NotAllowed => Some(policy.as_policy().allowed_members()),
            _ => None,
        };
        let (summary, has_timer) = self.with_state(|state| {
            let summary = state.record(now, self.interval, rejection, issuer, members);
            (summary, !matches!(state.timer, Timer::Idle))
        });
        if !has_timer {
            self.spawn_timer();
        }
        if let Some(summary) = summary {
            self.log(summary);
        }
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
            if state.counted.is_empty() {
                (state.window, state.timer) = (None, Timer::Idle);
                return (None, None);
            }
            let next = Window::new(now, self.interval);
            state.window = Some(next);
            let summary = Summary {
                counted: std::mem::take(&mut state.counted),
                elapsed: Some(now.saturating_duration_since(window.start)),
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
            elapsed: state
                .window
                .map(|window| now.saturating_duration_since(window.start)),
        });
        if !summary.counted.is_empty() {
            self.log(summary);
        }
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

    fn with_state<R>(&self, access: impl FnOnce(&mut State) -> R) -> R {
        access(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Logs a summary, at the level INFO if all requests lacked a token, which is usual for some services.
    fn log(&self, summary: Summary) {
        let mut all = summary.counted.iter();
        let expected = all.all(|counted| counted.rejection == Rejection::MissingToken);
        let is_enabled = if expected {
            tracing::enabled!(Level::INFO)
        } else {
            tracing::enabled!(Level::WARN)
        };
        if !is_enabled {
            return;
        }
        let (count, seconds) = (summary.count(), summary.seconds());
        let reasons = summary.reasons();
        let message = self.message(summary);
        let _outside = OutsideSpans::leave();
        // Events of two levels are two events.
        if expected {
            tracing::info!(parent: None, count, seconds, reasons, "{message}");
        } else {
            tracing::warn!(parent: None, count, seconds, reasons, "{message}");
        }
    }

    fn message(&self, mut summary: Summary) -> String {
        let count = summary.count();
        let requests = if count == 1 { "request" } else { "requests" };
        let mut message = format!("{count} {requests} refused");
        if let Some(seconds) = summary.seconds() {
            let _ = write!(message, " in the last {seconds} s");
        }
        let counted = &mut summary.counted;
        // Of equal counts, those that are probably a setting come first, since the number of described reasons is limited.
        counted.sort_by_key(|counted| {
            let rejection = &counted.rejection;
            let is_junk = matches!(
                rejection,
                Rejection::MalformedRequest(_) | Rejection::InvalidToken(TokenError::Malformed(_))
            );
            (Reverse(counted.count), is_junk, rejection.reason())
        });
        for (index, counted) in counted.iter().take(MAX_DESCRIBED).enumerate() {
            message.push_str(if index == 0 { ": " } else { "; " });
            let _ = write!(message, "{} {}", counted.count, counted.rejection.reason());
            if let Some(detail) = detail(&counted.rejection) {
                let _ = write!(message, " ({detail})");
            }
            if let Some(issuer) = &counted.issuer
                && self.verifier.issuer_count() > 1
            {
                let _ = write!(message, " of {}", alternatives([&**issuer], 1));
            }
            if let Some(advice) = self.advice(counted) {
                let _ = write!(message, ", {advice}");
            }
        }
        let rest: u64 = counted
            .iter()
            .skip(MAX_DESCRIBED)
            .map(|rest| rest.count)
            .sum();
        if rest > 0 {
            let _ = write!(message, "; {rest} for other reasons");
        }
        message
    }

    /// Returns what is accepted, and what to do.
    fn advice(&self, counted: &Counted) -> Option<String> {
        if counted.rejection != Rejection::NotAllowed {
            let issuer = counted.issuer.as_deref();
            return expected(
                &counted.rejection,
                issuer,
                &self.verifier,
                &self.token_headers,
            );
        }
        let policy = match counted.members {
            Some(1) => "by a policy with 1 member".to_owned(),
            Some(members) => format!("by a policy with {members} members"),
            None => "by several policies".to_owned(),
        };
        Some(format!(
            "{policy}: the log level DEBUG of tower_oidc_guard shows each caller and the rule that decided"
        ))
    }
}

impl State {
    /// Counts a refusal. Returns what is to be logged now, if it is not within a window.
    fn record(
        &mut self,
        now: Instant,
        interval: Duration,
        rejection: Rejection,
        issuer: Option<&Arc<str>>,
        members: Option<usize>,
    ) -> Option<Summary> {
        let elapsed = match self.window {
            Some(window) if now < window.end => {
                self.count(rejection, issuer, members);
                return None;
            }
            Some(window) if !self.counted.is_empty() => {
                Some(now.saturating_duration_since(window.start))
            }
            _ => None,
        };
        self.count(rejection, issuer, members);
        self.window = Some(Window::new(now, interval));
        let counted = std::mem::take(&mut self.counted);
        Some(Summary { counted, elapsed })
    }

    fn count(
        &mut self,
        mut rejection: Rejection,
        issuer: Option<&Arc<str>>,
        members: Option<usize>,
    ) {
        // The time to wait depends on the moment, and is of no interest here.
        if let Rejection::KeysUnavailable { retry_after }
        | Rejection::TokenReviewUnavailable { retry_after } = &mut rejection
        {
            *retry_after = Duration::ZERO;
        }
        let is_same = |counted: &&mut Counted| {
            counted.rejection == rejection && counted.issuer.as_ref() == issuer
        };
        match self.counted.iter_mut().find(is_same) {
            Some(counted) => {
                counted.count += 1;
                counted.members = counted.members.filter(|count| Some(*count) == members);
            }
            None => self.counted.push(Counted {
                rejection,
                issuer: issuer.cloned(),
                members,
                count: 1,
            }),
        }
    }
}

impl Window {
    fn new(start: Instant, interval: Duration) -> Self {
        Self {
            start,
            end: start + interval,
        }
    }
}

impl Summary {
    fn count(&self) -> u64 {
        self.counted.iter().map(|counted| counted.count).sum()
    }

    /// Returns the time in which the refusals were counted, in seconds.
    fn seconds(&self) -> Option<u64> {
        let seconds = self.elapsed?.as_secs_f64().round();
        Some((seconds as u64).max(1))
    }

    /// Returns the number of refusals for each reason, such as `wrong_audience=30 expired=7`.
    fn reasons(&self) -> String {
        let mut counts: Vec<(&str, u64)> = Vec::new();
        for counted in &self.counted {
            let reason = counted.rejection.reason();
            match counts.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, count)) => *count += counted.count,
                None => counts.push((reason, counted.count)),
            }
        }
        counts.sort_by_key(|(reason, count)| (Reverse(*count), *reason));
        let counts = counts.iter();
        let texts: Vec<_> = counts
            .map(|(reason, count)| format!("{reason}={count}"))
            .collect();
        texts.join(" ")
    }
}

/// Leaves the current spans until it is dropped, as an executor does between two polls of a future.
///
/// A summary is about many requests, but is logged while one of them is handled. `parent: None` is not enough: the JSON
/// formatter of tracing-subscriber lists the current spans nevertheless, with the method and path of that request.
struct OutsideSpans {
    subscriber: Dispatch,
    /// The spans that were left, from the innermost to the outermost.
    left: Vec<Id>,
}

impl OutsideSpans {
    fn leave() -> Self {
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
struct TimerTask {
    summary: Weak<RefusalSummary>,
    /// Whether the task has not come to its end. It is dropped in this state with its runtime, or if it panics.
    is_interrupted: bool,
}

impl TimerTask {
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

impl Drop for TimerTask {
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

impl Drop for RefusalSummary {
    fn drop(&mut self) {
        let timer = self.with_state(|state| std::mem::take(&mut state.timer));
        if let Timer::Running(task) = timer {
            task.abort();
        }
        self.flush();
    }
}

impl fmt::Debug for RefusalSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusalSummary")
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}
