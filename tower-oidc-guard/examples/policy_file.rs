//! A policy in a file that can be changed without a restart, such as a mounted ConfigMap.
//!
//! Run it with `cargo run -p tower-oidc-guard --example policy_file --features testing,policy-file`.

use std::error::Error;

use reqwest_wi_auth::testing::Kubelet;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, PolicyFile};

const BEFORE: &str = "allow: [\"system:serviceaccount:shop:web\"]\n";
const AFTER: &str =
    "allow: [\"system:serviceaccounts:shop\"]\ndeny: [\"system:serviceaccount:shop:web\"]\n";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Writes the file as a kubelet does: a ConfigMap is updated by swapping a symbolic link.
    let folder = tempfile::tempdir()?;
    let kubelet = Kubelet::new(folder.path())?;
    kubelet.write([("policy.yaml", BEFORE)])?;

    let issuer = MemoryIssuer::new("https://cluster.example")?;
    // Opening fails if the file is invalid. Later, an invalid file is reported and the previous policy stays in use.
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

    // The guard uses the new policy for the next request.
    let changed = file.changed();
    kubelet.rotate("policy.yaml", AFTER)?;
    changed.await;
    let after = guard.policy().explain(&caller);
    println!("after:  {after}");
    assert!(before.is_allowed() && !after.is_allowed());
    Ok(())
}
