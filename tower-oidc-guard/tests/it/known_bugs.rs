//! Bugs that other libraries had, and that this one must not have.

use std::time::Duration;

use serde_json::{Value, json};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, JwkSet, OidcGuard, TokenError, VerifyError};

use crate::support::signer::{Signer, base64url, jwk_set};
use crate::support::{
    AUDIENCE, HEADER, ISSUER_URL, NOW, advance_clock, claims, guard, guard_with_keys,
    trusted_issuer, valid_token,
};

async fn verify(keys: &[Value], token: &str) -> Result<(), VerifyError> {
    guard_with_keys(keys)
        .verifier()
        .verify(token)
        .await
        .map(drop)
}

/// jsonwebtoken 11 ignores `crit`.
#[tokio::test]
async fn jsonwebtoken_crit_is_rejected() {
    let signer = Signer::new();
    for crit in ["[]", r#"["exp"]"#, r#"["b64"]"#] {
        let header = format!(r#"{{"alg":"ES256","kid":"k","crit":{crit}}}"#);
        let token = signer.sign(&header, &claims(json!({})));
        let expected = Err(VerifyError::InvalidToken(TokenError::Malformed(
            "the header",
        )));
        assert_eq!(verify(&[signer.jwk()], &token).await, expected, "{crit}");
    }
}

/// CVE-2026-25537: times of a wrong type are treated as absent.
#[tokio::test]
async fn cve_2026_25537_times_of_wrong_type_are_rejected() {
    let signer = Signer::new();
    for (name, reason) in [
        ("exp", "the claim `exp` is not a time in seconds"),
        ("nbf", "the claim `nbf` is not a time in seconds"),
        ("iat", "the claim `iat` is not a time in seconds"),
    ] {
        for value in [json!("1"), json!([1]), json!({}), json!(true), json!(-1)] {
            let token = signer.sign(HEADER, &claims(json!({ name: value })));
            let expected = Err(VerifyError::InvalidToken(TokenError::Malformed(reason)));
            assert_eq!(
                verify(&[signer.jwk()], &token).await,
                expected,
                "{name} {value}"
            );
        }
    }
}

/// Several libraries accept an `iss` array if one element matches.
#[tokio::test]
async fn array_of_issuers_is_rejected() {
    let signer = Signer::new();
    let iss = json!([ISSUER_URL, "https://evil.example"]);
    let token = signer.sign(HEADER, &claims(json!({ "iss": iss })));
    assert_eq!(
        verify(&[signer.jwk()], &token).await,
        Err(VerifyError::InvalidToken(TokenError::Malformed(
            "the claim `iss` is not a string"
        )))
    );
}

/// tower-oauth2-resource-server verifies with a key that is marked for encryption.
#[test]
fn tower_oauth2_resource_server_key_marked_enc_is_not_used() {
    let signer = Signer::new();
    let jws = signer.sign(HEADER, "anything");
    let key_with = |name: &str, value: Value| {
        let mut key = signer.jwk();
        key[name] = value;
        jwk_set(&[key])
    };
    assert!(jwk_set(&[signer.jwk()]).verify_jws(&jws).is_ok());
    assert!(key_with("use", json!("sig")).verify_jws(&jws).is_ok());
    assert!(
        key_with("key_ops", json!(["verify"]))
            .verify_jws(&jws)
            .is_ok()
    );
    for (name, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["encrypt"])),
        ("use", json!(1)),
    ] {
        assert!(key_with(name, value).verify_jws(&jws).is_err(), "{name}");
    }
}

/// go-jose #276, joserfc #104, jwkset #60, jsonwebtoken 9 and 10: one ML-DSA key makes the whole set unusable.
#[tokio::test]
async fn go_jose_276_unsupported_keys_do_not_affect_the_others() {
    let signer = Signer::new();
    let mut keys = vec![
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed448", "kid": "ed448", "x": "AAAA" }),
        json!({ "kty": "EC", "crv": "secp256k1", "kid": "bitcoin", "x": "AA", "y": "AA" }),
        json!({ "kty": "RSA", "kid": "no-n", "e": "AQAB" }),
        json!({ "kty": 7 }),
        json!({}),
    ];
    keys.push(signer.jwk());
    let token = signer.sign(HEADER, &claims(json!({})));
    assert_eq!(verify(&keys, &token).await, Ok(()));
    assert_eq!(jwk_set(&keys).skipped_keys().len(), keys.len() - 1);
}

