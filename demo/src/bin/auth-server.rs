#![forbid(unsafe_code)]
//! A server with an open path and one for callers with a valid token.

use std::process::ExitCode;

use demo::server::settings::ServerSettings;
use demo::server::{self, Metrics};
use demo::signals::{self, Shutdown};
use demo::{Error, arguments, chain, logging};

fn main() -> ExitCode {
    let ended = Shutdown::install(0).map_err(Error::io("cannot handle signals"));
    let ended = ended.and_then(|shutdown| {
        let settings: ServerSettings = arguments::parse();
        logging::start("info");
        let metrics = Metrics::install()?;
        let server = signals::run(server::run(settings, metrics, &shutdown));
        server.map_err(Error::io("the runtime cannot be started"))?
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("auth-server: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
