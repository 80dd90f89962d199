//! A tonic client whose calls carry a token.
//!
//! The requests above a tonic `Channel` have URIs without an authority, so the layer is created for the origin of the
//! channel. Calls the health service of a server on loopback that accepts only this token:
//!
//! ```sh
//! cargo run -p reqwest-wi-auth --example tonic_client
//! ```

use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower::Layer as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let origin = start_server().await?;
    let channel = Channel::from_shared(origin.clone())?.connect().await?;

    let mut client = HealthClient::new(channel.clone());
    let response = client.check(HealthCheckRequest::default()).await;
    let code = response.map_or_else(|status| status.code(), |_| Code::Ok);
    println!("without a token: {code:?}");
    assert_eq!(code, Code::Unauthenticated);

    // In a pod: ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?
    let token = FixedToken::new(Token::opaque("a-token")?);
    let layer = BearerAuth::for_origin(&origin, token)?.layer_for_origin(&origin)?;
    let mut client = HealthClient::new(layer.layer(channel));
    let response = client.check(HealthCheckRequest::default()).await?;
    let status = response.into_inner().status();
    println!("with the token: {}", status.as_str_name());
    assert_eq!(status, ServingStatus::Serving);
    Ok(())
}

/// Starts a server that accepts only one token, and returns its origin.
async fn start_server() -> Result<String, Box<dyn std::error::Error>> {
    let (_, health) = tonic_health::server::health_reporter();
    let service = InterceptedService::new(health, require_token);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(origin)
}

fn require_token(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get("authorization") {
        Some(value) if value == "Bearer a-token" => Ok(request),
        _ => Err(Status::unauthenticated("no valid token")),
    }
}
