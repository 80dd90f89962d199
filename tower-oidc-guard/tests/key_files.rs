//! Keys that are given, or lie in a file.
#![cfg(all(feature = "testing", unix))]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use reqwest_wi_auth::testing::Kubelet;
use serde_json::json;
use support::forge::Forge;
use support::{FORGED_ISSUER, HEADER, answering, claims, guard_by, later};
use tower_oidc_guard::{Algorithm, Issuer, KeysError, OidcGuard, Rejection};

const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The key of RFC 8410, section 10.1.
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

fn pem(forge: &Forge) -> String {
    use base64::Engine as _;
    let der = [P256_PREFIX, &forge.point()].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let (one, two) = text.split_at(64);
    format!("-----BEGIN PUBLIC KEY-----\n{one}\n{two}\n-----END PUBLIC KEY-----\n")
}

/// The `kid` that Kubernetes gives that key.
fn kid(forge: &Forge) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let der = [P256_PREFIX, &forge.point()].concat();
    support::forge::encode(digest(&SHA256, &der).as_ref())
}

fn issuer() -> Issuer {
    Issuer::discover(FORGED_ISSUER).algorithms([Algorithm::ES256])
}

/// A guard of that issuer, which asks nobody.
fn guard(issuer: Issuer) -> OidcGuard {
    guard_by(issuer, answering(|request| panic!("{request:?}")))
}

async fn verdict(guard: &OidcGuard, token: String) -> Result<(), Rejection> {
    guard.verifier().verify(token).await.map(drop)
}

fn jwks(forge: &Forge) -> String {
    json!({ "keys": [forge.jwk()] }).to_string()
}

#[tokio::test]
async fn a_single_key_in_pem_is_used_for_any_kid() {
    let (forge, other) = (Forge::new(), Forge::new());
    let guard = guard(issuer().keys_pem(pem(&forge)));
    let signed = |by: &Forge| by.sign(HEADER, &claims(json!({})));
    assert_eq!(verdict(&guard, signed(&forge)).await, Ok(()));
    assert_eq!(
        verdict(&guard, signed(&other)).await,
        Err(Rejection::BadSignature)
    );
}

#[tokio::test]
async fn several_keys_in_pem_are_named_as_kubernetes_names_them() {
    let (one, two) = (Forge::new(), Forge::new());
    let guard = guard(issuer().keys_pem(format!("{}{}{ED25519}", pem(&one), pem(&two))));
    for forge in [&one, &two] {
        let header = json!({ "alg": "ES256", "kid": kid(forge) }).to_string();
        let token = forge.sign(&header, &claims(json!({})));
        assert_eq!(verdict(&guard, token).await, Ok(()));
    }
    let misnamed = json!({ "alg": "ES256", "kid": kid(&one) }).to_string();
    let token = two.sign(&misnamed, &claims(json!({})));
    assert_eq!(verdict(&guard, token).await, Err(Rejection::BadSignature));
    assert_eq!(guard.health()[0].usable_keys, 3);
}

#[test]
fn an_rsa_key_in_pem_is_held_to_the_same_rules_as_one_in_json() {
    let weak = "-----BEGIN PUBLIC KEY-----
MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAL3qXZ4K3p0mPWYn2YyZtQyHkT4dTqXf
v3mJ3gI1f0m1r2x0ytYbG6p6dG4Yv3fQ8T2bqkqk5u0m2R3k8WcF2WMCAwEAAQ==
-----END PUBLIC KEY-----
";
    let text = |pem: &str| {
        let builder = OidcGuard::builder().issuer(issuer().keys_pem(pem).audience("me"));
        builder
            .any_verified_caller()
            .build()
            .unwrap_err()
            .to_string()
    };
    assert!(text(weak).contains("no usable key"), "{}", text(weak));
    assert!(
        text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n").contains("no PUBLIC KEY")
    );
}

#[tokio::test]
async fn a_file_of_keys_is_followed_through_the_kubelet_s_swap() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    let (old, new) = (Forge::new(), Forge::new());
    kubelet.write([("jwks.json", jwks(&old))]).unwrap();
    let guard = guard(issuer().keys_file(kubelet.path("jwks.json")));
    let signed = |by: &Forge| by.sign(HEADER, &claims(json!({})));
    assert_eq!(verdict(&guard, signed(&old)).await, Ok(()));
    kubelet.rotate("jwks.json", pem(&new)).unwrap();
    for _ in 0..1000 {
        if verdict(&guard, signed(&new)).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(verdict(&guard, signed(&new)).await, Ok(()));
    assert_eq!(
        verdict(&guard, signed(&old)).await,
        Err(Rejection::BadSignature)
    );
}

#[tokio::test]
async fn a_bad_new_file_changes_nothing_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (path, forge) = (folder.path().join("jwks.json"), Forge::new());
    std::fs::write(&path, jwks(&forge)).unwrap();
    let guard = guard(issuer().keys_file(&path));
    let token = || forge.sign(HEADER, &claims(json!({})));
    assert_eq!(verdict(&guard, token()).await, Ok(()));
    std::fs::write(&path, r#"{"keys":null}"#).unwrap();
    for _ in 0..1000 {
        later(std::time::Duration::from_secs(61)).await;
        assert_eq!(verdict(&guard, token()).await, Ok(()));
        if guard.health()[0].last_error.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let health = guard.health().remove(0);
    let error = health.last_error.unwrap();
    assert!(
        matches!(&*error, KeysError::File { path: named, .. } if *named == path),
        "{error}"
    );
    assert!(health.is_ready);
}

#[tokio::test]
async fn an_operator_who_empties_the_file_withdraws_all_keys() {
    for emptied in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AA"}]}"#] {
        let folder = tempfile::tempdir().unwrap();
        let (path, forge) = (folder.path().join("jwks.json"), Forge::new());
        std::fs::write(&path, jwks(&forge)).unwrap();
        let guard = guard(
            issuer()
                .keys_file(&path)
                .unknown_key_jitter(std::time::Duration::ZERO),
        );
        let token = || forge.sign(HEADER, &claims(json!({})));
        assert_eq!(verdict(&guard, token()).await, Ok(()));
        std::fs::write(&path, emptied).unwrap();
        for _ in 0..1000 {
            if !guard.health()[0].is_ready {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let health = guard.health().remove(0);
        assert_eq!((health.is_ready, health.usable_keys), (false, 0));
        let error = health.last_error.unwrap();
        assert!(matches!(&*error, KeysError::NoUsableKey { .. }), "{error}");
        assert!(matches!(
            verdict(&guard, token()).await,
            Err(Rejection::KeysUnavailable { .. })
        ));
        std::fs::write(&path, jwks(&forge)).unwrap();
        for _ in 0..1000 {
            if guard.health()[0].is_ready {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(verdict(&guard, token()).await, Ok(()), "it is filled again");
    }
}

#[tokio::test]
async fn a_missing_file_is_a_503_until_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (path, forge) = (folder.path().join("jwks.json"), Forge::new());
    let guard = guard(issuer().keys_file(&path));
    let token = || forge.sign(HEADER, &claims(json!({})));
    assert!(matches!(
        verdict(&guard, token()).await,
        Err(Rejection::KeysUnavailable { .. })
    ));
    std::fs::write(&path, jwks(&forge)).unwrap();
    for _ in 0..1000 {
        later(std::time::Duration::from_secs(2)).await;
        if verdict(&guard, token()).await.is_ok() {
            return;
        }
    }
    panic!("{:?}", guard.health());
}
