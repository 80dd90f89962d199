//! An axum server with an open route, a guarded one, and one with a policy of its own.
//!
//! Runs against an issuer of its own: `cargo run -p tower-oidc-guard --example axum --all-features`. In a cluster,
//! the issuer is `Issuer::in_cluster()?`.

use std::error::Error;

use axum::Router;
use axum::routing::get;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy};

const AUDIENCE: &str = "https://orders.example";

/// The routes, and who may use them.
fn app(issuer: Issuer) -> Result<Router, Box<dyn Error>> {
    let guard = OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE))
        .policy(Policy::members(["system:serviceaccounts:shop"]))
        .build()?;
    let admins = guard.layer_with(Policy::members(["system:serviceaccount:ops:admin"]))?;
    Ok(Router::new()
        .route("/orders", get(whoami))
        .route_layer(guard.layer())
        .merge(
            Router::new()
                .route("/admin", get(whoami))
                .route_layer(admins),
        )
        .route("/", get(|| async { "open to all" }))
        .route_service("/readyz", guard.readiness()))
}

async fn whoami(caller: Identity) -> String {
    caller.subject().to_owned()
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let issuer = TestIssuer::start().await?;
    let trusted = Issuer::kubernetes(issuer.url()).insecure_loopback_http();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = app(trusted)?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let token = |namespace: &str, name: &str| {
        issuer
            .token()
            .audience(AUDIENCE)
            .service_account(namespace, name)
            .mint()
    };
    let client = reqwest::Client::builder().no_proxy().build()?;
    for (path, token, expected) in [
        ("/", None, 200),
        ("/orders", None, 401),
        ("/orders", Some(token("shop", "web")), 200),
        ("/orders", Some(token("other", "web")), 403),
        ("/admin", Some(token("shop", "web")), 403),
        ("/admin", Some(token("ops", "admin")), 200),
        ("/readyz", None, 200),
    ] {
        let request = client.get(format!("{url}{path}"));
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await?;
        let status = response.status().as_u16();
        println!("GET {path}: {status} {}", response.text().await?);
        assert_eq!(status, expected, "{path}");
    }
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the test calls `run`")]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}
