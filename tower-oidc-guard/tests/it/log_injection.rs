//! Claims of a token cannot forge log lines.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use tower_oidc_guard::{Decision, Policy};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::support::bearer_request;
use crate::support::in_memory::{cluster, guard_builder, send_request, token_spec};
use crate::support::process::{is_child_process, run_in_child_process};

/// Subjects that would forge a line, or change how a terminal displays one, if they were written unescaped.
const HOSTILE: [&str; 10] = [
    "a\n2026-01-01T00:00:00Z  INFO oidc_guard: decision=\"allowed\" subject=\"admin\"",
    "a\r2026-01-01T00:00:00Z  INFO",
    "a\r\n\r\nb",
    "a\u{1b}[2K\u{1b}[1Aforged",
    "a\u{8}\u{8}\u{7f}",
    "a\0b",
    "a\u{85}b\u{2028}c\u{2029}d",
    "a\u{202e}nimda\u{202c}",
    "a\u{2066}b\u{2069}\u{200f}",
    "a\u{9b}31mred",
];

/// A subscriber layer that records the values of spans and events without escaping them.
#[derive(Clone, Default)]
struct UnescapedLog(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        write!(self.0, " {field}={value}").unwrap();
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl<S: tracing::Subscriber> Layer<S> for UnescapedLog {
    fn on_new_span(
        &self,
        attributes: &tracing::span::Attributes<'_>,
        _: &tracing::Id,
        _: Context<'_, S>,
    ) {
        let mut line = Line(attributes.metadata().target().to_owned());
        attributes.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut line = Line(event.metadata().target().to_owned());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }
}

/// Returns whether a text is one line of printable characters.
fn is_one_line(text: &str) -> bool {
    let is_hidden = |character: char| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
    };
    !text.contains(is_hidden)
}

#[test]
fn subject_with_control_characters_cannot_forge_log_lines_or_explanations() {
    if !is_child_process() {
        return run_in_child_process(
            "log_injection::subject_with_control_characters_cannot_forge_log_lines_or_explanations",
            &[],
        );
    }
    let log = UnescapedLog::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let mut explained: Vec<Decision> = Vec::new();
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let cluster = cluster();
            let everyone = guard_builder(&cluster)
                .any_verified_caller()
                .build()
                .unwrap();
            let denied = Policy::any_of([
                Policy::members(["system:serviceaccount:a:b"]),
                Policy::all_of([
                    Policy::members(["allAuthenticatedUsers"]),
                    Policy::members(["system:serviceaccounts:c"]),
                ]),
            ]);
            let nobody = guard_builder(&cluster).policy(denied).build().unwrap();
            for subject in HOSTILE {
                let token = token_spec(&cluster).claim("sub", subject).mint();
                let allowed = send_request(everyone.layer(), bearer_request(&token)).await;
                assert_eq!(allowed.status(), 200);
                assert_eq!(
                    allowed.body(),
                    subject.as_bytes(),
                    "the service gets the subject unescaped"
                );
                let refused = send_request(nobody.layer(), bearer_request(&token)).await;
                assert_eq!(refused.status(), 403);
                let caller = everyone.verifier().verify(&token).await.unwrap();
                for guard in [&everyone, &nobody] {
                    explained.push(guard.policy().explain(&caller));
                }
                let issuer = format!("https://evil.example/{subject}");
                let unknown = token_spec(&cluster)
                    .claim("iss", issuer)
                    .header("kid", subject);
                let unknown = send_request(everyone.layer(), bearer_request(&unknown.mint())).await;
                assert_eq!(unknown.status(), 401);
            }
        });
    });
    let lines = log.0.lock().unwrap();
    let own: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("tower_oidc_guard"))
        .collect();
    for field in [
        "decision=allowed",
        "subject=",
        "rule=",
        "reason=not_allowed",
    ] {
        assert!(
            own.iter().any(|line| line.contains(field)),
            "{field} in {own:?}"
        );
    }
    for line in own {
        assert!(is_one_line(line), "{line:?}");
    }
    for decision in explained {
        assert!(is_one_line(&decision.to_string()), "{decision:?}");
        assert!(is_one_line(decision.reason()), "{decision:?}");
    }
}
