//! A guarded service on hyper, with a response that ends when the caller's token expires.
//!
//! Run it with `cargo run -p tower-oidc-guard --example hyper_server --features testing`.

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tower::{Layer as _, service_fn};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Identity, Issuer, OidcGuard};

const AUDIENCE: &str = "https://stream.example";

/// Works for up to 2.5 seconds, but not longer than the token is valid.
///
/// The guard verifies a token once, when the request arrives. The layer can end bodies that outlive the token
/// (`OidcGuardLayer::end_streams_with_token`); for anything else there is [`Identity::expired`].
async fn work(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let Some(caller) = request.extensions().get::<Identity>() else {
        return Ok(Response::new(Full::from("no caller")));
    };
    let work = tokio::time::sleep(Duration::from_millis(2500));
    let text = tokio::select! {
        () = work => "done".to_owned(),
        end = caller.expired() => end.to_string(),
    };
    Ok(Response::new(Full::from(text)))
}

/// Serves HTTP/1 with the guarded service.
async fn serve(guard: OidcGuard, listener: TcpListener) -> std::io::Result<()> {
    let service = TowerToHyperService::new(guard.layer().layer(service_fn(work)));
    loop {
        let (stream, _) = listener.accept().await?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("connection failed: {error}");
            }
        });
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let issuer = TestIssuer::start().await?;
    let trusted = Issuer::kubernetes(issuer.url()).insecure_loopback_http();
    let guard = OidcGuard::builder()
        .issuer(trusted.audience(AUDIENCE).leeway(Duration::ZERO))
        .any_verified_caller()
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(serve(guard, listener));

    let client = reqwest::Client::builder().no_proxy().build()?;
    for (lifetime, expected) in [(3600, "done"), (2, "the token has expired")] {
        let token = issuer
            .token()
            .audience(AUDIENCE)
            .lifetime(Duration::from_secs(lifetime));
        let request = client.get(&url).bearer_auth(token.mint());
        let text = request.send().await?.text().await?;
        println!("with a token that expires in {lifetime} s: {text}");
        assert_eq!(text, expected);
    }
    Ok(())
}
