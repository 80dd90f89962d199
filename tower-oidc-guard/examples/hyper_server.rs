//! A guarded service on plain hyper, and a stream that ends when its caller's token does.
//!
//! `cargo run -p tower-oidc-guard --example hyper --all-features`

use std::convert::Infallible;
use std::error::Error;
use std::time::{Duration, SystemTime};

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

/// Does what takes long, but no longer than the token is good for: the guard looks at a request once, when it comes.
async fn long(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let caller = request.extensions().get::<Identity>();
    let expires_at = caller.map_or(SystemTime::UNIX_EPOCH, Identity::expires_at);
    let left = expires_at
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    let work = tokio::time::sleep(Duration::from_millis(2500));
    let text = match tokio::time::timeout(left, work).await {
        Ok(()) => "done",
        Err(_) => "the token ran out",
    };
    Ok(Response::new(Full::from(text)))
}

async fn serve(guard: OidcGuard, listener: TcpListener) -> std::io::Result<()> {
    let service = TowerToHyperService::new(guard.layer().layer(service_fn(long)));
    loop {
        let (stream, _) = listener.accept().await?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection broke: {error}");
            }
        });
    }
}

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
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
    for (lifetime, expected) in [(3600, "done"), (2, "the token ran out")] {
        let token = issuer
            .token()
            .audience(AUDIENCE)
            .lifetime(Duration::from_secs(lifetime));
        let answer = client
            .get(&url)
            .bearer_auth(token.mint())
            .send()
            .await?
            .text()
            .await?;
        println!("a token of {lifetime} s: {answer}");
        assert_eq!(answer, expected);
    }
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the test calls `run`")]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}
