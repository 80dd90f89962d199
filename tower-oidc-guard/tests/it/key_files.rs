//! Keys in PEM and in key files.
#![cfg(unix)]

use std::time::Duration;

use reqwest_wi_auth::testing::Kubelet;
use serde_json::json;
use tower_oidc_guard::{Algorithm, Issuer, KeysError, OidcGuard, TokenError, VerifyError};

use crate::support::mock_client::unused_client;
use crate::support::signer::{Signer, base64url};
use crate::support::{HEADER, ISSUER_URL, advance_clock, claims, guard_with_client, wait_until};

const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The public key of RFC 8410, section 10.1.
const ED25519: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";

fn pem(signer: &Signer) -> String {
    use base64::Engine as _;
    let der = [P256_PREFIX, &signer.point()].concat();
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let (one, two) = text.split_at(64);
    format!("-----BEGIN PUBLIC KEY-----\n{one}\n{two}\n-----END PUBLIC KEY-----\n")
}

/// Returns the `kid` that Kubernetes assigns to this key.
fn kid(signer: &Signer) -> String {
    use aws_lc_rs::digest::{SHA256, digest};
    let der = [P256_PREFIX, &signer.point()].concat();
    base64url(digest(&SHA256, &der).as_ref())
}

fn issuer() -> Issuer {
    Issuer::oidc(ISSUER_URL).algorithms([Algorithm::ES256])
}

/// Creates a guard of this issuer that must not send a request.
fn guard(issuer: Issuer) -> OidcGuard {
    guard_with_client(issuer, unused_client())
}

async fn verify(guard: &OidcGuard, token: String) -> Result<(), VerifyError> {
    guard.verifier().verify(token).await.map(drop)
}

fn jwks(signer: &Signer) -> String {
    json!({ "keys": [signer.jwk()] }).to_string()
}

#[tokio::test]
async fn single_pem_key_is_used_for_any_kid() {
    let (signer, other) = (Signer::new(), Signer::new());
    let guard = guard(issuer().keys_pem(pem(&signer)));
    let signed = |by: &Signer| by.sign(HEADER, &claims(json!({})));
    assert_eq!(verify(&guard, signed(&signer)).await, Ok(()));
    assert_eq!(
        verify(&guard, signed(&other)).await,
        Err(VerifyError::InvalidToken(TokenError::BadSignature))
    );
}

#[tokio::test]
async fn multiple_pem_keys_have_the_kids_that_kubernetes_assigns() {
    let (one, two) = (Signer::new(), Signer::new());
    let guard = guard(issuer().keys_pem(format!("{}{}{ED25519}", pem(&one), pem(&two))));
    for signer in [&one, &two] {
        let header = json!({ "alg": "ES256", "kid": kid(signer) }).to_string();
        let token = signer.sign(&header, &claims(json!({})));
        assert_eq!(verify(&guard, token).await, Ok(()));
    }
    let misnamed = json!({ "alg": "ES256", "kid": kid(&one) }).to_string();
    let token = two.sign(&misnamed, &claims(json!({})));
    assert_eq!(
        verify(&guard, token).await,
        Err(VerifyError::InvalidToken(TokenError::BadSignature))
    );
    assert_eq!(guard.health()[0].usable_keys, 3);
}

#[test]
fn rsa_rules_apply_to_pem_keys() {
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
}

/// Creates a certificate of this key, issued by another key.
fn certificate(signer: &Signer) -> String {
    struct Key(Vec<u8>);
    impl rcgen::PublicKeyData for Key {
        fn der_bytes(&self) -> &[u8] {
            &self.0
        }

        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            &rcgen::PKCS_ECDSA_P256_SHA256
        }
    }
    let authority = rcgen::KeyPair::generate().unwrap();
    let params = || rcgen::CertificateParams::new(Vec::new()).unwrap();
    let authority = rcgen::Issuer::new(params(), authority);
    let certificate = params().signed_by(&Key(signer.point()), &authority);
    certificate.unwrap().pem()
}

