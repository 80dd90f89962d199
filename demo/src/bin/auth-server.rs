#![forbid(unsafe_code)]
//! A server with an open path and one for callers with a valid token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use demo::{Error, chain, logging, server, signals};
use tower_oidc_guard::{Issuer, OidcGuard};

/// Answers anyone on /, and on /private callers with a valid token of the issuer for one of the audiences.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The address to listen at.
    #[arg(long, env = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    address: IpAddr,

    /// The port to listen at; 0 for one of the system's choice.
    #[arg(long, env = "PORT", default_value_t = 8080)]
    port: u16,

    /// The issuer's URL, to the letter as its tokens name it.
    #[arg(long, env = "ID_ISSUER", value_name = "URL")]
    issuer: String,

    /// An audience that tokens may be made for; several with commas between them.
    #[arg(long, env = "JWT_AUDIENCE", value_delimiter = ',', required = true)]
    audience: Vec<String>,

    /// How far the issuer's clock may differ, in seconds: 300 at most.
    #[arg(long, default_value_t = 60)]
    leeway: u64,

    /// Take an issuer on this machine over plain http: for trying things out.
    #[arg(long)]
    insecure_loopback_http: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logging::start("info");
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("auth-server: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    let mut issuer =
        Issuer::kubernetes(arguments.issuer).leeway(Duration::from_secs(arguments.leeway));
    if arguments.insecure_loopback_http {
        issuer = issuer.insecure_loopback_http();
    }
    let issuer = arguments
        .audience
        .into_iter()
        .fold(issuer, Issuer::audience);
    let guard = OidcGuard::builder()
        .issuer(issuer)
        .any_verified_caller()
        .build()?;
    let address = SocketAddr::new(arguments.address, arguments.port);
    let listener = server::listen(address).await?;
    let address = listener
        .local_addr()
        .map_err(Error::io("the server's address is unknown"))?;
    tracing::info!(%address, "listening");
    let routes = server::routes(&guard, |caller| {
        tracing::info!(subject = caller.subject(), "let in");
    });
    server::serve(listener, routes, signals::end()).await
}
