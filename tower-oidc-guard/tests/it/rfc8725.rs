//! JSON Web Token Best Current Practices (RFC 8725), section 3, paragraph by paragraph.

use crate::support::forge::{Forge, encode};
use crate::support::{HEADER, claims, guard_of};
use serde_json::{Value, json};
use tower_oidc_guard::{Algorithm, JwkSet, Rejection};

/// What a guard of the forge's key says to a token.
async fn verdict(forge: &Forge, token: &str) -> Result<(), Rejection> {
    guard_of(&[forge.jwk()])
        .verifier()
        .verify(token)
        .await
        .map(drop)
}

#[tokio::test]
async fn section_3_1_the_algorithm_is_one_that_is_allowed_and_that_fits_the_key() {
    let forge = Forge::new();
    let good = forge.sign(HEADER, &claims(json!({})));
    assert_eq!(verdict(&forge, &good).await, Ok(()));
    for (alg, expected) in [
        ("none", Rejection::UnsupportedAlgorithm),
        ("HS256", Rejection::UnsupportedAlgorithm),
        ("ES512", Rejection::AlgorithmNotAllowed),
        ("RS256", Rejection::UnknownKey),
    ] {
        let header = format!(r#"{{"alg":"{alg}","kid":"k"}}"#);
        let token = forge.sign(&header, &claims(json!({})));
        assert_eq!(verdict(&forge, &token).await, Err(expected), "{alg}");
    }
}

#[test]
fn section_3_2_weak_and_unsigned_algorithms_do_not_exist() {
    for name in [
        "none",
        "NONE",
        "HS256",
        "RS1",
        "RSA1_5",
        "ES256K",
        "Ed448",
        "ML-DSA-44",
        "",
    ] {
        assert!(Algorithm::from_name(name).is_none(), "{name}");
    }
}

#[tokio::test]
async fn section_3_3_one_signature_that_does_not_verify_refuses_the_whole_token() {
    let forge = Forge::new();
    let token = Forge::new().sign(HEADER, &claims(json!({})));
    assert_eq!(verdict(&forge, &token).await, Err(Rejection::BadSignature));
    let nested = forge.sign(r#"{"alg":"ES256","kid":"k","cty":"JWT"}"#, &token);
    assert!(
        verdict(&forge, &nested).await.is_err(),
        "what is nested is no claims set"
    );
}

#[test]
fn section_3_4_a_point_that_is_not_on_its_curve_is_no_key() {
    let good = Forge::new().jwk();
    let mut bad = good.clone();
    bad["y"] = bad["x"].clone();
    let set = json!({ "keys": [bad] }).to_string();
    let set = JwkSet::from_json(set, [Algorithm::ES256]).unwrap();
    assert_eq!(set.passed_over().count(), 1);
}

#[test]
fn section_3_5_keys_that_can_be_guessed_are_no_keys() {
    // A modulus of 1024 bits, one with an exponent of 1, and a symmetric key made of a password.
    let modulus = |bytes: usize| encode(&[&[0xff], &vec![0x01; bytes - 1][..]].concat());
    let keys = json!({ "keys": [
        { "kty": "RSA", "n": modulus(128), "e": "AQAB" },
        { "kty": "RSA", "n": modulus(256), "e": "AQ" },
        { "kty": "oct", "k": "cGFzc3dvcmQ" },
    ]});
    let set = JwkSet::from_json(keys.to_string(), [Algorithm::RS256]).unwrap();
    assert_eq!(set.passed_over().count(), 3);
}

#[tokio::test]
async fn section_3_6_compressed_and_encrypted_tokens_are_not_read() {
    let forge = Forge::new();
    let header = r#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF","kid":"k"}"#;
    let jwe = format!("{}.AA.AA.AA.AA", encode(header.as_bytes()));
    assert_eq!(
        verdict(&forge, &jwe).await,
        Err(Rejection::Malformed("not three parts"))
    );
}

#[tokio::test]
async fn section_3_7_header_and_claims_are_utf_8() {
    let forge = Forge::new();
    let latin = claims(json!({})).replace("caller", "caf\u{e9}");
    assert_eq!(
        verdict(&forge, &forge.sign(HEADER, &latin)).await,
        Ok(()),
        "in UTF-8"
    );
    let mut bytes = claims(json!({})).into_bytes();
    let at = bytes
        .windows(6)
        .position(|window| window == b"caller")
        .unwrap();
    bytes[at] = 0xe9;
    let token = forge.sign_bytes(HEADER, &bytes);
    assert_eq!(
        verdict(&forge, &token).await,
        Err(Rejection::Malformed("the claims"))
    );
}

#[tokio::test]
async fn section_3_8_the_issuer_is_one_that_is_trusted_and_the_key_is_its_own() {
    let forge = Forge::new();
    for iss in [
        "https://issuer.example/",
        "https://ISSUER.example",
        "https://evil.example",
        "",
    ] {
        let token = forge.sign(HEADER, &claims(json!({ "iss": iss })));
        assert_eq!(
            verdict(&forge, &token).await,
            Err(Rejection::UnknownIssuer),
            "{iss}"
        );
    }
    for (name, reason) in [
        ("iss", "the claim `iss` is missing"),
        ("sub", "the claim `sub` is missing"),
    ] {
        let token = forge.sign(HEADER, &claims(json!({ name: Value::Null })));
        assert_eq!(
            verdict(&forge, &token).await,
            Err(Rejection::Malformed(reason))
        );
    }
}

#[tokio::test]
async fn section_3_9_the_audience_is_one_of_this_service() {
    let forge = Forge::new();
    for aud in [
        json!("https://other.example"),
        json!([]),
        json!(["a", "b"]),
        Value::Null,
    ] {
        let token = forge.sign(HEADER, &claims(json!({ "aud": aud })));
        assert_eq!(
            verdict(&forge, &token).await,
            Err(Rejection::WrongAudience),
            "{aud}"
        );
    }
    let several = claims(json!({ "aud": ["https://other.example", crate::support::AUDIENCE] }));
    assert_eq!(verdict(&forge, &forge.sign(HEADER, &several)).await, Ok(()));
}

#[tokio::test]
async fn section_3_10_a_token_does_not_say_where_its_key_is() {
    let (forge, attacker) = (Forge::new(), Forge::new());
    let header = |kid: &str| {
        json!({
            "alg": "ES256",
            "kid": kid,
            "jku": "https://evil.example/jwks",
            "x5u": "https://evil.example/certificate",
            "jwk": attacker.jwk(),
            "x5c": ["MIIB"],
        })
        .to_string()
    };
    let token = attacker.sign(&header("k"), &claims(json!({})));
    assert_eq!(verdict(&forge, &token).await, Err(Rejection::BadSignature));
    for kid in [
        "../../etc/passwd",
        "' OR 1=1 --",
        "https://evil.example",
        "\u{0}",
        "",
    ] {
        let token = attacker.sign(&header(kid), &claims(json!({})));
        assert!(verdict(&forge, &token).await.is_err(), "{kid:?}");
    }
    // Where nothing is believed, nothing is in the way of a sound token either.
    assert_eq!(
        verdict(&forge, &forge.sign(&header("k"), &claims(json!({})))).await,
        Ok(())
    );
}

#[tokio::test]
async fn section_3_11_a_token_of_another_type_is_refused() {
    let forge = Forge::new();
    for (typ, expected) in [
        ("JWT", Ok(())),
        ("jwt", Ok(())),
        ("dpop+jwt", Err(Rejection::WrongType)),
        ("logout+jwt", Err(Rejection::WrongType)),
        ("secevent+jwt", Err(Rejection::WrongType)),
    ] {
        let header = json!({ "alg": "ES256", "kid": "k", "typ": typ }).to_string();
        let token = forge.sign(&header, &claims(json!({})));
        assert_eq!(verdict(&forge, &token).await, expected, "{typ}");
    }
}

#[tokio::test]
async fn section_3_12_a_token_made_for_another_use_is_refused_by_one_rule_or_another() {
    let forge = Forge::new();
    let other_uses = [
        // A logout token and an event have no expiry; a request object has another audience.
        claims(json!({ "exp": Value::Null, "events": {} })),
        claims(json!({ "aud": "https://issuer.example" })),
    ];
    for claims in other_uses {
        assert!(
            verdict(&forge, &forge.sign(HEADER, &claims)).await.is_err(),
            "{claims}"
        );
    }
}
