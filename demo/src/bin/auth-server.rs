#![forbid(unsafe_code)]
//! A server with an open path, and paths for callers with a valid token.

use std::process::ExitCode;

use demo::server::settings::ServerSettings;
use demo::server::{self, Metrics};
use demo::signals::{self, Shutdown};
use demo::{Error, arguments, error_chain, output};

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("auth-server: {}", error_chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Error> {
    let shutdown = Shutdown::install(0).map_err(Error::io("cannot install signal handlers"))?;
    let settings: ServerSettings = arguments::parse();
    output::init_logging("info");
    let metrics = Metrics::install()?;
    signals::block_on(server::run(settings, metrics, &shutdown))?
}
