//! Timers. In a model, time advances only if nothing else can run.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::model;

/// The time after which a model that still waits has failed.
const MAX_TIME: Duration = Duration::from_secs(3600);

thread_local! {
    static TIMERS: RefCell<Timers> = const { RefCell::new(Timers { next: 0, waiting: Vec::new(), has_ended: false }) };
}

struct Timers {
    next: u64,
    /// The number, the deadline and the waker of each timer.
    waiting: Vec<(u64, Instant, Waker)>,
    has_ended: bool,
}

/// Starts the thread that advances the time.
pub(super) fn start() -> shuttle::thread::JoinHandle<()> {
    let end = Instant::now() + MAX_TIME;
    TIMERS.with_borrow_mut(|timers| {
        timers.waiting.clear();
        timers.has_ended = false;
    });
    shuttle::thread::spawn(move || {
        loop {
            // The scheduler continues here if nothing else can run.
            shuttle::thread::yield_now();
            let next = TIMERS.with_borrow(|timers| {
                let deadlines = timers.waiting.iter().map(|(_, deadline, _)| *deadline);
                deadlines.min().filter(|_| !timers.has_ended)
            });
            let Some(next) = next else { return };
            assert!(next < end, "the model waits for longer than {MAX_TIME:?}");
            let advance = tokio::time::advance(next.saturating_duration_since(Instant::now()));
            let mut advance = Box::pin(advance);
            let _ = advance
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            let due: Vec<_> = TIMERS.with_borrow_mut(|timers| {
                let is_due = |(_, deadline, _): &mut (u64, Instant, Waker)| *deadline <= next;
                timers.waiting.extract_if(.., is_due).collect()
            });
            for (_, _, waker) in due {
                waker.wake();
            }
        }
    })
}

/// Ends the thread that advances the time, when nothing else can run.
pub(super) fn stop() {
    TIMERS.with_borrow_mut(|timers| timers.has_ended = true);
}

/// A time limit has passed.
#[derive(Debug)]
pub(crate) struct Elapsed;

/// Waits for a duration, like [`tokio::time::sleep`].
pub(crate) fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// Waits until a time, like [`tokio::time::sleep_until`].
pub(crate) fn sleep_until(deadline: Instant) -> Sleep {
    if model::is_active() {
        let number = TIMERS.with_borrow_mut(|timers| {
            timers.next += 1;
            timers.next
        });
        return Sleep::Model { number, deadline };
    }
    Sleep::Tokio(Box::pin(tokio::time::sleep_until(deadline)))
}

/// Waits for a future for at most a duration, like [`tokio::time::timeout`].
pub(crate) async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let far = Duration::from_secs(86_400 * 365);
    let deadline = Instant::now().checked_add(limit);
    timeout_at(deadline.unwrap_or_else(|| Instant::now() + far), future).await
}

/// Waits for a future until a time, like [`tokio::time::timeout_at`].
pub(crate) async fn timeout_at<F: Future>(
    deadline: Instant,
    future: F,
) -> Result<F::Output, Elapsed> {
    tokio::select! {
        biased;
        output = future => Ok(output),
        () = sleep_until(deadline) => Err(Elapsed),
    }
}

pub(crate) enum Sleep {
    Tokio(Pin<Box<tokio::time::Sleep>>),
    Model { number: u64, deadline: Instant },
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.get_mut() {
            Self::Tokio(sleep) => sleep.as_mut().poll(cx),
            Self::Model { deadline, .. } if Instant::now() >= *deadline => Poll::Ready(()),
            Self::Model { number, deadline } => {
                TIMERS.with_borrow_mut(|timers| {
                    timers.waiting.retain(|(other, ..)| other != number);
                    let timer = (*number, *deadline, cx.waker().clone());
                    timers.waiting.push(timer);
                });
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Self::Model { number, .. } = self {
            TIMERS.with_borrow_mut(|timers| timers.waiting.retain(|(other, ..)| other != number));
        }
    }
}
