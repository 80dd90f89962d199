//! A tonic channel whose calls carry the current token. Above a `Channel` requests do not name their
//! origin, so it is given when the layer is made.
//!
//! Calls the health service of a server of its own:
//! `cargo run -p reqwest-wi-auth --example tonic_client`.

use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Layer as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let origin = serve().await?;
    // In a pod: ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?
    let token = FixedToken::new(Token::opaque("a-token")?);

    let channel = Channel::from_shared(origin.clone())?.connect().await?;
    let plain = HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await;
    println!(
        "without a token: {:?}",
        plain.as_ref().map_err(Status::code)
    );
    assert!(plain.is_err());

    let channel = BearerAuth::for_origin(&origin, token)?
        .layer_for_origin(&origin)?
        .layer(channel);
    let answer = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await?;
    println!("with its token: {:?}", answer.into_inner().status());
    Ok(())
}

fn check(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get("authorization") {
        Some(value) if value == "Bearer a-token" => Ok(request),
        _ => Err(Status::unauthenticated("no valid token")),
    }
}

async fn serve() -> Result<String, Box<dyn std::error::Error>> {
    let (_, health) = tonic_health::server::health_reporter();
    let guarded = tonic::service::interceptor::InterceptedService::new(health, check);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let server = Server::builder().add_service(guarded);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(origin)
}
