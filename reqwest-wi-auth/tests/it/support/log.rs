//! Collects the log events of a thread.

use std::io;
use std::sync::{Arc, Mutex};

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The log events that were collected.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Collects the log events of this thread, up to a level, until the guard is dropped.
    pub fn subscribe(&self, level: tracing::Level) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// Collects the log events of this thread as JSON, and the same events as text, until the guard is dropped.
    pub fn subscribe_both(json: &Self, plain: &Self) -> tracing::subscriber::DefaultGuard {
        let (json, plain) = (json.clone(), plain.clone());
        let json_layer = tracing_subscriber::fmt::layer().json();
        let plain_layer = tracing_subscriber::fmt::layer().with_ansi(false);
        tracing_subscriber::registry()
            .with(json_layer.with_writer(move || json.clone()))
            .with(plain_layer.with_writer(move || plain.clone()))
            .with(tracing_subscriber::filter::LevelFilter::WARN)
            .set_default()
    }

    /// Returns the log events as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
