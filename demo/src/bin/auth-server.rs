#![forbid(unsafe_code)]
//! A server with an open path and one for callers with a valid token.

use std::process::ExitCode;

use clap::Parser as _;
use demo::server::settings::ServerSettings;
use demo::{Error, chain, logging, server, signals};
use metrics_exporter_prometheus::PrometheusBuilder;

#[tokio::main]
async fn main() -> ExitCode {
    let settings = ServerSettings::parse();
    logging::start("info");
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("auth-server: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: ServerSettings) -> Result<(), Error> {
    let recorder = PrometheusBuilder::new().install_recorder();
    let recorder = recorder.map_err(|error| Error::Metrics(error.to_string()))?;
    server::run(settings, move || recorder.render(), signals::end()).await
}
