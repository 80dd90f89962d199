//! Collects log events with their fields.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// A log event.
#[derive(Debug, Clone)]
pub struct CapturedEvent {
    pub target: String,
    pub level: Level,
    /// The fields, including `message`, as text that is not escaped.
    pub fields: BTreeMap<String, String>,
    /// Whether the event is outside all spans, and the JSON formatter finds no current one either.
    pub is_root: bool,
}

impl CapturedEvent {
    /// Returns a field.
    ///
    /// # Panics
    ///
    /// Panics if there is no such field.
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.get(name);
        found.unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// Returns the message.
    pub fn message(&self) -> &str {
        self.field("message")
    }
}

impl Visit for CapturedEvent {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields
            .insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields
            .insert(field.name().to_owned(), format!("{value:?}"));
    }
}

/// A subscriber layer that keeps all events of this crate.
///
/// Tests that use it run in a child process; see [`super::process`].
#[derive(Clone, Default)]
pub struct CapturedEvents(Arc<Mutex<Vec<CapturedEvent>>>);

impl CapturedEvents {
    /// Returns the events since the last call, and forgets them.
    pub fn take(&self) -> Vec<CapturedEvent> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Returns the events since the last call of [`take`](Self::take).
    pub fn all(&self) -> Vec<CapturedEvent> {
        self.0.lock().unwrap().clone()
    }

    /// Returns the summaries of refused requests since the last call of a method, and forgets all events.
    pub fn take_summaries(&self) -> Vec<CapturedEvent> {
        let mut events = self.take();
        events.retain(|event| event.target.ends_with("refusal_summary"));
        events
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for CapturedEvents {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let target = event.metadata().target();
        if !target.starts_with("tower_oidc_guard") && !target.starts_with("oidc_guard") {
            return;
        }
        let mut captured = CapturedEvent {
            target: target.to_owned(),
            level: *event.metadata().level(),
            fields: BTreeMap::new(),
            is_root: event.is_root() && context.lookup_current().is_none(),
        };
        event.record(&mut captured);
        self.0.lock().unwrap().push(captured);
    }
}
