#![forbid(unsafe_code)]
//! A client that asks for the open path and for the guarded one, again and again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use demo::client::{Answer, Client, Path};
use demo::narrator::Narrator;
use demo::{Error, chain, logging, signals};
use reqwest_wi_auth::ProjectedToken;

/// Asks a service for its open path and its guarded one, in turn, with the token of a file that is followed.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The service: https, or http on this machine.
    #[arg(long, env = "SERVICE_URL", value_name = "URL")]
    service_url: String,

    /// The file of the projected token.
    #[arg(
        long,
        env = "TOKEN_PATH",
        value_name = "FILE",
        default_value = "/var/run/secrets/tokens/gke-sa"
    )]
    token_path: PathBuf,

    /// The pause between two rounds, in seconds.
    #[arg(long, env = "INTERVAL", value_name = "SECONDS", default_value_t = 5)]
    interval: u64,

    /// Ask once; the exit code is 0 if both paths answer with 200.
    #[arg(long)]
    once: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start("warn");
    match run(arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("auth-client: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the last round went well.
async fn run(arguments: Arguments) -> Result<bool, Error> {
    let token = ProjectedToken::open(arguments.token_path).await?;
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(30))
        .build()?;
    let client = Client::with_token(&arguments.service_url, http, token)?;
    let end = signals::end();
    tokio::pin!(end);
    loop {
        let open = ask(&client, Path::Open).await;
        let private = ask(&client, Path::Private).await;
        if arguments.once {
            return Ok(open && private);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(arguments.interval)) => {}
            () = &mut end => return Ok(open && private),
        }
    }
}

async fn ask(client: &Client, path: Path) -> bool {
    let name = path.as_str();
    match client.get(path).await {
        Ok(Answer { status, body }) => {
            Narrator::line(&format!("GET {name}: {status} {}", body.trim()));
            status == 200
        }
        Err(error) => {
            Narrator::line(&format!("GET {name}: failed: {}", chain(&error)));
            false
        }
    }
}
