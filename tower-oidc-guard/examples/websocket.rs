//! A WebSocket that is closed when the token of its request expires.
//!
//! Run it with `cargo run -p tower-oidc-guard --example websocket --features testing,axum`. A guard decides once, on the request
//! that opens the WebSocket. What follows is no body that a layer could end, so the handler selects on
//! [`Identity::expired`].

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_tungstenite::tungstenite;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard};
use tungstenite::client::IntoClientRequest as _;

const AUDIENCE: &str = "https://prices.example";
/// `Unauthorized` in IANA's registry of WebSocket close codes.
const UNAUTHORIZED: u16 = 3000;

/// Opens a WebSocket for the caller.
async fn prices(caller: Identity, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(async move |mut socket| {
        // Around everything that waits for the client, which may have stopped reading.
        let end = tokio::select! {
            end = caller.expired() => end,
            // A client that has gone away needs nothing more.
            _ = send_prices(&mut socket) => return,
        };
        let (code, reason) = (UNAUTHORIZED, end.to_string().into());
        let close = socket.send(Message::Close(Some(CloseFrame { code, reason })));
        let _ = tokio::time::timeout(Duration::from_secs(1), close).await;
    })
}

/// Sends a price every 100 ms until the client closes the WebSocket.
async fn send_prices(socket: &mut WebSocket) -> Result<(), axum::Error> {
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    loop {
        tokio::select! {
            _ = ticks.tick() => socket.send(Message::text("42.00")).await?,
            received = socket.recv() => match received {
                Some(message) => drop(message?),
                None => return Ok(()),
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = TestIssuer::start().await?;
    // Without leeway, so that the example does not take a minute.
    let trusted = Issuer::oidc(issuer.url()).audience(AUDIENCE);
    let trusted = trusted.leeway(Duration::ZERO).insecure_loopback_http();
    let guard = OidcGuard::builder().issuer(trusted).any_verified_caller();
    let app = Router::new()
        .route("/prices", get(prices))
        .route_layer(guard.build()?.layer());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("ws://{}/prices", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    // Without a token there is no WebSocket.
    let refused = tokio_tungstenite::connect_async(&url).await;
    let Err(tungstenite::Error::Http(response)) = refused else {
        return Err("a WebSocket was opened without a token".into());
    };
    println!("without a token: {}", response.status());
    assert_eq!(response.status(), 401);

    // The time of a token has whole seconds, so this one expires in one to two seconds.
    let token = issuer
        .token()
        .audience(AUDIENCE)
        .lifetime(Duration::from_secs(2));
    let mut request = url.into_client_request()?;
    let value = format!("Bearer {}", token.mint()).parse()?;
    request.headers_mut().insert("authorization", value);
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await?;
    let mut prices = 0;
    let closed = loop {
        match socket.next().await.ok_or("the connection ended")?? {
            tungstenite::Message::Text(_) => prices += 1,
            tungstenite::Message::Close(frame) => break frame.ok_or("no reason")?,
            _ => {}
        }
    };
    println!("after {prices} prices, the server closed the WebSocket: {closed}");
    assert!(prices > 0);
    assert_eq!(u16::from(closed.code), UNAUTHORIZED);
    assert_eq!(closed.reason.as_str(), "the token has expired");
    Ok(())
}
