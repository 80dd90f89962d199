//! Tokens, keys and discovery documents of real Kubernetes, judged as their names say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::support::{AUDIENCE, unix_time};
use serde_json::Value;
use tower_oidc_guard::{Identity, Issuer, OidcGuard, TokenError, VerifyError};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/kubernetes")
        .join(name)
}

/// A token as its file has it: some end in a line break, which is not the token's.
fn token(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap().trim_end().to_owned()
}

fn claim(token: &str, name: &str) -> Option<u64> {
    use base64::Engine as _;
    let payload = token.split('.').nth(1).unwrap();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .unwrap();
    serde_json::from_slice::<Value>(&json).unwrap()[name].as_u64()
}

/// Verifies a token against a folder's discovery document and keys, at that second.
async fn judge(documents: &str, token: &str, now: u64) -> Result<Identity, VerifyError> {
    let read = |name: &str| std::fs::read(folder(documents).join(name)).unwrap();
    let discovery = read("discovery.json");
    let keys_url = serde_json::from_slice::<Value>(&discovery).unwrap()["jwks_uri"].clone();
    let served = HashMap::from([
        (
            format!("{ISSUER}/.well-known/openid-configuration"),
            discovery,
        ),
        (keys_url.as_str().unwrap().to_owned(), read("jwks.json")),
    ]);
    let issuer = Issuer::kubernetes(ISSUER).audience(AUDIENCE);
    let guard = OidcGuard::builder()
        .issuer(issuer.leeway(std::time::Duration::ZERO))
        .any_verified_caller()
        .http_client(crate::support::document_client(served))
        .clock(move || unix_time(now))
        .build()
        .unwrap();
    guard.verifier().verify(token).await
}

/// What a token's name says of it.
fn expected(name: &str) -> Result<(), VerifyError> {
    match name {
        "gke-sa-600s" | "gke-sa-3600s" | "gke-sa-two-audiences" | "bound-to-a-deleted-pod" => {
            Ok(())
        }
        "gke-sa-api-audience" | "automounted-one-year" => {
            Err(VerifyError::InvalidToken(TokenError::WrongAudience))
        }
        "bad-signature" => Err(VerifyError::InvalidToken(TokenError::BadSignature)),
        // Without `exp`, these are not claims that a guard can go by.
        "automounted-legacy" => Err(VerifyError::InvalidToken(TokenError::Malformed(
            "the claim `exp` is missing",
        ))),
        "non-canonical-base64" => Err(VerifyError::InvalidToken(TokenError::Malformed(
            "a part is not canonical base64url",
        ))),
        other => panic!("nobody says what {other} should come to"),
    }
}

/// Judges every token of a folder; returns how many were taken.
async fn judge_folder(name: &str) -> usize {
    let mut taken = 0;
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jwt") {
            continue;
        }
        let (stem, token) = (path.file_stem().unwrap().to_str().unwrap(), token(&path));
        // The legacy token says no time at all: any will do.
        let issued = claim(&token, "iat").unwrap_or(1_795_462_876);
        let verdict = judge(name, &token, issued + 1).await;
        assert_eq!(
            verdict.as_ref().map(drop).map_err(|r| *r),
            expected(stem),
            "{path:?}"
        );
        let Ok(identity) = verdict else { continue };
        taken += 1;
        assert_caller(&identity, stem, &token);
        let expiry = claim(&token, "exp").unwrap();
        assert!(judge(name, &token, expiry - 1).await.is_ok(), "{path:?}");
        let expired = judge(name, &token, expiry).await;
        assert_eq!(
            expired.err(),
            Some(VerifyError::InvalidToken(TokenError::Expired)),
            "{path:?}"
        );
    }
    taken
}

fn assert_caller(identity: &Identity, stem: &str, token: &str) {
    assert_eq!(identity.issuer(), ISSUER);
    assert!(
        identity
            .audiences()
            .iter()
            .any(|audience| audience == AUDIENCE)
    );
    assert_eq!(
        identity.expires_at(),
        unix_time(claim(token, "exp").unwrap())
    );
    assert_eq!(identity.issued_at(), claim(token, "iat").map(unix_time));
    assert_eq!(identity.not_before(), claim(token, "nbf").map(unix_time));
    let caller = identity.kubernetes().expect("a service account");
    assert_eq!(caller.namespace(), "id-namespace");
    assert!(caller.service_account().uid().is_some());
    let name = caller.service_account().name();
    assert_eq!(
        identity.subject(),
        format!("system:serviceaccount:id-namespace:{name}")
    );
    let in_pod = stem == "bound-to-a-deleted-pod";
    assert_eq!(caller.pod().is_some(), in_pod, "{stem}");
    assert_eq!(caller.node().is_some(), in_pod, "{stem}");
    if in_pod {
        let pod = caller.pod().unwrap();
        assert!(!pod.name().is_empty() && pod.uid().is_some());
        assert!(!caller.node().unwrap().name().is_empty());
    } else {
        assert_eq!(name, "gke-sa");
    }
}

#[tokio::test]
async fn tokens_of_kubernetes_1_20_are_accepted_or_rejected_as_named() {
    assert_eq!(judge_folder("v1.20/rs256").await, 3);
}

#[tokio::test]
async fn tokens_of_kubernetes_1_20_after_a_key_rotation_are_accepted_or_rejected_as_named() {
    assert_eq!(judge_folder("v1.20/after-key-rotation").await, 3);
}

#[tokio::test]
async fn tokens_of_kubernetes_1_36_are_accepted_or_rejected_as_named() {
    assert_eq!(judge_folder("v1.36/rs256").await, 4);
}

#[tokio::test]
async fn tokens_of_kubernetes_1_36_after_a_key_rotation_are_accepted_or_rejected_as_named() {
    assert_eq!(judge_folder("v1.36/after-key-rotation").await, 3);
}

#[tokio::test]
async fn tokens_of_an_ec_key_beside_an_rsa_key_are_accepted_or_rejected_as_named() {
    assert_eq!(judge_folder("v1.36/es256-beside-rs256").await, 3);
}

#[tokio::test]
async fn tokens_of_the_old_key_verify_while_it_is_published() {
    for version in ["v1.20", "v1.36"] {
        let old = token(&folder(version).join("rs256/gke-sa-600s.jwt"));
        let issued = claim(&old, "iat").unwrap();
        for documents in [
            format!("{version}/after-key-rotation"),
            format!("{version}/rs256"),
        ] {
            assert!(
                judge(&documents, &old, issued + 1).await.is_ok(),
                "{documents}"
            );
        }
    }
}

#[tokio::test]
async fn token_of_an_unpublished_key_is_rejected() {
    let new = token(&folder("v1.36/after-key-rotation/gke-sa-600s.jwt"));
    let issued = claim(&new, "iat").unwrap();
    // The keys that are fetched when it comes in do not have its key, whoever is asked again.
    let verdict = judge("v1.36/rs256", &new, issued + 100).await;
    assert_eq!(
        verdict.err(),
        Some(VerifyError::InvalidToken(TokenError::UnknownKey))
    );
}
