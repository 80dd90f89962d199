#![forbid(unsafe_code)]
//! A client that requests a service's open path and its guarded one at an interval, and prints the responses.

use std::process::ExitCode;

use demo::client::polling::{self, PollResult};
use demo::client::settings::ClientSettings;
use demo::signals::{self, Shutdown};
use demo::{Error, arguments, error_chain, output};

fn main() -> ExitCode {
    match poll() {
        Ok(PollResult::AllSucceeded) => ExitCode::SUCCESS,
        Ok(PollResult::SomeFailed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("auth-client: {}", error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn poll() -> Result<PollResult, Error> {
    let shutdown = Shutdown::install(1).map_err(Error::io("cannot install signal handlers"))?;
    let settings: ClientSettings = arguments::parse();
    output::init_logging("warn");
    signals::block_on(polling::run(settings, &shutdown))?
}
