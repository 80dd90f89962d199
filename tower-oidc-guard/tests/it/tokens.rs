//! Which tokens are accepted and rejected because of their content: size, JSON, numbers, claims.
//!
//! `.ci/run` runs these tests a second time with the optional features of `serde_json` that other crates of a build may
//! enable, since the result must not depend on them.

use serde_json::{Map, Value, json};
use tower_oidc_guard::{
    BuildError, Identity, Issuer, OidcGuard, OtherScheme, Policy, Rejection, TokenError,
    VerifyError,
};

use crate::support::mock_client::document_client;
use crate::support::signer::{Signer, base64url, jwk_set};
use crate::support::{
    AUDIENCE, HEADER, ISSUER_URL, claims, guard_builder_with_keys, guard_with_client,
    guard_with_keys, issuer_settings, unix_time,
};

const LIMIT: usize = 16 * 1024;

/// Returns valid claims with these additional members.
fn claims_with(members: &str) -> String {
    let valid = claims(json!({}));
    format!("{},{members}}}", valid.strip_suffix('}').unwrap())
}

/// Signs a token with these members, padded to the size limit or at most two bytes less.
fn padded_token(signer: &Signer, header: &str, members: &str, limit: usize) -> String {
    let unfilled = signer.sign(header, &claims_with(&format!(r#"{members},"pad":"""#)));
    let room = limit
        .checked_sub(unfilled.len())
        .expect("members within the limit");
    let pad = "x".repeat(room * 3 / 4);
    let token = signer.sign(header, &claims_with(&format!(r#"{members},"pad":"{pad}""#)));
    assert!(
        (limit - 2..=limit).contains(&token.len()),
        "{}",
        token.len()
    );
    token
}

async fn verify(guard: &OidcGuard, token: &str) -> Result<Identity, VerifyError> {
    guard.verifier().verify(token).await
}

/// Returns long and numerous members of every kind that a valid token may have.
fn long_members() -> Vec<String> {
    let many = |count: usize, one: &dyn Fn(usize) -> String| {
        (0..count).map(one).collect::<Vec<_>>().join(",")
    };
    vec![
        r#""x":1"#.to_owned(),
        format!(
            r#""groups":[{}]"#,
            many(400, &|n| format!(r#""DOMAIN\\group-{n}""#))
        ),
        format!(r#""name":"{}""#, r"\u00fc".repeat(1900)),
        format!(r#""url":"{}""#, r"\/".repeat(5000)),
        format!(r#""text":"{}""#, r"\n\t\\\b".repeat(1400)),
        format!(r#""emoji":"{}""#, r"\ud83d\ude00".repeat(900)),
        many(1000, &|n| {
            format!(r#""property-{n}":0"#)[..]
                .to_owned()
                .replace("property-", "p")
        }),
        many(300, &|n| format!(r#""repository_property_{n}":"value""#)),
        many(600, &|n| format!(r#""\u00e4{n}":true"#)),
        format!(
            r#""roles":{{{}}}"#,
            many(1000, &|n| format!(r#""r{n}":[]"#))
        ),
        format!(r#""nested":{}{}"#, "[".repeat(126), "]".repeat(126)),
        format!(r#""nested":{}{}"#, "[".repeat(5000), "]".repeat(5000)),
        format!(
            r#""nested":{}1{}"#,
            r#"{"a":"#.repeat(1500),
            "}".repeat(1500)
        ),
        format!(r#""jti":"{}""#, r"\u0061".repeat(1800)),
        format!(r#""kubernetes.io":{{"x":"{}"}}"#, r"\\".repeat(5000)),
        format!(r#""number":1{}"#, "0".repeat(300)),
        format!(r#""number":0.{}1"#, "0".repeat(5000)),
    ]
}

#[tokio::test]
async fn every_valid_token_up_to_the_size_limit_verifies() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    for members in long_members() {
        let token = padded_token(&signer, HEADER, &members, LIMIT);
        let result = verify(&guard, &token).await;
        assert!(
            result.is_ok(),
            "{result:?} for {}",
            &members[..members.len().min(60)]
        );
        let again = verify(&guard, &token).await;
        assert!(again.is_ok(), "from the cache");
    }
}

#[tokio::test]
async fn any_number_of_audiences_is_accepted() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    for (count, other) in [(65, "https://other.example"), (3000, ""), (1000, "\n")] {
        let mut audiences = vec![other; count];
        audiences.push(AUDIENCE);
        let token = signer.sign(HEADER, &claims(json!({ "aud": audiences })));
        assert!(token.len() <= LIMIT, "{}", token.len());
        let identity = verify(&guard, &token).await.unwrap();
        assert_eq!(identity.audiences(), audiences);
    }
}

#[tokio::test]
async fn escapes_in_a_long_subject_are_decoded() {
    let signer = Signer::new();
    let subject = "ü/\"\\\n😀".repeat(500);
    let escaped: String = subject
        .encode_utf16()
        .map(|unit| format!("\\u{unit:04x}"))
        .collect();
    assert!(escaped.len() > 20_000);
    let settings =
        guard_builder_with_keys(&[signer.jwk()], issuer_settings()).max_token_bytes(1 << 16);
    let guard = settings.any_verified_caller().build().unwrap();
    let payload = claims(json!({})).replace("\"caller\"", &format!("\"{escaped}\""));
    let identity = verify(&guard, &signer.sign(HEADER, &payload))
        .await
        .unwrap();
    assert_eq!(identity.subject(), subject);
}

#[tokio::test]
async fn header_may_be_as_long_as_the_size_limit_allows() {
    let signer = Signer::new();
    let kid = "k".repeat(5000);
    let mut key = signer.jwk();
    key["kid"] = kid.as_str().into();
    let guard = guard_with_keys(&[key]);
    for member in [
        r#""x":1"#.to_owned(),
        format!(r#""x5c":["{}"]"#, "MIIB".repeat(1200)),
        format!(r#""x":{}{}"#, "[".repeat(2000), "]".repeat(2000)),
        (0..400)
            .map(|n| format!(r#""x{n}":0"#))
            .collect::<Vec<_>>()
            .join(","),
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"{kid}",{member}}}"#);
        let token = padded_token(&signer, &header, r#""x":1"#, LIMIT);
        assert!(verify(&guard, &token).await.is_ok(), "{member:.40}");
    }
    let typ = json!({ "alg": "ES256", "kid": "k", "typ": "x".repeat(5000) });
    let token = signer.sign(&typ.to_string(), &claims(json!({})));
    let result = verify(&guard_with_keys(&[signer.jwk()]), &token).await;
    assert_eq!(
        result.err(),
        Some(VerifyError::InvalidToken(TokenError::WrongType))
    );
}

#[tokio::test]
async fn token_over_the_size_limit_is_too_long() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let set = jwk_set(&[signer.jwk()]);
    let fits = padded_token(&signer, HEADER, r#""x":1"#, LIMIT);
    let sound = padded_token(&signer, HEADER, r#""x":1"#, LIMIT + 4);
    assert!(verify(&guard, &fits).await.is_ok());
    assert!(set.verify_jws(&fits).is_ok());
    for token in [
        sound,
        "x".repeat(LIMIT + 1),
        ".".repeat(LIMIT + 1),
        " ".repeat(1_000_000),
    ] {
        assert_eq!(
            verify(&guard, &token).await.err(),
            Some(VerifyError::InvalidToken(TokenError::TooLong))
        );
        assert_eq!(set.verify_jws(&token), Err(TokenError::TooLong));
    }
    assert_eq!(TokenError::TooLong.reason(), "too_long");
}

#[tokio::test]
async fn size_limit_is_configurable() {
    let signer = Signer::new();
    for limit in [1024, LIMIT, 64 * 1024, 1024 * 1024] {
        let settings =
            guard_builder_with_keys(&[signer.jwk()], issuer_settings()).max_token_bytes(limit);
        // The cache divides its bytes among shards, each of which must have room for a whole token.
        let settings = settings.any_verified_caller().cache(1 << 12, 1 << 34);
        let guard = settings.build().unwrap();
        let fits = padded_token(&signer, HEADER, r#""x":1"#, limit);
        let first = verify(&guard, &fits).await.unwrap();
        let again = verify(&guard, &fits).await.unwrap();
        let (first, again) = (first.subject().as_ptr(), again.subject().as_ptr());
        assert_eq!(first, again, "returned from the cache");
        let longer = padded_token(&signer, HEADER, r#""x":1"#, limit + 4);
        let result = verify(&guard, &longer).await;
        assert_eq!(
            result.err(),
            Some(VerifyError::InvalidToken(TokenError::TooLong)),
            "{limit}"
        );
    }
    for limit in [0, 1, 1023, 1024 * 1024 + 1, usize::MAX] {
        let settings =
            guard_builder_with_keys(&[signer.jwk()], issuer_settings()).max_token_bytes(limit);
        let built = settings.any_verified_caller().build();
        let is_limit =
            |error| matches!(error, BuildError::MaxTokenBytes { bytes } if bytes == limit);
        assert!(built.is_err_and(is_limit), "{limit}");
    }
}

/// Members with a string in different places of a payload or header. `@` marks the place.
const PLACES: [&str; 8] = [
    r#""x":"@""#,
    r#""x@y":1"#,
    r#""x":["a","@"]"#,
    r#""x":{"a":{"@":1}}"#,
    r#""x":[[[{"a":"@"}]]]"#,
    r#""jti":"@""#,
    r#""kubernetes.io":{"namespace":"@"}"#,
    r#""aud":["@","https://auth-server.example"]"#,
];

/// Returns valid claims that include this member.
fn claims_at(place: &str) -> String {
    if place.starts_with(r#""aud""#) {
        let other = claims(json!({ "aud": null }));
        format!("{},{place}}}", other.strip_suffix('}').unwrap())
    } else {
        claims_with(place)
    }
}

#[tokio::test]
async fn bytes_that_are_not_utf_8_are_rejected_anywhere() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let broken: [&[u8]; 6] = [
        b"\xe9",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xe2\x82",
    ];
    let fill = |text: &str, bytes: &[u8]| {
        let (before, after) = text.split_once('@').unwrap();
        [before.as_bytes(), bytes, after.as_bytes()].concat()
    };
    for place in PLACES {
        let payload = claims_at(place);
        let sound = signer.sign_bytes(HEADER.as_bytes(), &fill(&payload, "é".as_bytes()));
        assert!(verify(&guard, &sound).await.is_ok(), "{place}");
        for bytes in broken {
            let token = signer.sign_bytes(HEADER.as_bytes(), &fill(&payload, bytes));
            let result = verify(&guard, &token).await;
            let expected = Some(VerifyError::InvalidToken(TokenError::Malformed(
                "the claims",
            )));
            assert_eq!(result.err(), expected, "{place} {bytes:?}");
        }
    }
    for place in &PLACES[..5] {
        let header = format!(r#"{{"alg":"ES256","kid":"k",{place}}}"#);
        for bytes in broken {
            let token = with_raw_header(&signer, &fill(&header, bytes));
            let expected = Some(VerifyError::InvalidToken(TokenError::Malformed(
                "the header",
            )));
            assert_eq!(verify(&guard, &token).await.err(), expected, "{place}");
        }
    }
}

/// Returns a token with these bytes as its header. Its signature does not match.
fn with_raw_header(signer: &Signer, header: &[u8]) -> String {
    let sound = signer.sign(HEADER, &claims(json!({})));
    let (_, rest) = sound.split_once('.').unwrap();
    format!("{}.{rest}", base64url(header))
}

#[tokio::test]
async fn lone_surrogates_are_rejected_anywhere() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    for place in PLACES {
        for lone in [
            r"\ud800",
            r"\uDFFF",
            r"\udc00\ud800",
            r"\ud83dx",
            r"\ud83d\u0041",
            r"\\\udead",
        ] {
            let payload = claims_at(&place.replace('@', lone));
            let result = verify(&guard, &signer.sign(HEADER, &payload)).await;
            let expected = Some(VerifyError::InvalidToken(TokenError::Malformed(
                "the claims",
            )));
            assert_eq!(result.err(), expected, "{place} {lone}");
            let header = format!(
                r#"{{"alg":"ES256","kid":"k",{}}}"#,
                place.replace('@', lone)
            );
            let result = verify(&guard, &signer.sign(&header, &claims(json!({})))).await;
            let expected = Some(VerifyError::InvalidToken(TokenError::Malformed(
                "the header",
            )));
            assert_eq!(result.err(), expected, "{place} {lone}");
        }
        for sound in [r"\ud83d\ude00", r"\\ud800", r"\u00e9"] {
            let payload = claims_at(&place.replace('@', sound));
            let result = verify(&guard, &signer.sign(HEADER, &payload)).await;
            assert!(result.is_ok(), "{place} {sound}: {result:?}");
        }
    }
}

#[tokio::test]
async fn text_before_or_after_the_json_is_rejected() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let valid = claims(json!({}));
    for (before, after, is_valid) in [
        ("", "", true),
        (" \r\n\t", "\n ", true),
        ("", "{}", false),
        ("", " x", false),
        ("", "\0", false),
        ("", ",", false),
        ("\u{feff}", "", false),
        ("", "\u{a0}", false),
    ] {
        let payload = format!("{before}{valid}{after}");
        let result = verify(&guard, &signer.sign(HEADER, &payload)).await;
        assert_eq!(result.is_ok(), is_valid, "{before:?} {after:?}");
        let header = format!("{before}{HEADER}{after}");
        let result = verify(&guard, &signer.sign(&header, &valid)).await;
        assert_eq!(result.is_ok(), is_valid, "{before:?} {after:?}");
    }
}

#[tokio::test]
async fn sender_constrained_token_is_rejected_with_that_reason() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    for cnf in [
        r#"{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}"#,
        r#"{"x5t#S256":"bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}"#,
        r#"{"jwk":{}}"#,
        "{}",
        "null",
        "[]",
        "false",
        r#""""#,
    ] {
        for name in ["cnf", r"\u0063nf", r"cn\u0066"] {
            let token = signer.sign(HEADER, &claims_with(&format!(r#""{name}":{cnf}"#)));
            let refused = verify(&guard, &token).await.unwrap_err();
            assert_eq!(
                refused,
                VerifyError::InvalidToken(TokenError::SenderConstrained),
                "{name} {cnf}"
            );
            let refused = Rejection::from(refused);
            assert_eq!(refused.reason(), "sender_constrained");
            assert_eq!(
                (refused.status().as_u16(), refused.grpc_status()),
                (401, 16)
            );
            assert_eq!(refused.error_code(), Some("invalid_token"));
        }
    }
    for other in [r#""CNF":{}"#, r#""x":{"cnf":{}}"#] {
        let token = signer.sign(HEADER, &claims_with(other));
        assert!(verify(&guard, &token).await.is_ok(), "{other}");
    }
}

#[tokio::test]
async fn missing_or_mistyped_mandatory_claim_is_named() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    for name in ["iss", "sub", "exp"] {
        let missing = signer.sign(HEADER, &claims(json!({ name: null })));
        let refused = verify(&guard, &missing).await.unwrap_err();
        assert_eq!(refused.reason(), "malformed");
        assert_eq!(
            refused.to_string(),
            format!("malformed token: the claim `{name}` is missing")
        );
    }
    for name in ["iss", "sub", "aud", "exp", "nbf", "iat"] {
        for wrong in [json!({ "secret": 1 }), json!(true), json!([["secret"]])] {
            let token = signer.sign(HEADER, &claims(json!({ name: wrong })));
            let text = verify(&guard, &token).await.unwrap_err().to_string();
            assert!(
                text.contains(&format!("the claim `{name}` is not a")),
                "{text}"
            );
            assert!(!text.contains("secret"), "{text}");
        }
    }
}

/// Returns whether the feature `arbitrary_precision` of `serde_json` is enabled in this build.
fn has_arbitrary_precision() -> bool {
    let number: Value = serde_json::from_str("1.50").unwrap();
    let text = number.to_string();
    text == "1.50"
}

#[test]
fn serde_json_features_match_the_environment() {
    // `.ci/run` sets the variable for the run with the features, so that the run fails if they are missing.
    let is_expected = std::env::var_os("EXPECT_ARBITRARY_PRECISION").is_some();
    assert!(has_arbitrary_precision() || !is_expected);
}

#[tokio::test]
async fn times_may_have_a_fraction_or_an_exponent() {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let exp_at = |exp: &str| {
        let valid = claims(json!({ "exp": null, "nbf": null, "iat": null }));
        signer.sign(
            HEADER,
            &format!(r#"{},"exp":{exp}}}"#, valid.strip_suffix('}').unwrap()),
        )
    };
    for exp in [
        "1800000000.5",
        "1.8000000005e9",
        "18000000005E-1",
        "1800000001.0",
        "1.8e10",
        "1e10",
        "2000000000",
    ] {
        assert!(verify(&guard, &exp_at(exp)).await.is_ok(), "{exp}");
    }
    for exp in ["1799999999.5", "1e3", "1.8e9", "0", "-0", "0.0", "0e5"] {
        let result = verify(&guard, &exp_at(exp)).await;
        assert_eq!(
            result.err(),
            Some(VerifyError::InvalidToken(TokenError::Expired)),
            "{exp}"
        );
    }
    for exp in [
        "-1",
        "-0.5",
        "1e300",
        "1e400",
        "18446744073709551616",
        r#""1800000001.5""#,
        r#"{"$serde_json::private::Number":"1800000001.5"}"#,
        r#"{"$serde_json::private::RawValue":"1800000001.5"}"#,
    ] {
        let result = verify(&guard, &exp_at(exp)).await;
        let expected = Some(VerifyError::InvalidToken(TokenError::Malformed(
            "the claim `exp` is not a time in seconds",
        )));
        assert_eq!(result.err(), expected, "{exp}");
    }
}

/// Returns whether a token with this text as its claim `x` is accepted if `x` is required to have this value: by
/// `Issuer::require_claim`, by a function of the issuer, and by the policy.
async fn results(signer: &Signer, x: &str, value: &Value) -> [bool; 3] {
    let token = signer.sign(HEADER, &claims_with(&format!(r#""x":{x}"#)));
    let by = |issuer: Issuer| {
        let settings = guard_builder_with_keys(&[signer.jwk()], issuer).any_verified_caller();
        settings.build().unwrap()
    };
    let required = by(issuer_settings().require_claim("x", value.clone()));
    let expected = value.clone();
    let is_equal = move |claims: &Map<String, Value>| claims.get("x") == Some(&expected);
    let checked = by(issuer_settings().require(is_equal));
    let policy = Policy::any_verified_caller().require_claim("x", value.clone());
    let settings = guard_builder_with_keys(&[signer.jwk()], issuer_settings());
    let by_policy = settings.policy(policy).build().unwrap();
    let caller = verify(&by_policy, &token).await.unwrap();
    [
        verify(&required, &token).await.is_ok(),
        verify(&checked, &token).await.is_ok(),
        by_policy.policy().explain(&caller).is_allowed(),
    ]
}

#[tokio::test]
async fn claims_are_compared_by_value() {
    let signer = Signer::new();
    for (x, value, expected) in [
        ("1.5", json!(1.5), true),
        ("1.50", json!(1.5), true),
        ("15e-1", json!(1.5), true),
        ("0.15E+1", json!(1.5), true),
        ("1.4", json!(1.5), false),
        ("1e3", json!(1000.0), true),
        ("1000.0", json!(1000.0), true),
        ("1000", json!(1000), true),
        ("1000", json!(1000.0), false),
        ("1000.0", json!(1000), false),
        ("18446744073709551615", json!(u64::MAX), true),
        ("18446744073709551614", json!(u64::MAX), false),
        ("9007199254740993", json!(9_007_199_254_740_993_u64), true),
        ("9007199254740993", json!(9_007_199_254_740_992_u64), false),
        ("-5", json!(-5), true),
        (
            r#"{"a":[1.50,{"b":2e0}]}"#,
            json!({ "a": [1.5, { "b": 2.0 }] }),
            true,
        ),
        (r#""1.5""#, json!(1.5), false),
        ("1.5", json!("1.5"), false),
        (
            r#"{"$serde_json::private::Number":"1.5"}"#,
            json!(1.5),
            false,
        ),
        (
            r#"{"$serde_json::private::RawValue":"1.5"}"#,
            json!(1.5),
            false,
        ),
        (
            r#"{"$serde_json::private::RawValue":"\"admin\""}"#,
            json!("admin"),
            false,
        ),
        (r#""\u0061dmin""#, json!("admin"), true),
    ] {
        let results = results(&signer, x, &value).await;
        assert_eq!(results, [expected; 3], "{x} and {value}");
    }
}

#[tokio::test]
async fn required_claim_is_found_beside_deeply_nested_members() {
    let signer = Signer::new();
    let deep = format!(r#""x":1.5,"deep":{}{}"#, "[".repeat(3000), "]".repeat(3000));
    let token = signer.sign(HEADER, &claims_with(&deep));
    let guard = |issuer: Issuer| {
        let settings = guard_builder_with_keys(&[signer.jwk()], issuer);
        let policy = Policy::any_verified_caller().require_claim("x", 1.5);
        settings.policy(policy).build().unwrap()
    };
    let required = guard(issuer_settings().require_claim("x", 1.5));
    let caller = verify(&required, &token).await.unwrap();
    assert!(required.policy().explain(&caller).is_allowed());
    // Passing all claims to a function needs stack space for each level.
    let refused = verify(&guard(issuer_settings().require(|_| true)), &token).await;
    assert!(
        matches!(refused, Err(VerifyError::InvalidToken(TokenError::Malformed(text))) if text.contains("128 levels"))
    );
}

#[tokio::test]
async fn kubernetes_claim_is_parsed() {
    let signer = Signer::new();
    let set = json!({ "keys": [signer.jwk()] }).to_string();
    let issuer = Issuer::kubernetes(ISSUER_URL)
        .keys_json(set)
        .algorithms([tower_oidc_guard::Algorithm::ES256]);
    let guard = guard_with_client(issuer, document_client(Default::default()));
    let payload = claims_with(
        r#""kubernetes.io":{"namespace":"a","serviceaccount":{"name":"b"},"warnafter":3607}"#,
    );
    let payload = payload.replace("\"caller\"", "\"system:serviceaccount:a:b\"");
    let identity = verify(&guard, &signer.sign(HEADER, &payload))
        .await
        .unwrap();
    let warn_after = identity.kubernetes().unwrap().warn_after();
    assert_eq!(warn_after, Some(unix_time(3607)));
}

#[test]
fn only_unavailable_keys_are_transient() {
    let retry_after = std::time::Duration::from_secs(1);
    for error in [
        TokenError::TooLong,
        TokenError::Malformed("x"),
        TokenError::UnsupportedAlgorithm,
        TokenError::AlgorithmNotAllowed,
        TokenError::WrongType,
        TokenError::UnknownIssuer,
        TokenError::WrongAudience,
        TokenError::LivesTooLong,
        TokenError::SenderConstrained,
        TokenError::UnmetClaim,
        TokenError::Expired,
        TokenError::NotYetValid,
        TokenError::IssuedInFuture,
        TokenError::UnknownKey,
        TokenError::BadSignature,
    ] {
        assert!(!VerifyError::from(error).is_transient(), "{error:?}");
    }
    assert!(VerifyError::KeysUnavailable { retry_after }.is_transient());
}

#[test]
fn every_rejection_keeps_its_status_codes_and_reason() {
    let retry_after = std::time::Duration::from_secs(1);
    for (rejection, status, error_code, grpc_status, reason) in [
        (Rejection::MissingToken, 401, None, 16, "missing_token"),
        (
            Rejection::UnsupportedScheme(OtherScheme::Known("Basic")),
            401,
            None,
            16,
            "unsupported_scheme",
        ),
        (
            Rejection::MalformedRequest("x"),
            400,
            Some("invalid_request"),
            16,
            "malformed_request",
        ),
        (
            Rejection::NotAllowed,
            403,
            Some("insufficient_scope"),
            7,
            "not_allowed",
        ),
        (
            Rejection::KeysUnavailable { retry_after },
            503,
            None,
            14,
            "keys_unavailable",
        ),
    ] {
        assert_eq!(rejection.status(), status);
        assert_eq!(rejection.error_code(), error_code);
        assert_eq!(rejection.grpc_status(), grpc_status);
        assert_eq!(rejection.reason(), reason);
    }
    for (error, reason) in [
        (TokenError::TooLong, "too_long"),
        (TokenError::Malformed("x"), "malformed"),
        (TokenError::UnsupportedAlgorithm, "unsupported_algorithm"),
        (TokenError::AlgorithmNotAllowed, "algorithm_not_allowed"),
        (TokenError::WrongType, "wrong_type"),
        (TokenError::UnknownIssuer, "unknown_issuer"),
        (TokenError::WrongAudience, "wrong_audience"),
        (TokenError::LivesTooLong, "lives_too_long"),
        (TokenError::SenderConstrained, "sender_constrained"),
        (TokenError::UnmetClaim, "unmet_claim"),
        (TokenError::Expired, "expired"),
        (TokenError::NotYetValid, "not_yet_valid"),
        (TokenError::IssuedInFuture, "issued_in_future"),
        (TokenError::UnknownKey, "unknown_key"),
        (TokenError::BadSignature, "bad_signature"),
    ] {
        let rejection = Rejection::from(VerifyError::from(error));
        assert_eq!(rejection, Rejection::InvalidToken(error));
        assert_eq!(rejection.status(), 401);
        assert_eq!(rejection.error_code(), Some("invalid_token"));
        assert_eq!(rejection.grpc_status(), 16);
        assert_eq!(rejection.reason(), reason);
        assert_eq!(rejection.to_string(), error.to_string());
    }
}

#[tokio::test]
async fn header_members_jku_x5u_jwk_and_x5c_are_ignored() {
    let (signer, thief) = (Signer::new(), Signer::new());
    for member in [
        json!({ "jku": "https://evil.example/jwks" }),
        json!({ "x5u": "https://evil.example/cert" }),
        json!({ "jwk": thief.jwk() }),
        json!({ "x5c": ["AAAA"] }),
    ] {
        let mut header: Value = serde_json::from_str(HEADER).unwrap();
        header
            .as_object_mut()
            .unwrap()
            .append(member.clone().as_object_mut().unwrap());
        let token = thief.sign(&header.to_string(), &claims(json!({})));
        let guard = guard_with_keys(&[signer.jwk()]);
        let result = guard.verifier().verify(token).await;
        assert_eq!(
            result.err(),
            Some(VerifyError::InvalidToken(TokenError::BadSignature)),
            "{member}"
        );
    }
}
