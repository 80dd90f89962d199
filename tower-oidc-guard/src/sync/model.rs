//! Explores the orders in which the threads and tasks of a model can run.
//!
//! A model is a function that starts threads and tasks, waits for them, and asserts what must hold in every order. Shuttle runs it
//! again and again on one thread, and chooses at each operation of the types in [`sync`](super) which thread or task continues:
//! half of the orders at random, half by probabilistic concurrency testing, which finds faults that need few preemptions with a
//! known probability. Time is simulated, and advances only if nothing else can run.
//!
//! Loom and turmoil fit less well: loom has to replace the types of tokio and arc-swap too, and explores every order, of which there
//! are too many here; turmoil runs each host on one thread without preemption.
//!
//! All atomic operations are sequentially consistent in a model, so faults of weaker orderings are not found.
//!
//! - By default each model explores a fixed number of orders from a fixed seed.
//! - `MODEL_SECONDS=3600` explores random orders for that time, for each model.
//! - If a model fails, the test prints the order as a string. `MODEL_REPLAY=string` runs only that order, for the one test that is
//!   selected on the command line.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Schedule, Scheduler, Task, TaskId,
};
use shuttle::{Config, Runner};

use super::model_runtime;
use super::time as model_time;

/// The seed of the orders that are explored by default.
pub(super) const SEED: u64 = 20_260_101;

/// The number of preemptions of an order by probabilistic concurrency testing, plus one.
const DEPTH: usize = 4;

/// The stack of each thread and task.
const STACK_BYTES: usize = 512 * 1024;

/// The number of operations of one order. More are an endless loop.
const MAX_STEPS: usize = 50_000;

/// The task that advances the time. It is spawned first, after the main one.
const CLOCK: usize = 1;

thread_local! {
    static IS_ACTIVE: Cell<bool> = const { Cell::new(false) };
    static UNINTERRUPTED: Cell<usize> = const { Cell::new(0) };
}

/// Returns whether the current thread runs a model.
pub(crate) fn is_active() -> bool {
    IS_ACTIVE.get()
}

/// Lets the scheduler choose which thread or task continues. Does nothing outside a model.
pub(crate) fn point() {
    if is_active() && UNINTERRUPTED.get() == 0 && !std::thread::panicking() {
        assert_progress();
        shuttle::sync::atomic::AtomicBool::new(false).load(shuttle::sync::atomic::Ordering::SeqCst);
    }
}

/// Lets others run while this thread waits for a lock.
pub(super) fn spin() {
    assert_eq!(
        UNINTERRUPTED.get(),
        0,
        "a lock is waited for while the value of a channel is borrowed"
    );
    assert_progress();
    shuttle::thread::yield_now();
}

/// Fails here rather than in Shuttle, so that the backtrace shows an endless loop.
fn assert_progress() {
    let steps = shuttle::current::context_switches();
    assert!(steps < MAX_STEPS, "an endless loop: {steps} operations");
}

/// While this exists, no other thread or task runs. A lock inside another crate may be held, which the scheduler does not know.
pub(crate) struct Uninterrupted(bool);

impl Uninterrupted {
    pub(crate) fn new() -> Self {
        let is_active = is_active();
        if is_active {
            UNINTERRUPTED.set(UNINTERRUPTED.get() + 1);
        }
        Self(is_active)
    }
}

impl Drop for Uninterrupted {
    fn drop(&mut self) {
        if self.0 {
            UNINTERRUPTED.set(UNINTERRUPTED.get() - 1);
        }
    }
}

/// Runs a model in this number of orders, or as the environment says.
///
/// # Panics
///
/// Panics if the model fails in one of them, and prints the order.
pub(crate) fn explore(orders: usize, model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    if let Ok(order) = std::env::var("MODEL_REPLAY") {
        let mut replay = ReplayScheduler::new_from_encoded(order.trim());
        replay.set_allow_incomplete();
        run(replay, None, model);
        return;
    }
    if let Ok(seconds) = std::env::var("MODEL_SECONDS") {
        let seconds = seconds
            .parse()
            .expect("MODEL_SECONDS is a number of seconds");
        let half = Duration::from_secs(seconds) / 2;
        let random = RandomScheduler::new(usize::MAX);
        let by_random = run(ClockLast(random), Some(half), model.clone());
        let pct = PctScheduler::new(DEPTH, usize::MAX);
        let by_pct = run(ClockLast(pct), Some(half), model);
        println!("{by_random} random orders, {by_pct} by probabilistic concurrency testing");
        return;
    }
    let random = RandomScheduler::new_from_seed(SEED, orders / 2);
    run(ClockLast(random), None, model.clone());
    let pct = PctScheduler::new_from_seed(SEED, DEPTH, orders / 2);
    run(ClockLast(pct), None, model);
}

/// Asserts that a model with a known fault fails in one of this number of random orders, and of as many by probabilistic
/// concurrency testing. Prints in which.
pub(crate) fn assert_finds_fault(orders: usize, model: impl Fn() + Send + Sync + 'static) {
    let model = Arc::new(model);
    let random = RandomScheduler::new_from_seed(SEED, orders);
    let by_random = first_failure(random, model.clone());
    let pct = PctScheduler::new_from_seed(SEED, DEPTH, orders);
    let by_pct = first_failure(pct, model);
    println!(
        "found in random order {by_random:?}, in order {by_pct:?} by probabilistic concurrency testing"
    );
    assert!(
        by_random.is_some() || by_pct.is_some(),
        "no order finds the fault"
    );
}

/// Returns the number of the order in which the model fails.
fn first_failure<M>(scheduler: impl Scheduler + 'static, model: Arc<M>) -> Option<usize>
where
    M: Fn() + Send + Sync + 'static,
{
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let model = Arc::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let result = catch_unwind(AssertUnwindSafe(|| run(ClockLast(scheduler), None, model)));
    result.is_err().then(|| count.load(Ordering::Relaxed))
}

fn run<S, M>(scheduler: S, limit: Option<Duration>, model: Arc<M>) -> usize
where
    S: Scheduler + 'static,
    M: Fn() + Send + Sync + 'static,
{
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            IS_ACTIVE.set(false);
            UNINTERRUPTED.set(0);
        }
    }
    // Its clock is the time of the model. No task runs on it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let _context = runtime.enter();
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = shuttle::MaxSteps::FailAfter(2 * MAX_STEPS);
    config.max_time = limit;
    config.silence_warnings = true;
    IS_ACTIVE.set(true);
    let _reset = Reset;
    Runner::new(scheduler, config).run(move || {
        UNINTERRUPTED.set(0);
        model_runtime::reset();
        let clock = model_time::start();
        model();
        model_time::stop();
        clock.join().unwrap();
    })
}

/// A scheduler that lets the task that advances the time run only if no other can.
struct ClockLast<S>(S);

impl<S: Scheduler> Scheduler for ClockLast<S> {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.0.new_execution()
    }

    fn next_task(
        &mut self,
        runnable: &[&Task],
        current: Option<TaskId>,
        is_yielding: bool,
    ) -> Option<TaskId> {
        let clock = TaskId::from(CLOCK);
        let others: Vec<_> = runnable
            .iter()
            .copied()
            .filter(|task| task.id() != clock)
            .collect();
        match &others[..] {
            [] => Some(clock),
            others => self.0.next_task(others, current, is_yielding),
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// Starts a thread of a model.
pub(crate) fn spawn(f: impl FnOnce() + Send + 'static) -> shuttle::thread::JoinHandle<()> {
    shuttle::thread::spawn(f)
}

/// Runs a future on the current thread of a model, without a tokio runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    shuttle::future::block_on(future)
}
