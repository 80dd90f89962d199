//! A hyper client whose requests carry a token.
//!
//! The layer adds the token to each request whose URI has the configured origin. Sends a request to a server on loopback
//! that accepts only this token:
//!
//! ```sh
//! cargo run -p reqwest-wi-auth --example hyper_client
//! ```

use axum::Router;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use reqwest_wi_auth::{BearerAuth, FixedToken, SkipToken, Token};
use tower::{Layer as _, Service as _, ServiceExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let origin = start_server().await?;
    let url = format!("{origin}/private");

    // In a pod: ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?
    let token = FixedToken::new(Token::opaque("a-token")?);
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let mut client = BearerAuth::for_origin(&origin, token)?.layer(http);

    let request = Request::get(&url).body(Empty::new())?;
    let response = client.ready().await?.call(request).await?;
    println!("with the token: {}", response.status());
    assert_eq!(response.status(), StatusCode::OK);

    let request = Request::get(&url).extension(SkipToken).body(Empty::new())?;
    let response = client.ready().await?.call(request).await?;
    println!("without a token: {}", response.status());
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    Ok(())
}

/// Starts a server that accepts only one token, and returns its origin.
async fn start_server() -> std::io::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/private", get(private));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(origin)
}

async fn private(headers: HeaderMap) -> StatusCode {
    match headers.get("authorization") {
        Some(value) if value == "Bearer a-token" => StatusCode::OK,
        _ => StatusCode::UNAUTHORIZED,
    }
}
