//! JSON Web Token Best Current Practices (RFC 8725), section 3: one test for each paragraph.

use serde_json::{Value, json};
use tower_oidc_guard::{Algorithm, JwkSet, TokenError, VerifyError};

use crate::support::signer::{Signer, base64url};
use crate::support::{AUDIENCE, HEADER, claims, guard_with_keys};

/// Verifies a token with the signer's key.
async fn verify(signer: &Signer, token: &str) -> Result<(), VerifyError> {
    guard_with_keys(&[signer.jwk()])
        .verifier()
        .verify(token)
        .await
        .map(drop)
}

#[tokio::test]
async fn section_3_1_algorithm_must_be_allowed_and_match_the_key() {
    let signer = Signer::new();
    let good = signer.sign(HEADER, &claims(json!({})));
    assert_eq!(verify(&signer, &good).await, Ok(()));
    for (alg, expected) in [
        (
            "none",
            VerifyError::InvalidToken(TokenError::UnsupportedAlgorithm),
        ),
        (
            "HS256",
            VerifyError::InvalidToken(TokenError::UnsupportedAlgorithm),
        ),
        (
            "ES512",
            VerifyError::InvalidToken(TokenError::AlgorithmNotAllowed),
        ),
        ("RS256", VerifyError::InvalidToken(TokenError::UnknownKey)),
    ] {
        let header = format!(r#"{{"alg":"{alg}","kid":"k"}}"#);
        let token = signer.sign(&header, &claims(json!({})));
        assert_eq!(verify(&signer, &token).await, Err(expected), "{alg}");
    }
}

#[test]
fn section_3_2_weak_and_unsigned_algorithms_are_unknown() {
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
async fn section_3_3_invalid_signature_rejects_the_token() {
    let signer = Signer::new();
    let token = Signer::new().sign(HEADER, &claims(json!({})));
    assert_eq!(
        verify(&signer, &token).await,
        Err(VerifyError::InvalidToken(TokenError::BadSignature))
    );
    let nested = signer.sign(r#"{"alg":"ES256","kid":"k","cty":"JWT"}"#, &token);
    assert!(
        verify(&signer, &nested).await.is_err(),
        "a nested token is not a claims set"
    );
}

#[test]
fn section_3_4_point_off_its_curve_is_not_a_key() {
    let good = Signer::new().jwk();
    let mut bad = good.clone();
    bad["y"] = bad["x"].clone();
    let set = json!({ "keys": [bad] }).to_string();
    let set = JwkSet::from_json(set, [Algorithm::ES256]).unwrap();
    assert_eq!(set.skipped_keys().len(), 1);
}

#[test]
fn section_3_5_weak_keys_are_skipped() {
    // An RSA key of 1024 bits, an RSA key with the exponent 1, and a symmetric key derived from a password.
    let modulus = |bytes: usize| base64url(&[&[0xff], &vec![0x01; bytes - 1][..]].concat());
    let keys = json!({ "keys": [
        { "kty": "RSA", "n": modulus(128), "e": "AQAB" },
        { "kty": "RSA", "n": modulus(256), "e": "AQ" },
        { "kty": "oct", "k": "cGFzc3dvcmQ" },
    ]});
    let set = JwkSet::from_json(keys.to_string(), [Algorithm::RS256]).unwrap();
    assert_eq!(set.skipped_keys().len(), 3);
}

#[tokio::test]
async fn section_3_6_compressed_and_encrypted_tokens_are_rejected() {
    let signer = Signer::new();
    let header = r#"{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF","kid":"k"}"#;
    let jwe = format!("{}.AA.AA.AA.AA", base64url(header.as_bytes()));
    assert_eq!(
        verify(&signer, &jwe).await,
        Err(VerifyError::InvalidToken(TokenError::Malformed(
            "not three parts"
        )))
    );
}

#[tokio::test]
async fn section_3_7_header_and_claims_must_be_utf_8() {
    let signer = Signer::new();
    let latin = claims(json!({})).replace("caller", "caf\u{e9}");
    assert_eq!(
        verify(&signer, &signer.sign(HEADER, &latin)).await,
        Ok(()),
        "in UTF-8"
    );
    let mut bytes = claims(json!({})).into_bytes();
    let at = bytes
        .windows(6)
        .position(|window| window == b"caller")
        .unwrap();
    bytes[at] = 0xe9;
    let token = signer.sign_bytes(HEADER.as_bytes(), &bytes);
    assert_eq!(
        verify(&signer, &token).await,
        Err(VerifyError::InvalidToken(TokenError::Malformed(
            "the claims"
        )))
    );
}

#[tokio::test]
async fn section_3_8_issuer_must_be_trusted_and_own_the_key() {
    let signer = Signer::new();
    for iss in [
        "https://issuer.example/",
        "https://ISSUER.example",
        "https://evil.example",
        "",
    ] {
        let token = signer.sign(HEADER, &claims(json!({ "iss": iss })));
        assert_eq!(
            verify(&signer, &token).await,
            Err(VerifyError::InvalidToken(TokenError::UnknownIssuer)),
            "{iss}"
        );
    }
    for (name, reason) in [
        ("iss", "the claim `iss` is missing"),
        ("sub", "the claim `sub` is missing"),
    ] {
        let token = signer.sign(HEADER, &claims(json!({ name: Value::Null })));
        assert_eq!(
            verify(&signer, &token).await,
            Err(VerifyError::InvalidToken(TokenError::Malformed(reason)))
        );
    }
}

#[tokio::test]
async fn section_3_9_audience_must_be_accepted() {
    let signer = Signer::new();
    for aud in [
        json!("https://other.example"),
        json!([]),
        json!(["a", "b"]),
        Value::Null,
    ] {
        let token = signer.sign(HEADER, &claims(json!({ "aud": aud })));
        assert_eq!(
            verify(&signer, &token).await,
            Err(VerifyError::InvalidToken(TokenError::WrongAudience)),
            "{aud}"
        );
    }
    let several = claims(json!({ "aud": ["https://other.example", AUDIENCE] }));
    assert_eq!(
        verify(&signer, &signer.sign(HEADER, &several)).await,
        Ok(())
    );
}

#[tokio::test]
async fn section_3_10_key_locations_in_the_token_are_ignored() {
    let (signer, attacker) = (Signer::new(), Signer::new());
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
    assert_eq!(
        verify(&signer, &token).await,
        Err(VerifyError::InvalidToken(TokenError::BadSignature))
    );
    for kid in [
        "../../etc/passwd",
        "' OR 1=1 --",
        "https://evil.example",
        "\u{0}",
        "",
    ] {
        let token = attacker.sign(&header(kid), &claims(json!({})));
        assert!(verify(&signer, &token).await.is_err(), "{kid:?}");
    }
    // The ignored members do not make a valid token invalid.
    assert_eq!(
        verify(&signer, &signer.sign(&header("k"), &claims(json!({})))).await,
        Ok(())
    );
}

#[tokio::test]
async fn section_3_11_token_of_another_type_is_rejected() {
    let signer = Signer::new();
    for (typ, expected) in [
        ("JWT", Ok(())),
        ("jwt", Ok(())),
        (
            "dpop+jwt",
            Err(VerifyError::InvalidToken(TokenError::WrongType)),
        ),
        (
            "logout+jwt",
            Err(VerifyError::InvalidToken(TokenError::WrongType)),
        ),
        (
            "secevent+jwt",
            Err(VerifyError::InvalidToken(TokenError::WrongType)),
        ),
    ] {
        let header = json!({ "alg": "ES256", "kid": "k", "typ": typ }).to_string();
        let token = signer.sign(&header, &claims(json!({})));
        assert_eq!(verify(&signer, &token).await, expected, "{typ}");
    }
}

#[tokio::test]
async fn section_3_12_token_for_another_use_is_rejected() {
    let signer = Signer::new();
    let other_uses = [
        // Logout tokens and security event tokens have no expiry; a request object has another audience.
        claims(json!({ "exp": Value::Null, "events": {} })),
        claims(json!({ "aud": "https://issuer.example" })),
    ];
    for claims in other_uses {
        assert!(
            verify(&signer, &signer.sign(HEADER, &claims))
                .await
                .is_err(),
            "{claims}"
        );
    }
}
