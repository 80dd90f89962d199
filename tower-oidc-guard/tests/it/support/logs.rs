//! Collects log output.

use std::io::{Result, Write};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// A writer for `tracing_subscriber::fmt` that keeps what is written to it.
///
/// Tests that use it run in a child process; see [`super::process`].
#[derive(Clone, Default)]
pub struct CapturedLogs(Arc<Mutex<Vec<u8>>>);

impl CapturedLogs {
    /// Returns everything that was logged since the last call of [`clear`](Self::clear).
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Discards what was logged so far.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Write for CapturedLogs {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for CapturedLogs {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The output of the JSON formatter and of the plain one for the same events.
#[derive(Clone, Default)]
pub struct BothFormats {
    json: CapturedLogs,
    plain: CapturedLogs,
}

impl BothFormats {
    /// Collects the events of this thread up to `level` until the result is dropped.
    pub fn subscribe(&self, level: LevelFilter) -> DefaultGuard {
        let json = tracing_subscriber::fmt::layer().json();
        let plain = tracing_subscriber::fmt::layer().with_ansi(false);
        tracing_subscriber::registry()
            .with(level)
            .with(json.with_writer(self.json.clone()))
            .with(plain.with_writer(self.plain.clone()))
            .set_default()
    }

    /// Returns the fields of each event with this message.
    ///
    /// # Panics
    ///
    /// Panics if the plain formatter has written another number of such events.
    pub fn events(&self, message: &str) -> Vec<Value> {
        let json = self.json.text();
        let events = json.lines().map(|line| {
            let event: Value = serde_json::from_str(line).unwrap();
            event["fields"].clone()
        });
        let events: Vec<_> = events
            .filter(|fields| fields["message"] == message)
            .collect();
        let plain = self.plain.text();
        let lines = plain.lines().filter(|line| line.contains(message));
        assert_eq!(lines.count(), events.len(), "{plain}");
        events
    }

    /// Returns the field `error` of the only event with this message, which both formats contain as the same string.
    ///
    /// # Panics
    ///
    /// Panics if there is another number of such events, or the strings differ.
    pub fn error(&self, message: &str) -> String {
        let events = self.events(message);
        let [event] = &events[..] else {
            panic!("{} events: {events:?}", events.len());
        };
        let error = event["error"].as_str().unwrap().to_owned();
        let (plain, field) = (self.plain.text(), format!("error={error:?}"));
        let mut lines = plain.lines().filter(|line| line.contains(message));
        assert!(lines.all(|line| line.contains(&field)), "{field}: {plain}");
        error
    }

    /// Returns everything that the plain formatter has written.
    pub fn plain_text(&self) -> String {
        self.plain.text()
    }
}

/// Asserts that no part of this token is in the text.
pub fn assert_absent(token: &str, text: &str) {
    for part in token.split('.') {
        assert!(!text.contains(part), "{part} in {text}");
    }
}
