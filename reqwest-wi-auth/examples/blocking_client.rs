//! Clients without middleware, such as `reqwest::blocking` or ureq, ask for the token of each request.
//!
//! Follows a file in a volume of its own, on a runtime in the background:
//! `cargo run -p reqwest-wi-auth --example blocking_client --features testing`.

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use reqwest_wi_auth::testing::Kubelet;
    use reqwest_wi_auth::{BearerAuth, ProjectedToken};

    let folder = tempfile::tempdir()?;
    let kubelet = Kubelet::new(folder.path())?;
    kubelet.write([("gke-sa", "eyJhbGciOiJub25lIn0.e30.c2ln")])?;

    // The file is followed for as long as this runtime lives.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let token = runtime.block_on(ProjectedToken::open(kubelet.path("gke-sa")))?;
    let auth = BearerAuth::for_origin("https://auth-server.example", token)?;

    let url = "https://auth-server.example/private";
    let client = reqwest::blocking::Client::new();
    let mut request = client.get(url).build()?;
    if let Some(token) = auth.token_for(url)? {
        request
            .headers_mut()
            .insert("authorization", token.header().clone());
    }
    // Next would be `client.execute(request)`, if that host existed.
    println!("ready to send: {request:?}");
    assert!(request.headers().contains_key("authorization"));
    Ok(())
}

#[cfg(not(unix))]
fn main() {}