#[tokio::test]
async fn certificate_key_is_used_like_a_public_key() {
    let (one, two) = (Signer::new(), Signer::new());
    // Text before and between the blocks is allowed.
    let alone = format!("Certificate:\n    Data:\n{}", certificate(&one));
    let guard_one = guard(issuer().keys_pem(alone));
    let token = |signer: &Signer, kid: &str| {
        let header = json!({ "alg": "ES256", "kid": kid }).to_string();
        signer.sign(&header, &claims(json!({})))
    };
    assert_eq!(verify(&guard_one, token(&one, "any")).await, Ok(()));
    let both = format!("{}# the next one\n{}", certificate(&one), pem(&two));
    let guard = guard(issuer().keys_pem(both));
    for signer in [&one, &two] {
        assert_eq!(verify(&guard, token(signer, &kid(signer))).await, Ok(()));
    }
    assert_eq!(guard.health()[0].usable_keys, 2);
}

#[tokio::test]
async fn duplicate_pem_key_counts_once() {
    let signer = Signer::new();
    for text in [
        format!("{0}{0}", pem(&signer)),
        format!("{}{}", pem(&signer), certificate(&signer)),
    ] {
        let guard = guard(issuer().keys_pem(text));
        let token = signer.sign(HEADER, &claims(json!({})));
        assert_eq!(verify(&guard, token).await, Ok(()), "for any kid");
        assert_eq!(guard.health()[0].usable_keys, 1);
    }
}

#[test]
fn pem_without_public_keys_is_rejected_and_the_error_names_its_content() {
    let sound = pem(&Signer::new());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let build_error = |issuer: Issuer| {
        let builder = OidcGuard::builder().issuer(issuer.audience("me"));
        let error = builder.any_verified_caller().build().unwrap_err();
        error.to_string()
    };
    let json = jwks(&Signer::new());
    for (text, named) in [
        (String::new(), "expects PEM"),
        ("hello".to_owned(), "expects PEM"),
        ("ssh-ed25519 AAAA me@example".to_owned(), "expects PEM"),
        (json.clone(), "keys_json"),
        (key.clone(), "PRIVATE KEY"),
        (format!("{sound}{key}"), "PRIVATE KEY"),
        (
            format!("{sound}{}", block("RSA PRIVATE KEY")),
            "RSA PRIVATE KEY",
        ),
        (
            format!("{}{sound}", block("ENCRYPTED PRIVATE KEY")),
            "ENCRYPTED PRIVATE KEY",
        ),
        (
            format!("{sound}{}", block("OPENSSH PRIVATE KEY")),
            "OPENSSH PRIVATE KEY",
        ),
        (block("CERTIFICATE REQUEST"), "CERTIFICATE REQUEST"),
        (block("RSA PUBLIC KEY"), "RSA PUBLIC KEY"),
        (block("CERTIFICATE"), "CERTIFICATE"),
        (block("PUBLIC KEY"), "public key"),
        (sound[..60].to_owned(), "not well-formed"),
    ] {
        let error = build_error(issuer().keys_pem(text.clone()));
        assert!(error.contains(named), "{text}: {error}");
    }
    let error = build_error(issuer().keys_json(sound));
    assert!(error.contains("keys_pem"), "{error}");
}

