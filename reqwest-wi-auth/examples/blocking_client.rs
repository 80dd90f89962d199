//! A client without middleware, `reqwest::blocking`, whose requests carry a token.
//!
//! It gets the token of each request with `token_for`, while a runtime in the background keeps the token up to date. Sends
//! a request to a server on loopback, before and after a fake kubelet has rotated the token:
//!
//! ```sh
//! cargo run -p reqwest-wi-auth --example blocking_client --features testing
//! ```

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use reqwest_wi_auth::testing::Kubelet;
    use reqwest_wi_auth::{BearerAuth, ProjectedToken};

    const FIRST: &str = "eyJhbGciOiJub25lIn0.e30.Zmlyc3Q";
    const SECOND: &str = "eyJhbGciOiJub25lIn0.e30.c2Vjb25k";

    let directory = tempfile::tempdir()?;
    let kubelet = Kubelet::new(directory.path())?;
    kubelet.write([("gke-sa", FIRST)])?;

    // The token is kept up to date as long as this runtime exists.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let origin = runtime.block_on(server::start())?;
    let token = runtime.block_on(ProjectedToken::open(kubelet.path("gke-sa")))?;
    let auth = BearerAuth::for_origin(&origin, token.clone())?;

    let client = reqwest::blocking::Client::builder().no_proxy().build()?;
    let get = || -> Result<String, Box<dyn std::error::Error>> {
        let url = format!("{origin}/token");
        let mut request = client.get(&url).build()?;
        if let Some(token) = auth.token_for(&url)? {
            let headers = request.headers_mut();
            headers.insert("authorization", token.header().clone());
        }
        Ok(client.execute(request)?.error_for_status()?.text()?)
    };

    assert_eq!(get()?, format!("Bearer {FIRST}"));
    println!("the server has received the first token");

    let mut changes = token.subscribe();
    kubelet.rotate("gke-sa", SECOND)?;
    runtime.block_on(changes.next());
    assert_eq!(get()?, format!("Bearer {SECOND}"));
    println!("the server has received the second token");
    Ok(())
}

#[cfg(unix)]
mod server {
    use axum::Router;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::get;

    /// Starts a server that returns the token of each request, and returns its origin.
    pub(crate) async fn start() -> std::io::Result<String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let app = Router::new().route("/token", get(token));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(origin)
    }

    async fn token(headers: HeaderMap) -> Result<String, StatusCode> {
        let value = headers.get("authorization");
        let value = value.ok_or(StatusCode::UNAUTHORIZED)?;
        let value = value.to_str().map_err(|_| StatusCode::BAD_REQUEST)?;
        Ok(value.to_owned())
    }
}

#[cfg(not(unix))]
fn main() {}
