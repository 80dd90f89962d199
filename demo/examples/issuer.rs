//! Runs a test issuer on loopback. Writes a token of the service account `gke-sa` in `id-namespace` to a file, prints the
//! issuer's URL, and serves its keys until the process is ended.
//!
//! `cargo run -p demo --example issuer -- <audience> <token file>`

use std::error::Error;

use tower_oidc_guard::testing::TestIssuer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(audience), Some(token_file)) = (arguments.next(), arguments.next()) else {
        return Err("usage: issuer <audience> <token file>".into());
    };
    let issuer = TestIssuer::start().await?;
    let token = issuer.token().service_account("id-namespace", "gke-sa");
    std::fs::write(token_file, token.audience(audience).mint())?;
    println!("{}", issuer.url());
    std::future::pending::<()>().await;
    Ok(())
}
