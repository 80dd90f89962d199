//! Mistakes that others made, each with its name.

use std::time::Duration;

use crate::support::forge::{Forge, encode};
use crate::support::{AUDIENCE, HEADER, claims, guard, guard_of, later, token};
use serde_json::{Value, json};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Algorithm, JwkSet, OidcGuard, Rejection};

async fn verdict(keys: &[Value], token: &str) -> Result<(), Rejection> {
    guard_of(keys).verifier().verify(token).await.map(drop)
}

/// jsonwebtoken 11 takes any `crit`.
#[tokio::test]
async fn jsonwebtoken_takes_crit() {
    let forge = Forge::new();
    for crit in ["[]", r#"["exp"]"#, r#"["b64"]"#] {
        let header = format!(r#"{{"alg":"ES256","kid":"k","crit":{crit}}}"#);
        let token = forge.sign(&header, &claims(json!({})));
        let expected = Err(Rejection::Malformed("the header"));
        assert_eq!(verdict(&[forge.jwk()], &token).await, expected, "{crit}");
    }
}

/// CVE-2026-25537: times of a wrong type were treated as absent.
#[tokio::test]
async fn cve_2026_25537_times_of_a_wrong_type_are_taken_for_absent() {
    let forge = Forge::new();
    for (name, reason) in [
        ("exp", "the claim `exp` is not a time in seconds"),
        ("nbf", "the claim `nbf` is not a time in seconds"),
        ("iat", "the claim `iat` is not a time in seconds"),
    ] {
        for value in [json!("1"), json!([1]), json!({}), json!(true), json!(-1)] {
            let token = forge.sign(HEADER, &claims(json!({ name: value })));
            let expected = Err(Rejection::Malformed(reason));
            assert_eq!(
                verdict(&[forge.jwk()], &token).await,
                expected,
                "{name} {value}"
            );
        }
    }
}

/// Several libraries take `iss` as an array of which one fits.
#[tokio::test]
async fn an_array_of_issuers_is_taken() {
    let forge = Forge::new();
    let iss = json!([crate::support::FORGED_ISSUER, "https://evil.example"]);
    let token = forge.sign(HEADER, &claims(json!({ "iss": iss })));
    assert_eq!(
        verdict(&[forge.jwk()], &token).await,
        Err(Rejection::Malformed("the claim `iss` is not a string"))
    );
}

/// tower-oauth2-resource-server takes a key that is marked for encryption.
#[test]
fn tower_oauth2_resource_server_takes_a_key_marked_enc() {
    let forge = Forge::new();
    let jws = forge.sign(HEADER, "anything");
    let marked = |name: &str, value: Value| {
        let mut key = forge.jwk();
        key[name] = value;
        Forge::set(&[key])
    };
    assert!(Forge::set(&[forge.jwk()]).verify_jws(&jws).is_ok());
    assert!(marked("use", json!("sig")).verify_jws(&jws).is_ok());
    assert!(
        marked("key_ops", json!(["verify"]))
            .verify_jws(&jws)
            .is_ok()
    );
    for (name, value) in [
        ("use", json!("enc")),
        ("key_ops", json!(["encrypt"])),
        ("use", json!(1)),
    ] {
        assert!(marked(name, value).verify_jws(&jws).is_err(), "{name}");
    }
}

/// go-jose #276, joserfc #104, jwkset #60, jsonwebtoken 9 and 10: one ML-DSA key spoils a whole set.
#[tokio::test]
async fn go_jose_276_one_odd_key_spoils_the_set() {
    let forge = Forge::new();
    let mut keys = vec![
        json!({ "kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AAAA" }),
        json!({ "kty": "OKP", "crv": "Ed448", "kid": "ed448", "x": "AAAA" }),
        json!({ "kty": "EC", "crv": "secp256k1", "kid": "bitcoin", "x": "AA", "y": "AA" }),
        json!({ "kty": "RSA", "kid": "no-n", "e": "AQAB" }),
        json!({ "kty": 7 }),
        json!({}),
    ];
    keys.push(forge.jwk());
    let token = forge.sign(HEADER, &claims(json!({})));
    assert_eq!(verdict(&keys, &token).await, Ok(()));
    assert_eq!(Forge::set(&keys).passed_over().count(), keys.len() - 1);
}

/// openidconnect 4.1 never checks `nbf`.
#[tokio::test]
async fn openidconnect_does_not_check_nbf() {
    let forge = Forge::new();
    let token = forge.sign(HEADER, &claims(json!({ "nbf": crate::support::NOW + 60 })));
    assert_eq!(
        verdict(&[forge.jwk()], &token).await,
        Err(Rejection::NotYetValid)
    );
}

/// openidconnect 4.1 refuses a token for its `locale`, or any claim of a type that it does not expect.
#[tokio::test]
async fn openidconnect_refuses_a_token_for_a_claim_that_nobody_needs() {
    let forge = Forge::new();
    let token = forge.sign(
        HEADER,
        &claims(json!({ "locale": 7, "email": [], "address": "x" })),
    );
    assert_eq!(verdict(&[forge.jwk()], &token).await, Ok(()));
}

/// openidconnect's built-in keys take RSA-512.
#[test]
fn openidconnect_takes_rsa_512() {
    let n = encode(&[&[0xff], &[0x01; 63][..]].concat());
    let set = json!({ "keys": [{ "kty": "RSA", "n": n, "e": "AQAB" }] }).to_string();
    let set = JwkSet::from_json(set, [Algorithm::RS256]).unwrap();
    assert_eq!(set.passed_over().count(), 1);
}

/// Libraries without a limit decode whatever comes.
#[tokio::test]
async fn a_token_of_any_size_is_decoded() {
    let forge = Forge::new();
    let token = forge.sign(HEADER, &claims(json!({ "pad": "x".repeat(20_000) })));
    assert_eq!(
        verdict(&[forge.jwk()], &token).await,
        Err(Rejection::TooLong)
    );
}

/// Parsers that keep the last of two members, where others keep the first.
#[tokio::test]
async fn of_two_members_of_one_name_the_last_counts() {
    let forge = Forge::new();
    let twice = claims(json!({})).replacen('{', r#"{"sub":"somebody else","#, 1);
    let token = forge.sign(HEADER, &twice);
    assert_eq!(
        verdict(&[forge.jwk()], &token).await,
        Err(Rejection::Malformed("the claims"))
    );
}

/// Guards with several issuers that try all keys on all tokens.
#[tokio::test]
async fn one_issuer_s_token_verifies_with_another_issuer_s_key() {
    let (one, two) = (
        TestIssuer::start().await.unwrap(),
        TestIssuer::start().await.unwrap(),
    );
    let guard = OidcGuard::builder()
        .issuer(crate::support::trusted(one.url()))
        .issuer(crate::support::trusted(two.url()))
        .any_verified_caller()
        .build()
        .unwrap();
    assert!(guard.verifier().verify(token(&one)).await.is_ok());
    assert!(guard.verifier().verify(token(&two)).await.is_ok());
    let posing = two
        .token()
        .audience(AUDIENCE)
        .claim("iss", one.url())
        .mint();
    assert!(guard.verifier().verify(posing).await.is_err());
}

/// aws-jwt-verify: a made-up kid shuts the real rotation out for a while.
#[tokio::test]
async fn aws_jwt_verify_a_hostile_kid_keeps_a_real_rotation_out() {
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
    // The flood takes the fetch that is due, and brings the new key along.
    assert!(flood.join_all().await.into_iter().all(|refused| refused));
    assert!(guard.verifier().verify(token(&issuer)).await.is_ok());
    assert!(issuer.key_fetches() <= 2);
}

/// spring-security #19068, jwt-authorizer: requests whose key is known wait for a fetch.
#[tokio::test]
async fn spring_security_19068_known_keys_wait_for_a_fetch() {
    let issuer = TestIssuer::start().await.unwrap();
    let guard = guard(issuer.url());
    let known = issuer
        .token()
        .audience(AUDIENCE)
        .lifetime(Duration::from_secs(86_400))
        .mint();
    guard.verifier().verify(&known).await.unwrap();
    // The issuer is gone when the refresh comes, and for hours after it.
    drop(issuer);
    for _ in 0..20 {
        later(Duration::from_secs(3600)).await;
        let mut verdict = std::pin::pin!(guard.verifier().verify(&known));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let at_once = verdict.as_mut().poll(&mut context);
        assert!(
            matches!(at_once, std::task::Poll::Ready(Ok(_))),
            "at once, or not at all"
        );
    }
}
