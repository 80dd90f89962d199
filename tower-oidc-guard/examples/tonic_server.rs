//! A tonic server with a guarded service and an open health service, and clients with and without a token.
//!
//! Run it with `cargo run -p tower-oidc-guard --example tonic_server --features testing`. It needs no protoc: the guarded
//! service is written by hand as `tonic-prost-build` would generate it.

use std::error::Error;

use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
use tokio::net::TcpListener;
use tonic::service::LayerExt as _;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tower::Layer as _;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy};

const AUDIENCE: &str = "https://greeter.example";

/// Greets the caller. Services and interceptors find the [`Identity`] in the request's extensions.
async fn greet(request: Request<String>) -> Result<Response<String>, Status> {
    let caller = request.extensions().get::<Identity>();
    let caller = caller.ok_or_else(|| Status::internal("the service has no guard"))?;
    let greeting = format!("{}, {}", request.get_ref(), caller.subject());
    Ok(Response::new(greeting))
}

/// Starts the server and returns its origin.
async fn serve(guard: OidcGuard) -> Result<String, Box<dyn Error>> {
    // A load balancer or the kubelet calls the health service without a token.
    let (_, health) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let server = Server::builder()
        .add_service(health)
        // `named_layer` guards this service only. `Server::builder().layer(guard.layer())` would guard all of them.
        .add_service(guard.layer().named_layer(generated::Greeter));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(origin)
}

/// Calls the guarded service with this token.
///
/// A client in a pod uses `ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?` in place of [`FixedToken`].
async fn call(origin: &str, token: &str) -> Result<Result<String, Status>, Box<dyn Error>> {
    let token = FixedToken::new(Token::new(token.as_bytes())?);
    let channel = Channel::from_shared(origin.to_owned())?.connect().await?;
    let auth = BearerAuth::for_origin(origin, token)?.layer_for_origin(origin)?;
    Ok(generated::greet(auth.layer(channel), "good morning".to_owned()).await)
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

    let channel = Channel::from_shared(origin.clone())?.connect().await?;
    let mut health = HealthClient::new(channel);
    health.check(HealthCheckRequest::default()).await?;
    println!("health check without a token: Ok");

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
        let response = call(&origin, &token.mint()).await?;
        println!("{response:?}");
        let code = response.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code, expected);
    }
    Ok(())
}

/// Stands for the code that `tonic-prost-build` generates from a service definition.
mod generated {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http::uri::PathAndQuery;
    use tonic::body::Body;
    use tonic::server::NamedService;
    use tonic::{Request, Status};
    use tonic_prost::ProstCodec;
    use tower::{BoxError, Service, service_fn};

    #[derive(Clone)]
    pub(super) struct Greeter;

    impl NamedService for Greeter {
        const NAME: &'static str = "example.Greeter";
    }

    impl Service<http::Request<Body>> for Greeter {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            Box::pin(async move {
                let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
                Ok(grpc.unary(service_fn(super::greet), request).await)
            })
        }
    }

    pub(super) async fn greet<S>(service: S, greeting: String) -> Result<String, Status>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>>,
        S::Error: Into<BoxError>,
    {
        let mut client = tonic::client::Grpc::new(service);
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(error.into().to_string()))?;
        let path = PathAndQuery::from_static("/example.Greeter/Greet");
        let codec = ProstCodec::<String, String>::default();
        let response = client.unary(Request::new(greeting), path, codec).await?;
        Ok(response.into_inner())
    }
}