#[tokio::test]
async fn unusable_pem_key_is_skipped() {
    // A secp256k1 key and an X25519 key (in the form of RFC 8410, section 10.2).
    let unsupported = [
        "MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEeb5mfvncu6xVoGKVzocLBwKb/NstzijZ\nWfKBWxb4F5hIOtp3JqPEZV2k+/wOEQio/Re0SKaFVBmcR9CP+xDUuA==",
        "MCowBQYDK2VuAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=",
    ];
    let unsupported = unsupported
        .map(|der| format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n"));
    let signer = Signer::new();
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let text = format!(
        "{parameters}{}{}{}",
        unsupported[0],
        unsupported[1],
        pem(&signer)
    );
    let guard = guard(issuer().keys_pem(text));
    let header = json!({ "alg": "ES256", "kid": kid(&signer) }).to_string();
    let token = signer.sign(&header, &claims(json!({})));
    assert_eq!(verify(&guard, token).await, Ok(()));
    let health = guard.health().remove(0);
    assert_eq!(
        (health.usable_keys, health.skipped_keys.len()),
        (1, 3),
        "{health:?}"
    );
}

#[tokio::test]
async fn key_file_is_reloaded_after_a_kubelet_update() {
    let folder = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(folder.path()).unwrap();
    let (old, new) = (Signer::new(), Signer::new());
    kubelet.write([("jwks.json", jwks(&old))]).unwrap();
    let guard = guard(issuer().keys_file(kubelet.path("jwks.json")));
    let signed = |by: &Signer| by.sign(HEADER, &claims(json!({})));
    assert_eq!(verify(&guard, signed(&old)).await, Ok(()));
    kubelet.rotate("jwks.json", pem(&new)).unwrap();
    wait_until(async || verify(&guard, signed(&new)).await.is_ok()).await;
    assert_eq!(
        verify(&guard, signed(&old)).await,
        Err(VerifyError::InvalidToken(TokenError::BadSignature))
    );
}

#[tokio::test]
async fn invalid_key_file_keeps_the_old_keys_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let (path, signer) = (folder.path().join("jwks.json"), Signer::new());
    std::fs::write(&path, jwks(&signer)).unwrap();
    let guard = guard(issuer().keys_file(&path));
    let token = || signer.sign(HEADER, &claims(json!({})));
    assert_eq!(verify(&guard, token()).await, Ok(()));
    std::fs::write(&path, r#"{"keys":null}"#).unwrap();
    wait_until(async || {
        advance_clock(Duration::from_secs(61)).await;
        assert_eq!(verify(&guard, token()).await, Ok(()));
        guard.health()[0].last_error.is_some()
    })
    .await;
    let health = guard.health().remove(0);
    let error = health.last_error.unwrap();
    assert!(
        matches!(&*error, KeysError::File { path: named, .. } if *named == path),
        "{error}"
    );
    assert!(health.is_ready);
}

#[tokio::test]
async fn emptied_key_file_withdraws_all_keys() {
    for emptied in [r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"AA"}]}"#] {
        let folder = tempfile::tempdir().unwrap();
        let (path, signer) = (folder.path().join("jwks.json"), Signer::new());
        std::fs::write(&path, jwks(&signer)).unwrap();
        let guard = guard(issuer().keys_file(&path).unknown_key_jitter(Duration::ZERO));
        let token = || signer.sign(HEADER, &claims(json!({})));
        assert_eq!(verify(&guard, token()).await, Ok(()));
        std::fs::write(&path, emptied).unwrap();
        wait_until(async || !guard.health()[0].is_ready).await;
        let health = guard.health().remove(0);
        assert_eq!((health.is_ready, health.usable_keys), (false, 0));
        let error = health.last_error.unwrap();
        assert!(matches!(&*error, KeysError::NoUsableKey { .. }), "{error}");
        assert!(matches!(
            verify(&guard, token()).await,
            Err(VerifyError::KeysUnavailable { .. })
        ));
        std::fs::write(&path, jwks(&signer)).unwrap();
        wait_until(async || guard.health()[0].is_ready).await;
        assert_eq!(
            verify(&guard, token()).await,
            Ok(()),
            "after the keys are restored"
        );
    }
}

#[tokio::test]
async fn missing_key_file_causes_503_until_it_exists() {
    let folder = tempfile::tempdir().unwrap();
    let (path, signer) = (folder.path().join("jwks.json"), Signer::new());
    let guard = guard(issuer().keys_file(&path));
    let token = || signer.sign(HEADER, &claims(json!({})));
    assert!(matches!(
        verify(&guard, token()).await,
        Err(VerifyError::KeysUnavailable { .. })
    ));
    std::fs::write(&path, jwks(&signer)).unwrap();
    wait_until(async || {
        advance_clock(Duration::from_secs(2)).await;
        verify(&guard, token()).await.is_ok()
    })
    .await;
}
