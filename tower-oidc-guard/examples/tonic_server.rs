//! A guarded tonic server, and a client whose channel sends a token with each call.
//!
//! Calls the gRPC health service, so no protoc is needed. Run it with
//! `cargo run -p tower-oidc-guard --example tonic_server --features testing`.

use std::error::Error;

use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Layer as _;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy};

const AUDIENCE: &str = "https://health.example";

/// Prints the caller's subject. Interceptors and services find the [`Identity`] in the request's extensions.
fn print_caller(request: Request<()>) -> Result<Request<()>, Status> {
    let caller = request.extensions().get::<Identity>();
    let caller = caller.ok_or_else(|| Status::internal("the server has no guard"))?;
    println!("called by {}", caller.subject());
    Ok(request)
}

/// Starts the server and returns its origin.
async fn serve(guard: OidcGuard) -> Result<String, Box<dyn Error>> {
    let (_, health) = tonic_health::server::health_reporter();
    let health = InterceptedService::new(health, print_caller);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    // A layer of the server guards all of its services.
    let server = Server::builder().layer(guard.layer()).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(origin)
}

/// Calls the server with this token and returns the status code.
///
/// A client in a pod uses `ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?` in place of [`FixedToken`].
async fn call(origin: &str, token: String) -> Result<Code, Box<dyn Error>> {
    let token = FixedToken::new(Token::new(token.as_bytes())?);
    let channel = Channel::from_shared(origin.to_owned())?.connect().await?;
    let auth = BearerAuth::for_origin(origin, token)?.layer_for_origin(origin)?;
    let mut client = HealthClient::new(auth.layer(channel));
    let response = client.check(HealthCheckRequest::default()).await;
    Ok(response.map_or_else(|status| status.code(), |_| Code::Ok))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
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
