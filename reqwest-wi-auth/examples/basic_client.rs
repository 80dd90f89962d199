//! A reqwest client whose requests carry a token.
//!
//! Sends requests to a server on loopback that accepts only this token, with the token and without:
//!
//! ```sh
//! cargo run -p reqwest-wi-auth --example basic_client
//! ```

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use reqwest_middleware::ClientBuilder;
use reqwest_wi_auth::{BearerAuth, FixedToken, SkipToken, Token};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let origin = start_server().await?;
    let url = format!("{origin}/private");

    // In a pod: ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?
    let token = FixedToken::new(Token::opaque("a-token")?);
    // Requests to loopback would go through a proxy in HTTP_PROXY.
    let http = reqwest::Client::builder().no_proxy().build()?;
    let client = ClientBuilder::new(http)
        .with(BearerAuth::for_origin(&origin, token)?)
        .build();

    let response = client.get(&url).send().await?;
    println!("with the token: {}", response.status());
    assert_eq!(response.status(), StatusCode::OK);

    let response = client.get(&url).with_extension(SkipToken).send().await?;
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