/// openidconnect 4.1 never checks `nbf`.
#[tokio::test]
async fn openidconnect_nbf_is_checked() {
    let signer = Signer::new();
    let token = signer.sign(HEADER, &claims(json!({ "nbf": NOW + 60 })));
    assert_eq!(
        verify(&[signer.jwk()], &token).await,
        Err(VerifyError::InvalidToken(TokenError::NotYetValid))
    );
}

/// openidconnect 4.1 rejects a token whose `locale`, or any other claim that it knows, has an unexpected type.
#[tokio::test]
async fn openidconnect_unused_claims_may_have_any_type() {
    let signer = Signer::new();
    let token = signer.sign(
        HEADER,
        &claims(json!({ "locale": 7, "email": [], "address": "x" })),
    );
    assert_eq!(verify(&[signer.jwk()], &token).await, Ok(()));
}

/// The built-in keys of openidconnect 4.1 accept RSA moduli of 512 bits.
#[test]
fn openidconnect_rsa_512_key_is_skipped() {
    let n = base64url(&[&[0xff], &[0x01; 63][..]].concat());
    let set = json!({ "keys": [{ "kty": "RSA", "n": n, "e": "AQAB" }] }).to_string();
    let set = JwkSet::from_json(set, [Algorithm::RS256]).unwrap();
    assert_eq!(set.skipped_keys().len(), 1);
}

/// Libraries without a size limit decode tokens of any length.
#[tokio::test]
async fn tokens_over_the_size_limit_are_not_decoded() {
    let signer = Signer::new();
    let token = signer.sign(HEADER, &claims(json!({ "pad": "x".repeat(20_000) })));
    assert_eq!(
        verify(&[signer.jwk()], &token).await,
        Err(VerifyError::InvalidToken(TokenError::TooLong))
    );
}

/// Some parsers use the first of two claims with the same name, others the last.
#[tokio::test]
async fn duplicate_claims_are_rejected() {
    let signer = Signer::new();
    let twice = claims(json!({})).replacen('{', r#"{"sub":"somebody else","#, 1);
    let token = signer.sign(HEADER, &twice);
    assert_eq!(
        verify(&[signer.jwk()], &token).await,
        Err(VerifyError::InvalidToken(TokenError::Malformed(
            "the claims"
        )))
    );
}

/// Libraries with several issuers that try the keys of all issuers.
#[tokio::test]
async fn token_of_one_issuer_does_not_verify_with_the_key_of_another() {
    let (one, two) = (
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    );
    let guard = OidcGuard::builder()
        .issuer(trusted_issuer(one.url()))
        .issuer(trusted_issuer(two.url()))
        .any_verified_caller()
        .build()
        .unwrap();
    assert!(guard.verifier().verify(valid_token(&one)).await.is_ok());
    assert!(guard.verifier().verify(valid_token(&two)).await.is_ok());
    let posing = two
        .token()
        .audience(AUDIENCE)
        .claim("iss", one.url())
        .mint();
    assert!(guard.verifier().verify(posing).await.is_err());
}

/// aws-jwt-verify: an unknown `kid` delays a real rotation.
#[tokio::test]
async fn aws_jwt_verify_unknown_kids_do_not_block_a_key_rotation() {
    let (issuer, forger) = (
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    );
    let guard = guard(issuer.url());
    guard.ready().await.unwrap();
    let forged = forger.token().audience(AUDIENCE).claim("iss", issuer.url());
    issuer.rotate_key().unwrap();
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..50 {
        let forged = forged.clone().header("kid", number.to_string()).mint();
        let verifier = guard.verifier().clone();
        flood.spawn(async move { verifier.verify(forged).await.is_err() });
    }
    // The unknown kids cause the fetch that loads the new key.
    assert!(flood.join_all().await.into_iter().all(|refused| refused));
    assert!(guard.verifier().verify(valid_token(&issuer)).await.is_ok());
    assert!(issuer.key_fetches() <= 2);
}

/// spring-security #19068, jwt-authorizer: requests with known keys wait for a fetch.
#[tokio::test]
async fn spring_security_19068_requests_with_known_keys_do_not_wait_for_a_fetch() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let known = issuer
        .token()
        .audience(AUDIENCE)
        .lifetime(Duration::from_secs(86_400))
        .mint();
    guard.verifier().verify(&known).await.unwrap();
    // The issuer is unreachable from before the refresh until hours after it.
    drop(issuer);
    for _ in 0..20 {
        advance_clock(Duration::from_secs(3600)).await;
        let mut result = std::pin::pin!(guard.verifier().verify(&known));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let at_once = result.as_mut().poll(&mut context);
        assert!(
            matches!(at_once, std::task::Poll::Ready(Ok(_))),
            "verified without waiting"
        );
    }
}
