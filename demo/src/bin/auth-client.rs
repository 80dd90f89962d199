#![forbid(unsafe_code)]
//! A client that asks for the open path and for the guarded one, again and again.

use std::process::ExitCode;

use clap::Parser as _;
use demo::client::rounds;
use demo::client::settings::ClientSettings;
use demo::{chain, logging, signals};

#[tokio::main]
async fn main() -> ExitCode {
    let settings = ClientSettings::parse();
    logging::start("warn");
    match rounds::run(settings, signals::end()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("auth-client: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}
