//! Keys that are given, or lie in a file.
#![cfg(unix)]

use crate::support::forge::Forge;
use crate::support::{FORGED_ISSUER, HEADER, answering, claims, guard_by, later};
use reqwest_wi_auth::testing::Kubelet;
use serde_json::json;
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
    crate::support::forge::encode(digest(&SHA256, &der).as_ref())
}

fn issuer() -> Issuer {
    Issuer::oidc(FORGED_ISSUER).algorithms([Algorithm::ES256])
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
}

/// A certificate of a key, issued by somebody else.
fn certificate(forge: &Forge) -> String {
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
    let certificate = params().signed_by(&Key(forge.point()), &authority);
    certificate.unwrap().pem()
}

#[tokio::test]
async fn the_key_of_a_certificate_is_used_like_a_public_key() {
    let (one, two) = (Forge::new(), Forge::new());
    // Text before and between the blocks is allowed.
    let alone = format!("Certificate:\n    Data:\n{}", certificate(&one));
    let guard_one = guard(issuer().keys_pem(alone));
    let token = |forge: &Forge, kid: &str| {
        let header = json!({ "alg": "ES256", "kid": kid }).to_string();
        forge.sign(&header, &claims(json!({})))
    };
    assert_eq!(verdict(&guard_one, token(&one, "any")).await, Ok(()));
    let both = format!("{}# the next one\n{}", certificate(&one), pem(&two));
    let guard = guard(issuer().keys_pem(both));
    for forge in [&one, &two] {
        assert_eq!(verdict(&guard, token(forge, &kid(forge))).await, Ok(()));
    }
    assert_eq!(guard.health()[0].usable_keys, 2);
}

#[tokio::test]
async fn a_key_that_stands_twice_in_pem_is_one_key() {
    let forge = Forge::new();
    for text in [
        format!("{0}{0}", pem(&forge)),
        format!("{}{}", pem(&forge), certificate(&forge)),
    ] {
        let guard = guard(issuer().keys_pem(text));
        let token = forge.sign(HEADER, &claims(json!({})));
        assert_eq!(verdict(&guard, token).await, Ok(()), "for any kid");
        assert_eq!(guard.health()[0].usable_keys, 1);
    }
}

#[test]
fn what_is_not_public_keys_in_pem_is_refused_and_named() {
    let sound = pem(&Forge::new());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    let fault = |issuer: Issuer| {
        let builder = OidcGuard::builder().issuer(issuer.audience("me"));
        let error = builder.any_verified_caller().build().unwrap_err();
        error.to_string()
    };
    let json = jwks(&Forge::new());
    for (text, named) in [
        (String::new(), "not PEM"),
        ("hello".to_owned(), "not PEM"),
        ("ssh-ed25519 AAAA me@example".to_owned(), "not PEM"),
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
        let told = fault(issuer().keys_pem(text.clone()));
        assert!(told.contains(named), "{text}: {told}");
    }
    let told = fault(issuer().keys_json(sound));
    assert!(told.contains("keys_pem"), "{told}");
}

#[tokio::test]
async fn a_key_in_pem_that_cannot_be_used_does_not_spoil_the_others() {
    // secp256k1, and X25519 (RFC 8410, section 10.2 has its form).
    let odd = [
        "MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEeb5mfvncu6xVoGKVzocLBwKb/NstzijZ\nWfKBWxb4F5hIOtp3JqPEZV2k+/wOEQio/Re0SKaFVBmcR9CP+xDUuA==",
        "MCowBQYDK2VuAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=",
    ];
    let odd =
        odd.map(|der| format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n"));
    let forge = Forge::new();
    let parameters =
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
    let text = format!("{parameters}{}{}{}", odd[0], odd[1], pem(&forge));
    let guard = guard(issuer().keys_pem(text));
    let header = json!({ "alg": "ES256", "kid": kid(&forge) }).to_string();
    let token = forge.sign(&header, &claims(json!({})));
    assert_eq!(verdict(&guard, token).await, Ok(()));
    let health = guard.health().remove(0);
    assert_eq!(
        (health.usable_keys, health.passed_over.len()),
        (1, 3),
        "{health:?}"
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
