//! Output of the programs: results and events on standard output, logs on standard error.

use std::ffi::OsStr;
use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::{Error, error_chain};

/// Prints a line to standard output.
///
/// Errors are ignored: a reader that closed the pipe is no reason to fail.
pub fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event, each on its own line.
    Json,
}

/// The crates that log events in these programs, and the first part of the audit's target.
const KNOWN_CRATES: [&str; 16] = [
    "auth_client",
    "auth_server",
    "demo",
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "oidc_guard",
    "reqwest",
    "reqwest_middleware",
    "reqwest_wi_auth",
    "rustls",
    "tokio",
    "tower",
    "tower_http",
    "tower_oidc_guard",
];

/// The format in which this process logs, once logging was started.
static LOG_FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts logging to standard error, filtered by `RUST_LOG`, or by `default_filter` if that is not set or not valid.
///
/// If `RUST_LOG` is not valid, or part of it looks like a level that is misspelled, a warning says so.
///
/// # Panics
///
/// Panics if a global subscriber is already installed.
pub fn init_logging(default_filter: &str, format: LogFormat) {
    let value = std::env::var_os(EnvFilter::DEFAULT_ENV).filter(|value| !value.is_empty());
    let (filter, warning) = match value {
        Some(value) => filter(&value, default_filter),
        None => (EnvFilter::new(default_filter), None),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        // The list of spans contains the current one.
        LogFormat::Json => log.json().with_current_span(false).init(),
    }
    let _ = LOG_FORMAT.set(format);
    if let Some(warning) = warning {
        warn_always(&warning);
    }
}

/// Returns the filter that a value of `RUST_LOG` describes, and a warning about the value. The filter is `default_filter` if
/// the value is not valid.
fn filter(value: &OsStr, default_filter: &str) -> (EnvFilter, Option<String>) {
    let parsed = match value.to_str() {
        Some(value) => EnvFilter::try_new(value).map_err(|error| error.to_string()),
        None => Err("it is not UTF-8".to_owned()),
    };
    let text = value.to_string_lossy();
    match parsed {
        Ok(filter) => {
            let misspelled = misspelled_level(&text);
            let warning = misspelled.map(|word| format!(
                "RUST_LOG is {text:?}, in which {word:?} is not a level, so that it is used as a target, of which this program has none; expected off, error, warn, info, debug, trace, or TARGET=LEVEL"
            ));
            (filter, warning)
        }
        Err(error) => {
            let warning = format!(
                "RUST_LOG is {text:?}, which cannot be used: {error}; using {default_filter:?} instead"
            );
            (EnvFilter::new(default_filter), Some(warning))
        }
    }
}

/// Returns the first directive without a level that is neither a level nor the start of a known target.
fn misspelled_level(directives: &str) -> Option<&str> {
    // The directives of a span may contain commas.
    if directives.contains(['[', '{']) {
        return None;
    }
    directives.split(',').map(str::trim).find(|directive| {
        let is_level = directive.parse::<LevelFilter>().is_ok();
        let is_known = KNOWN_CRATES.iter().any(|known| {
            known.starts_with(directive)
                || directive
                    .strip_prefix(known)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        !directive.is_empty() && !directive.contains('=') && !is_level && !is_known
    })
}

/// Logs a warning in the format of the log, whatever `RUST_LOG` is.
pub(crate) fn warn_always(message: &str) {
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let warn = || tracing::warn!("{message}");
    match LOG_FORMAT.get() {
        Some(LogFormat::Json) => {
            let log = log.json().with_current_span(false).finish();
            tracing::subscriber::with_default(log, warn);
        }
        _ => tracing::subscriber::with_default(log.finish(), warn),
    }
}

/// Prints the error that ends a program to standard error, with all its causes, as one line in the format of the log.
pub fn print_error(program: &'static str, error: &Error) {
    let is_json = LOG_FORMAT.get() == Some(&LogFormat::Json);
    if is_json && tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(program, "{}", error_chain(error));
    } else {
        eprintln!("{program}: {}", error_chain(error));
    }
}

/// The format of an [`EventLog`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text with colours, for a terminal.
    ColouredText,
    /// Text without colours, for a pipe or a file.
    PlainText,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Returns the text format for standard output: with colours if it is a terminal and `NO_COLOR` is not set.
    pub fn text() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if std::io::stdout().is_terminal() && !no_color {
            Self::ColouredText
        } else {
            Self::PlainText
        }
    }
}

/// The part of the scenario in which an event happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The OIDC issuer.
    Issuer,
    /// The emulated kubelet.
    Kubelet,
    /// The guarded server.
    Server,
    /// The client.
    Client,
    /// Google's servers.
    Google,
}

impl Component {
    fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Kubelet => "kubelet",
            Self::Server => "server",
            Self::Client => "client",
            Self::Google => "google",
        }
    }

    /// Returns the ANSI code of the colour in which the component's name is printed.
    fn colour(self) -> u8 {
        match self {
            Self::Issuer => 35,
            Self::Kubelet => 34,
            Self::Server => 32,
            Self::Client => 36,
            Self::Google => 33,
        }
    }
}

/// Prints events with their time to standard output.
#[derive(Debug)]
pub struct EventLog {
    format: Format,
    started: Instant,
}

impl EventLog {
    /// Creates a log. The time of each event is counted from now on.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            started: Instant::now(),
        }
    }

    /// Prints an event. `name` identifies the kind of event in JSON; `text` describes it for a reader.
    pub fn print(&self, component: Component, name: &str, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let label = component.as_str();
        let line = match self.format {
            Format::Json => {
                let seconds = (seconds * 1000.0).round() / 1000.0;
                json!({ "seconds": seconds, "component": label, "event": name, "text": text })
                    .to_string()
            }
            Format::PlainText => format!("{seconds:5.1} s  {label:<8} {text}"),
            Format::ColouredText => {
                let colour = component.colour();
                format!("\x1b[2m{seconds:5.1} s\x1b[0m  \x1b[1;{colour}m{label:<8}\x1b[0m {text}")
            }
        };
        print_line(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_is_not_valid_is_replaced_and_reported() {
        let (used, warning) = filter(OsStr::new("demo=nonsense=x"), "info");
        assert_eq!(used.to_string(), "info");
        let warning = warning.unwrap();
        let start = "RUST_LOG is \"demo=nonsense=x\", which cannot be used: ";
        assert!(warning.starts_with(start), "{warning}");
        assert!(warning.ends_with("; using \"info\" instead"), "{warning}");
    }

    #[test]
    fn a_misspelled_level_is_reported_but_levels_and_crates_are_not() {
        for (value, word) in [
            ("warm", "warm"),
            ("info,tower_oidc_guard=debug,wran", "wran"),
            ("demos", "demos"),
        ] {
            let (_, warning) = filter(OsStr::new(value), "info");
            let warning = warning.unwrap();
            let part = format!("RUST_LOG is {value:?}, in which {word:?} is not a level");
            assert!(warning.starts_with(&part), "{warning}");
        }
        for value in [
            "INFO",
            "3",
            "off",
            "tower_oidc_guard",
            "tower_oidc_guard::keys,warn",
            "tower",
            "oidc_guard::audit",
            "other=debug",
            "info,demo[request]=trace",
        ] {
            let (_, warning) = filter(OsStr::new(value), "info");
            assert_eq!(warning, None, "{value}");
        }
    }
}
