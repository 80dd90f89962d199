//! The end of a program, as the system asks for it.

use std::future::Future;

/// Heeds Ctrl-C and, on Unix, SIGTERM from now on; the future is done at the first of them. Call it within a runtime,
/// before the program says that it is ready.
#[cfg(unix)]
pub fn end() -> impl Future<Output = ()> + Send + 'static {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    async move {
        let [interrupt, terminate] = signals;
        tokio::select! {
            () = first(interrupt) => {}
            () = first(terminate) => {}
        }
    }
}

/// Waits for a signal. Without a handler, it ends the process by itself.
#[cfg(unix)]
async fn first(signal: std::io::Result<tokio::signal::unix::Signal>) {
    match signal {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

/// Heeds Ctrl-C; the future is done when it comes.
#[cfg(not(unix))]
pub fn end() -> impl Future<Output = ()> + Send + 'static {
    async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
