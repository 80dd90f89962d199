//! A guarded tonic server, and a client whose channel sends the workload's token: both ends of the wire.
//!
//! Calls the health service, which needs no protoc:
//! `cargo run -p tower-oidc-guard --example tonic --all-features`.

use std::error::Error;

use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Layer as _;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy};

const AUDIENCE: &str = "https://health.example";

/// What the guard has put into the request's extensions is there for interceptors and services.
fn greet(request: Request<()>) -> Result<Request<()>, Status> {
    let caller = request.extensions().get::<Identity>();
    let caller = caller.ok_or_else(|| Status::internal("no guard stands before this service"))?;
    println!("called by {}", caller.subject());
    Ok(request)
}

async fn serve(guard: OidcGuard) -> Result<String, Box<dyn Error>> {
    let (_, health) = tonic_health::server::health_reporter();
    let health = tonic::service::interceptor::InterceptedService::new(health, greet);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let server = Server::builder().layer(guard.layer()).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(origin)
}

/// A channel that sends this token with each call. In a pod it is that of
/// `ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?`.
async fn call(origin: &str, token: String) -> Result<Code, Box<dyn Error>> {
    let token = FixedToken::new(Token::new(token.as_bytes())?);
    let channel = Channel::from_shared(origin.to_owned())?.connect().await?;
    let auth = BearerAuth::for_origin(origin, token)?.layer_for_origin(origin)?;
    let mut client = HealthClient::new(auth.layer(channel));
    let answer = client.check(HealthCheckRequest::default()).await;
    Ok(answer.map_or_else(|status| status.code(), |_| Code::Ok))
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let issuer = TestIssuer::start().await?;
    let trusted = Issuer::kubernetes(issuer.url()).insecure_loopback_http();
    let guard = OidcGuard::builder()
        .issuer(trusted.audience(AUDIENCE))
        .policy(Policy::members(["system:serviceaccount:shop:web"]))
        .build()?;
    let origin = serve(guard).await?;

    let token = |name: &str| {
        issuer
            .token()
            .audience(AUDIENCE)
            .service_account("shop", name)
    };
    for (token, expected) in [
        (token("web"), Code::Ok),
        (token("other"), Code::PermissionDenied),
        (token("web").bad_signature(), Code::Unauthenticated),
    ] {
        let code = call(&origin, token.mint()).await?;
        println!("{code:?}");
        assert_eq!(code, expected);
    }
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the test calls `run`")]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}
