//! A policy that an operator changes without a restart: a file, as a ConfigMap is mounted.
//!
//! `cargo run -p tower-oidc-guard --example policy_file --all-features`

use std::error::Error;

use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, PolicyFile};

const BEFORE: &str = "allow: [\"system:serviceaccount:shop:web\"]\n";
const AFTER: &str =
    "allow: [\"system:serviceaccounts:shop\"]\ndeny: [\"system:serviceaccount:shop:web\"]\n";

pub(crate) async fn run() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let kubelet = Kubelet::new(folder.path())?;
    kubelet.write([("policy.yaml", BEFORE)])?;

    let issuer = MemoryIssuer::new("https://cluster.example")?;
    let file = PolicyFile::open(kubelet.path("policy.yaml")).await?;
    let guard = OidcGuard::builder()
        .issuer(Issuer::kubernetes(issuer.url()).audience("me"))
        .http_client(issuer.client())
        .policy(file.policy())
        .build()?;

    let token = issuer
        .token()
        .audience("me")
        .service_account("shop", "web")
        .mint();
    let caller = guard.verifier().verify(token).await?;
    let before = guard.policy().explain(&caller);
    println!("before: {before}");

    let changed = file.changed();
    kubelet.rotate("policy.yaml", AFTER)?;
    changed.await;
    let after = guard.policy().explain(&caller);
    println!("after:  {after}");
    assert!(before.is_allowed() && !after.is_allowed());
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the test calls `run`")]
async fn main() -> Result<(), Box<dyn Error>> {
    run().await
}
