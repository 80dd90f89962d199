//! An issuer on loopback for other programs: writes a token for `gke-sa` of `id-namespace` to a file, prints its URL, and
//! serves until it is ended.
//!
//! `cargo run -p demo --example issuer -- <audience> <token file>`

use std::error::Error;

use tower_oidc_guard::testing::TestIssuer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(audience), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("an audience and a file for the token are wanted".into());
    };
    let issuer = TestIssuer::start().await?;
    let token = issuer.token().service_account("id-namespace", "gke-sa");
    std::fs::write(file, token.audience(audience).mint())?;
    println!("{}", issuer.url());
    std::future::pending::<()>().await;
    Ok(())
}
