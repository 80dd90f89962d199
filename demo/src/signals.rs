//! Ends a program when the system asks for it: SIGTERM or SIGINT (Ctrl-C).
//!
//! A program that is PID 1, as in a container, ignores a signal for which it has installed no handler. So
//! [`Shutdown::install`] is the first statement of each `main`: before settings are parsed and files are opened. The
//! signals are handled on a thread of their own, so a program ends as promised even if all its other threads are blocked,
//! for example in a DNS lookup or in a read of a file on a volume that hangs.
//!
//! 1. A signal before [`Shutdown::allow`] was called ends the process at once: nothing is in flight yet.
//! 2. After that, the first signal completes [`Shutdown::requested`], and the program ends by itself. If it has not ended
//!    when the allowed time is over, the process is ended with exit code 1.
//! 3. A second signal ends the process at once, with exit code 128 plus the signal's number.

use std::future::Future;
use std::io;
use std::process;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

/// The longest time that can be allowed: an hour, since Kubernetes would not wait that long.
const MAX_ALLOWED: Duration = Duration::from_secs(3600);
const SIGINT: i32 = 2;
#[cfg(unix)]
const SIGTERM: i32 = 15;

/// Reports that the program has been asked to end.
#[derive(Debug, Clone)]
pub struct Shutdown {
    requested: watch::Receiver<bool>,
    allowed: Arc<Mutex<Option<Duration>>>,
}

impl Shutdown {
    /// Installs the handlers, on a thread of their own.
    ///
    /// `early` is the exit code of a process that is asked to end before [`allow`](Self::allow) is called.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started or the handlers cannot be installed.
    pub fn install(early: u8) -> io::Result<Self> {
        let (sender, requested) = watch::channel(false);
        let allowed = Arc::new(Mutex::new(None));
        let (ready, installed) = sync_channel(1);
        let limit = allowed.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || handle(early, &sender, &limit, &ready))?;
        let ended = || io::Error::other("the thread for signals has ended");
        installed.recv().map_err(|_| ended())??;
        Ok(Self { requested, allowed })
    }

    /// From now on the program ends by itself within `time` of the first signal; after that the process is ended.
    pub fn allow(&self, time: Duration) {
        *self.allowed.lock().unwrap_or_else(PoisonError::into_inner) = Some(time.min(MAX_ALLOWED));
    }

    /// Returns whether there was a signal.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Completes at the first signal.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut requested = self.requested.clone();
        async move {
            if requested.wait_for(|&requested| requested).await.is_err() {
                // The thread for signals ends only with the process.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Runs a program's main future on a runtime of its own.
///
/// Does not wait for tasks that are blocked: what is still in a DNS lookup or in a read when the future completes ends with
/// the process.
///
/// # Errors
///
/// If the runtime cannot be built.
pub fn run<T>(program: impl Future<Output = T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(program);
    runtime.shutdown_background();
    Ok(result)
}

/// The thread for signals. It has a runtime of its own, so that blocked workers of the program's cannot hold it up.
fn handle(
    early: u8,
    sender: &watch::Sender<bool>,
    allowed: &Mutex<Option<Duration>>,
    ready: &SyncSender<io::Result<()>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        // Nobody is left to be told if `install` has ended.
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return drop(ready.send(Err(error))),
        };
        if ready.send(Ok(())).is_err() {
            return;
        }
        signals.next().await;
        let limit = *allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(limit) = limit else {
            process::exit(early.into());
        };
        sender.send_replace(true);
        tokio::select! {
            signal = signals.next() => process::exit(128 + signal),
            () = tokio::time::sleep(limit) => {
                eprintln!("the program has not ended within {} s of the signal and is ended", limit.as_secs());
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
