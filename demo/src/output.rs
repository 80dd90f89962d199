//! Output of the programs: results and events on standard output, logs on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::time::Instant;

use clap::ValueEnum;
use serde_json::json;
use tracing_subscriber::EnvFilter;

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

/// The format in which this process logs, once logging was started.
static LOG_FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Starts logging to standard error, filtered by `RUST_LOG`, or by `default_filter` if that is not set or not valid.
///
/// # Panics
///
/// Panics if a global subscriber is already installed.
pub fn init_logging(default_filter: &str, format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
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
}

impl Component {
    fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Kubelet => "kubelet",
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    /// Returns the ANSI code of the colour in which the component's name is printed.
    fn colour(self) -> u8 {
        match self {
            Self::Issuer => 35,
            Self::Kubelet => 34,
            Self::Server => 32,
            Self::Client => 36,
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
