#![forbid(unsafe_code)]
//! A server with an open path, and paths for callers with a valid token.

use std::process::ExitCode;

use demo::server::command_line::{
    CheckPolicySettings, ExplainSettings, ServerCommand, ServerCommandLine,
};
use demo::server::settings::ServerSettings;
use demo::server::{self, Admission, Metrics, PolicyValidity};
use demo::signals::{self, Shutdown};
use demo::{Error, arguments, output};

/// The exit code of a subcommand that cannot do what it is for, as for invalid arguments.
const EXIT_UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let shutdown = match Shutdown::install(0) {
        Ok(shutdown) => shutdown,
        Err(error) => return failed(&Error::io("cannot install signal handlers")(error), 1),
    };
    let ServerCommandLine { settings, command } = arguments::parse();
    let Some(command) = command else {
        return match serve(settings, &shutdown) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error, 1),
        };
    };
    shutdown.set_startup_exit_code(EXIT_UNUSABLE);
    let result = match command {
        ServerCommand::Explain(settings) => explain(*settings),
        ServerCommand::CheckPolicy(settings) => check_policy(&settings),
    };
    result.unwrap_or_else(|error| failed(&error, EXIT_UNUSABLE))
}

/// Prints an error, and returns the exit code.
fn failed(error: &Error, code: u8) -> ExitCode {
    output::print_error("auth-server", error);
    code.into()
}

fn serve(settings: ServerSettings, shutdown: &Shutdown) -> Result<(), Error> {
    output::init_logging("info", settings.log_format);
    let metrics = Metrics::install()?;
    signals::block_on(server::run(settings, metrics, shutdown))?
}

fn explain(settings: ExplainSettings) -> Result<ExitCode, Error> {
    // The table contains what the log would.
    output::init_logging("off", settings.settings.log_format);
    Ok(match signals::block_on(server::explain(settings))?? {
        Admission::Admitted => ExitCode::SUCCESS,
        Admission::Rejected => ExitCode::FAILURE,
    })
}

fn check_policy(settings: &CheckPolicySettings) -> Result<ExitCode, Error> {
    Ok(match server::check_policy(settings)? {
        PolicyValidity::Valid => ExitCode::SUCCESS,
        PolicyValidity::Invalid => ExitCode::FAILURE,
    })
}
