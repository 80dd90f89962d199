//! A client of kube whose requests carry the current token, instead of the credentials of a kubeconfig.
//!
//! The layer lies beneath kube's own, which put the API server's address into each request, so each request's URI decides.
//! Runs against a server of its own: `cargo run -p reqwest-wi-auth --example kube_client`.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let origin = serve().await?;
    // In a pod, against https://kubernetes.default.svc with the cluster's CA, for a token of the API server's audience:
    // ProjectedToken::open("/var/run/secrets/kubernetes.io/serviceaccount/token").await?
    let token = FixedToken::new(Token::opaque("a-token")?);

    let config = Config::new(origin.parse()?);
    let http = HttpClient::builder(TokioExecutor::new()).build_http::<Body>();
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(BearerAuth::for_origin(&origin, token)?)
        .service(http);
    let client = Client::new(service, config.default_namespace);

    let version = client.apiserver_version().await?;
    println!("the API server's version: {}", version.git_version);
    assert_eq!(version.git_version, "v1.36.0");
    Ok(())
}

async fn serve() -> std::io::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/version", get(version));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(origin)
}

/// What an API server responds, to callers with the token.
async fn version(headers: HeaderMap) -> Response {
    let token = headers.get("authorization");
    if token.is_none_or(|value| value != "Bearer a-token") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let names = [
        "gitCommit",
        "gitTreeState",
        "buildDate",
        "goVersion",
        "compiler",
        "platform",
    ];
    let mut version = serde_json::json!({ "major": "1", "minor": "36", "gitVersion": "v1.36.0" });
    for name in names {
        version[name] = "".into();
    }
    Json(version).into_response()
}
