#![forbid(unsafe_code)]
//! A client that requests the open path and the guarded one, again and again.

use std::process::ExitCode;

use demo::client::rounds;
use demo::client::settings::ClientSettings;
use demo::signals::{self, Shutdown};
use demo::{Error, arguments, chain, logging};

fn main() -> ExitCode {
    let ended = Shutdown::install(1).map_err(Error::io("cannot handle signals"));
    let ended = ended.and_then(|shutdown| {
        let settings: ClientSettings = arguments::parse();
        logging::start("warn");
        let rounds = signals::run(rounds::run(settings, &shutdown));
        rounds.map_err(Error::io("the runtime cannot be started"))?
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("auth-client: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
