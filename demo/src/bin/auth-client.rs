#![forbid(unsafe_code)]
//! A client that requests a service's open path and its guarded one at an interval, and prints the responses.

use std::process::ExitCode;

use demo::client::check::{self, CheckResult};
use demo::client::command_line::{ClientCommand, ClientCommandLine};
use demo::client::polling::{self, PollResult};
use demo::client::settings::ClientSettings;
use demo::signals::{self, Shutdown};
use demo::{Error, arguments, output};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            output::print_error("auth-client", &error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, Error> {
    let shutdown = Shutdown::install(1).map_err(Error::io("cannot install signal handlers"))?;
    let ClientCommandLine { settings, command } = arguments::parse();
    match command {
        None => poll(settings, &shutdown),
        Some(ClientCommand::Check(settings)) => check(settings),
    }
}

fn poll(settings: ClientSettings, shutdown: &Shutdown) -> Result<ExitCode, Error> {
    // The source of `--identity ambient` is logged once, at the level INFO.
    output::init_logging("warn,reqwest_wi_auth::ambient=info", settings.log_format);
    Ok(
        match signals::block_on(polling::run(settings, shutdown))?? {
            PollResult::AllSucceeded => ExitCode::SUCCESS,
            PollResult::SomeFailed => ExitCode::FAILURE,
        },
    )
}

fn check(settings: ClientSettings) -> Result<ExitCode, Error> {
    // The table contains what the log would.
    output::init_logging("off", settings.log_format);
    Ok(match signals::block_on(check::run(settings))? {
        CheckResult::Passed => ExitCode::SUCCESS,
        CheckResult::Failed => ExitCode::FAILURE,
    })
}
