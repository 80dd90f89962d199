#![forbid(unsafe_code)]
//! The whole story on one machine.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, ValueEnum};
use demo::narrator::{Narrator, Style};
use demo::signals::{self, Shutdown};
use demo::story::{self, Settings, Summary};
use demo::{Error, arguments, chain, logging};

/// How long the end of the story may take after a signal: its files are removed and the summary is printed.
const END: Duration = Duration::from_secs(5);

/// Plays workload identity end to end on this machine: an issuer, an emulated kubelet, a guarded server and a client
/// that follows its token through rotations of the token and of the issuer's key.
///
/// Everything listens on loopback. The last line counts what happened; the exit code is 0 only if every answer was the
/// expected one, through at least 5 token rotations and 1 key rotation.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// How long requests are sent, in seconds: at least 12, since five rotations take ten.
    #[arg(long, value_name = "SECONDS", default_value_t = 14, value_parser = RangedU64ValueParser::<u64>::new().range(12..=3600))]
    duration: u64,

    /// How much of the story is told: `full` adds Google's identity, the platform's gate, several audiences, and an
    /// issuer that goes away.
    #[arg(long, value_enum, default_value_t = Story::Short)]
    story: Story,

    /// One JSON object a line on standard output, the last one the summary (whose plain form goes to standard error).
    #[arg(long)]
    json: bool,

    /// The server's port on 127.0.0.1; 0 for one of the system's choice.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// How much of the story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Story {
    /// The rotations.
    Short,
    /// Everything.
    Full,
}

fn main() -> ExitCode {
    match Shutdown::install(1) {
        Ok(shutdown) => tell(&shutdown),
        Err(source) => fail(&Error::io("cannot handle signals")(source)),
    }
}

fn tell(shutdown: &Shutdown) -> ExitCode {
    let arguments: Arguments = arguments::parse();
    logging::start("off");
    let narrator = Arc::new(Narrator::new(Style::choose(arguments.json)));
    let duration = Duration::from_secs(arguments.duration);
    let settings = Settings {
        duration,
        full: arguments.story == Story::Full,
        port: arguments.port,
    };
    shutdown.allow(END);
    let story = story::play(settings, narrator.clone(), shutdown.requested());
    let played = signals::run(story).map_err(Error::io("the runtime cannot be started"));
    match played.and_then(|played| played) {
        Ok(summary) => {
            conclude(&summary, narrator.style());
            if summary.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &Error) -> ExitCode {
    eprintln!("demo: {}", chain(error));
    ExitCode::FAILURE
}

fn conclude(summary: &Summary, style: Style) {
    if style == Style::Json {
        let object = serde_json::json!({
            "event": "summary",
            "requests": summary.requests,
            "token_rotations": summary.token_rotations,
            "key_rotations": summary.key_rotations,
            "unexpected_answers": summary.unexpected,
        });
        Narrator::line(&object.to_string());
        eprintln!("{summary}");
        return;
    }
    let verdict = match (summary.is_good(), summary.unexpected) {
        (true, _) => "Every request was answered as it should be, through every rotation.",
        (false, 0) => "The story ended before enough rotations were seen.",
        (false, _) => "Some requests were not answered as they should be.",
    };
    Narrator::line(&format!("\n{verdict}"));
    Narrator::line(&summary.to_string());
}
