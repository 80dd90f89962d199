//! A hyper client whose requests carry the current token: each request's URI decides.
//!
//! Runs against a server of its own: `cargo run -p reqwest-wi-auth --example hyper_client`.

use axum::Router;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use reqwest_wi_auth::{BearerAuth, FixedToken, Token};
use tower::{Layer as _, ServiceExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let origin = serve().await?;
    // In a pod: ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?
    let token = FixedToken::new(Token::opaque("a-token")?);

    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let client = BearerAuth::for_origin(&origin, token)?.layer(http);

    let request = Request::get(format!("{origin}/private")).body(Empty::new())?;
    let response = client.oneshot(request).await?;
    println!("GET /private: {}", response.status());
    assert_eq!(response.status(), StatusCode::OK);
    Ok(())
}

async fn serve() -> std::io::Result<String> {
    let private = |headers: HeaderMap| async move {
        match headers
            .get("authorization")
            .is_some_and(|value| value == "Bearer a-token")
        {
            true => StatusCode::OK,
            false => StatusCode::UNAUTHORIZED,
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/private", get(private));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(origin)
}
