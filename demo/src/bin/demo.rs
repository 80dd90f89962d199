#![forbid(unsafe_code)]
//! Runs the scenario: both ends of workload identity on this machine, through rotations of tokens and keys.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use demo::output::{self, EventLog, Format, LogFormat};
use demo::scenario::{self, Scope, Settings, Summary};
use demo::signals::{self, Shutdown};
use demo::{Error, arguments};

/// How long the scenario may take to end after a signal: its files are removed and the summary is printed.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// Runs workload identity end to end on this machine: an OIDC issuer, an emulated kubelet, a guarded server, and a client
/// that follows its token through rotations of the token and of the issuer's signing key.
///
/// Everything listens on loopback. The last line is a summary. The exit code is 0 only if every response was the expected
/// one and at least 5 token rotations and 1 key rotation were observed.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How long requests are sent, in seconds. Five token rotations take 10 seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 14, value_parser = RangedU64ValueParser::<u64>::new().range(12..=3600))]
    duration: u64,

    /// Which parts of the scenario run. `full` adds a Google identity from a metadata server and one in exchange for a
    /// projected token, a platform gate, several audiences, a shadow policy, an issuer outage and a deleted pod.
    #[arg(long = "story", value_name = "SCOPE", value_enum, default_value_t = Scope::Short)]
    scope: Scope,

    /// Prints one JSON object per line to standard output. The last one is the summary, which is also printed to standard
    /// error as text.
    #[arg(long)]
    json: bool,

    /// The server's port on 127.0.0.1; 0 for any free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

fn main() -> ExitCode {
    match run() {
        Ok(summary) if summary.is_successful() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            output::print_error("demo", &error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Summary, Error> {
    let shutdown = Shutdown::install(1).map_err(Error::io("cannot install signal handlers"))?;
    let arguments: Arguments = arguments::parse();
    output::init_logging("off", LogFormat::Text);
    let format = if arguments.json {
        Format::Json
    } else {
        Format::text()
    };
    let settings = Settings {
        duration: Duration::from_secs(arguments.duration),
        scope: arguments.scope,
        port: arguments.port,
    };
    shutdown.set_time_limit(SHUTDOWN_LIMIT);
    let events = Arc::new(EventLog::new(format));
    let summary = signals::block_on(scenario::run(settings, events, shutdown.requested()))??;
    print_summary(&summary, format);
    Ok(summary)
}

fn print_summary(summary: &Summary, format: Format) {
    if format == Format::Json {
        output::print_line(&summary.to_json().to_string());
        eprintln!("{summary}");
        return;
    }
    let verdict = if summary.is_successful() {
        "Every request received the expected response, through every rotation."
    } else if summary.unexpected == 0 {
        "The scenario ended before enough rotations were observed."
    } else {
        "Some requests did not receive the expected response."
    };
    output::print_line(&format!("\n{verdict}"));
    output::print_line(&summary.to_string());
}
