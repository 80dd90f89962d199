//! An axum server with open routes, a guarded route, and a route with a stricter policy.
//!
//! Run it with `cargo run -p tower-oidc-guard --example axum_server --features testing,axum`. The issuer is a
//! [`TestIssuer`] on loopback. A server in a Kubernetes cluster uses `Issuer::in_cluster()?` instead.

use std::error::Error;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy};

/// The value of `aud` in tokens that are meant for this server.
const AUDIENCE: &str = "https://orders.example";

/// Creates the routes and the guard in front of them.
fn app(issuer: Issuer) -> Result<Router, Box<dyn Error>> {
    let guard = OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE))
        // Every service account in the namespace `shop`.
        .policy(Policy::members(["system:serviceaccounts:shop"]))
        .build()?;
    // The same issuers, with another policy.
    let admins = guard.layer_with(Policy::members(["system:serviceaccount:ops:admin"]))?;

    // axum applies a layer to the routes that a router has at this moment, so the order matters:
    // - `route_layer` guards the routes that were added before it. A request for an unknown path gets 404 without a token.
    // - `layer` guards them too, and the fallback: a request for an unknown path gets 401.
    // - A route that is added after either call is not guarded, and neither are the routes of merged routers.
    let admin_routes = Router::new()
        .route("/admin", get(subject))
        .route_layer(admins);
    Ok(Router::new()
        .route("/orders", get(subject))
        .route_layer(guard.layer())
        // Everything below is open, or has its own guard.
        .merge(admin_routes)
        .route("/", get(|| async { "open to all" }))
        // Returns 200 as long as the server runs, for a liveness probe.
        .route("/healthz", get(|| async { "ok" }))
        // Returns 200 once the keys of all issuers are available, for a readiness probe.
        .route_service("/readyz", guard.readiness()))
}

/// Responds with the caller's subject. The guard has put the caller's [`Identity`] into the request's extensions.
async fn subject(caller: Identity) -> String {
    caller.subject().to_owned()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = TestIssuer::start().await?;
    let app = app(Issuer::kubernetes(issuer.url()).insecure_loopback_http())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let token = |namespace: &str, name: &str| {
        issuer
            .token()
            .audience(AUDIENCE)
            .service_account(namespace, name)
    };
    let client = reqwest::Client::builder().no_proxy().build()?;
    for (path, token, expected) in [
        // The open routes need no token.
        ("/", None, 200),
        ("/healthz", None, 200),
        // There is no such route, and the fallback is not guarded.
        ("/unknown", None, 404),
        // 401: there is no token, or an invalid one.
        ("/orders", None, 401),
        ("/orders", Some(token("shop", "web").bad_signature()), 401),
        // 200: the token is valid and the policy allows the caller.
        ("/orders", Some(token("shop", "web")), 200),
        // 403: the token is valid, but the policy does not allow the caller.
        ("/orders", Some(token("other", "web")), 403),
        ("/admin", Some(token("shop", "web")), 403),
        ("/admin", Some(token("ops", "admin")), 200),
        ("/readyz", None, 200),
    ] {
        let mut request = client.get(format!("{url}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token.mint());
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        println!("GET {path}: {status} {}", response.text().await?);
        assert_eq!(status, expected, "{path}");
    }
    Ok(())
}
