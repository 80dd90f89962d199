//! A kube client whose requests carry a token, instead of the credentials of a kubeconfig.
//!
//! The layer is placed below kube's `base_uri_layer`, which adds the address of the API server to the URI of each request.
//! Sends a request to a server on loopback that responds like an API server:
//!
//! ```sh
//! cargo run -p reqwest-wi-auth --example kube_client
//! ```

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
    let origin = start_server().await?;
    // In a pod, use the origin https://kubernetes.default.svc and an HTTP client that trusts the CA of the cluster, with
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
    println!("version of the API server: {}", version.git_version);
    assert_eq!(version.git_version, "v1.36.0");
    Ok(())
}

/// Starts a server that accepts only one token, and returns its origin.
async fn start_server() -> std::io::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/version", get(version));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(origin)
}

async fn version(headers: HeaderMap) -> Response {
    let token = headers.get("authorization");
    if token.is_none_or(|value| value != "Bearer a-token") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    Json(serde_json::json!({
        "major": "1",
        "minor": "36",
        "gitVersion": "v1.36.0",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "",
        "platform": "",
    }))
    .into_response()
}
