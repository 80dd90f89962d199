//! Ends a program on SIGTERM or SIGINT (Ctrl-C).
//!
//! A process with PID 1, as in a container, ignores signals for which it has installed no handler. So each `main` calls
//! [`Shutdown::install`] first, before it parses settings or opens files. The handlers run on their own thread, so the
//! following holds even if all other threads are blocked, for example in a DNS lookup or in a read on a volume that hangs:
//!
//! 1. A signal before [`Shutdown::set_time_limit`] ends the process at once, because no request is in flight yet.
//! 2. After that, the first signal completes [`Shutdown::requested`], and the program is expected to end. If it is still
//!    running when the time limit has passed, the process ends with exit code 1.
//! 3. A second signal ends the process at once, with exit code 128 plus the signal's number.

use std::future::Future;
use std::io;
use std::process;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use crate::Error;

/// The longest time limit: one hour, more than any pod's termination grace period in practice.
const MAX_TIME_LIMIT: Duration = Duration::from_secs(3600);
const SIGINT: i32 = 2;
#[cfg(unix)]
const SIGTERM: i32 = 15;

/// Notifies the program of a request to end.
#[derive(Debug, Clone)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
    time_limit: Arc<Mutex<Option<Duration>>>,
    startup_exit_code: Arc<AtomicU8>,
}

impl Shutdown {
    /// Installs the signal handlers and starts the thread that runs them.
    ///
    /// `startup_exit_code` is the exit code of a process that receives a signal before
    /// [`set_time_limit`](Self::set_time_limit) is called, unless
    /// [`set_startup_exit_code`](Self::set_startup_exit_code) sets another.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started or the handlers cannot be installed.
    pub fn install(startup_exit_code: u8) -> io::Result<Self> {
        let (sender, requested) = watch::channel(false);
        let time_limit = Arc::new(Mutex::new(None));
        let (installed_sender, installed) = sync_channel(1);
        let limit = time_limit.clone();
        let startup_exit_code = Arc::new(AtomicU8::new(startup_exit_code));
        let code = startup_exit_code.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || handle_signals(&code, &sender, &limit, &installed_sender))?;
        let thread_ended = |_| io::Error::other("the signal thread has ended");
        installed.recv().map_err(thread_ended)??;
        Ok(Self {
            requested,
            time_limit,
            startup_exit_code,
        })
    }

    /// Sets the exit code of a process that receives a signal before [`set_time_limit`](Self::set_time_limit) is called. For
    /// a program whose arguments determine what its exit code means.
    pub fn set_startup_exit_code(&self, code: u8) {
        self.startup_exit_code.store(code, Ordering::Relaxed);
    }

    /// Sets how long the program may take to end after the first signal, up to one hour.
    pub fn set_time_limit(&self, limit: Duration) {
        let mut current = self
            .time_limit
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Some(limit.min(MAX_TIME_LIMIT));
    }

    /// Returns whether a signal has arrived.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Completes at the first signal.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut requested = self.requested.clone();
        async move {
            if requested.wait_for(|&requested| requested).await.is_err() {
                // The sender is dropped only when the process ends.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Runs a program's main future on a new multi-threaded runtime.
///
/// Returns when the future completes, without waiting for tasks that are blocked. Those end with the process.
///
/// # Errors
///
/// [`Error::Io`] if the runtime cannot be created.
pub fn block_on<T>(program: impl Future<Output = T>) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Error::io("cannot start the async runtime"))?;
    let result = runtime.block_on(program);
    runtime.shutdown_background();
    Ok(result)
}

/// Handles signals until the process ends. Runs on the signal thread, on a separate runtime, so that blocked workers of
/// the program's runtime cannot delay it.
fn handle_signals(
    startup_exit_code: &AtomicU8,
    requested: &watch::Sender<bool>,
    time_limit: &Mutex<Option<Duration>>,
    installed: &SyncSender<io::Result<()>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        // Sending fails only if `install` has returned, and then there is no receiver for the error.
        Err(error) => return drop(installed.send(Err(error))),
    };
    runtime.block_on(async {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return drop(installed.send(Err(error))),
        };
        if installed.send(Ok(())).is_err() {
            return;
        }
        signals.next().await;
        let limit = *time_limit.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(limit) = limit else {
            process::exit(startup_exit_code.load(Ordering::Relaxed).into());
        };
        requested.send_replace(true);
        tokio::select! {
            signal = signals.next() => process::exit(128 + signal),
            () = tokio::time::sleep(limit) => {
                eprintln!("still running {} s after the signal; ending the process", limit.as_secs());
                process::exit(1);
            }
        }
    });
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next signal and returns its number.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            Some(()) = self.interrupt.recv() => SIGINT,
            Some(()) = self.terminate.recv() => SIGTERM,
            else => std::future::pending().await,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits for Ctrl-C and returns the number that it has on Unix.
    async fn next(&mut self) -> i32 {
        match tokio::signal::ctrl_c().await {
            Ok(()) => SIGINT,
            Err(_) => std::future::pending().await,
        }
    }
}
