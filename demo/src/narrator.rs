//! What happens, told as it happens: lines for people, or one JSON object a line.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use serde_json::json;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For a terminal.
    Colour,
    /// For a pipe or a file.
    Plain,
    /// One JSON object a line.
    Json,
}

impl Style {
    /// JSON where it is asked for, else colour on a terminal that does not refuse it (`NO_COLOR`).
    pub fn choose(json: bool) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match (json, refused || !std::io::stdout().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Plain,
            (false, false) => Self::Colour,
        }
    }
}

/// Who did something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// The OIDC issuer.
    Issuer,
    /// The emulated kubelet.
    Kubelet,
    /// The guarded server.
    Server,
    /// The client.
    Client,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Kubelet => "kubelet",
            Self::Server => "server",
            Self::Client => "client",
        }
    }

    fn colour(self) -> u8 {
        match self {
            Self::Issuer => 35,
            Self::Kubelet => 34,
            Self::Server => 32,
            Self::Client => 36,
        }
    }
}

/// Tells what happens, on standard output.
#[derive(Debug)]
pub struct Narrator {
    style: Style,
    started: Instant,
}

impl Narrator {
    /// Starts the clock that lines are stamped with.
    pub fn new(style: Style) -> Self {
        Self {
            style,
            started: Instant::now(),
        }
    }

    /// The style of the lines.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Tells one event: a name for programs and a text for people.
    pub fn tell(&self, who: Who, event: &str, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        let name = who.name();
        let line = match self.style {
            Style::Json => {
                let seconds = (seconds * 1000.0).round() / 1000.0;
                json!({ "seconds": seconds, "who": name, "event": event, "text": text }).to_string()
            }
            Style::Plain => format!("{seconds:5.1} s  {name:<8} {text}"),
            Style::Colour => {
                let colour = who.colour();
                format!("\x1b[2m{seconds:5.1} s\x1b[0m  \x1b[1;{colour}m{name:<8}\x1b[0m {text}")
            }
        };
        Self::line(&line);
    }

    /// Writes a line as it is. Nobody reading any more is no reason to fail.
    pub fn line(line: &str) {
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
}
