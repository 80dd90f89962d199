//! Fuzz targets for tokens, as they are in files and responses.
//!
//! For each input:
//!
//! - The parser does not panic, and an error is one line that contains at most one character of the input.
//! - A JWT is accepted if and only if an independent check of its format accepts it ([`is_jwt`]), but for the limits of that check.
//! - The header of an accepted token is `Bearer` and the trimmed input, and its `Debug` shows nothing of it.
//! - Its times and audiences are those that `serde_json` reads.

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::{Value, json};

use super::*;
use crate::fuzz::edits::{ByteEdit, JsonEdit, NOW};
use crate::fuzz::{ITERATIONS, SECRET, assert_is_safe_message};

/// Decodes base64url whatever its unused bits.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone),
);

/// The header and the claims of a JWT as `serde_json` reads them, and the length of its signature.
struct Parts {
    header: Value,
    claims: Value,
    signature: usize,
}

/// Splits and decodes a JWT. Returns `None` if that fails.
fn parts(token: &[u8]) -> Option<Parts> {
    let text = str::from_utf8(token).ok()?;
    let parts: Vec<&str> = text.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        return None;
    };
    let decode = |part: &str| {
        let bytes = LENIENT.decode(part).ok()?;
        (!bytes.is_empty() && LENIENT.encode(&bytes) == part).then_some(bytes)
    };
    let object = |bytes: Vec<u8>| {
        serde_json::from_slice::<Value>(&bytes)
            .ok()
            .filter(Value::is_object)
    };
    Some(Parts {
        header: object(decode(header)?)?,
        claims: object(decode(claims)?)?,
        signature: decode(signature)?.len(),
    })
}

/// Returns whether the members that a sender reads have the types of RFC 7519, and the signature has the length of its algorithm.
fn is_jwt(parts: &Parts) -> bool {
    let alg = &parts.header["alg"];
    let has_length = match alg.as_str() {
        Some("RS256") => parts.signature >= 256,
        Some("ES256" | "Ed25519") => parts.signature == 64,
        Some("HS256") => parts.signature == 32,
        _ => true,
    };
    let is_time = |value: &Value| value.is_null() || value.is_number();
    let aud = &parts.claims["aud"];
    let is_aud = aud.is_null()
        || aud.is_string()
        || aud
            .as_array()
            .is_some_and(|all| all.iter().all(Value::is_string));
    let kubernetes = &parts.claims["kubernetes.io"];
    let is_kubernetes =
        kubernetes.is_null() || kubernetes.is_object() && is_time(&kubernetes["warnafter"]);
    (alg.is_null() || alg.is_string())
        && has_length
        && is_aud
        && is_kubernetes
        && is_time(&parts.claims["exp"])
        && is_time(&parts.claims["iat"])
}

/// Parses a token and asserts everything that the module states.
fn check(bytes: &[u8]) {
    let trimmed = bytes.trim_ascii();
    let parts = parts(trimmed);
    let parsed = Token::parse_jwt(bytes);
    let (token, audiences) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let error = error.to_string();
            assert_is_safe_message(&error);
            if let Some(parts) = &parts {
                // `Value` keeps the last of repeated members, which are refused.
                let text = String::from_utf8_lossy(trimmed);
                let decoded: String = text
                    .split('.')
                    .take(2)
                    .map(|part| {
                        String::from_utf8_lossy(&LENIENT.decode(part).unwrap()).into_owned()
                    })
                    .collect();
                let is_repeated = ["alg", "aud", "exp", "iat", "kubernetes.io", "warnafter"]
                    .iter()
                    .any(|name| decoded.matches(&format!("\"{name}\"")).count() > 1);
                let is_known_length = ["RS", "PS", "ES", "Ed", "HS"].iter().any(|alg| {
                    parts.header["alg"]
                        .as_str()
                        .is_some_and(|own| own.starts_with(alg))
                });
                assert!(
                    !is_jwt(parts) || is_repeated || is_known_length || decoded.contains('\\'),
                    "refused: {error}"
                );
            }
            let opaque = Token::opaque(bytes);
            let is_opaque = !trimmed.is_empty()
                && trimmed
                    .iter()
                    .all(|byte| (0x21..0x7f).contains(byte) && !b"\"'".contains(byte));
            assert_eq!(opaque.is_ok(), is_opaque);
            return;
        }
    };
    let header = token.header();
    assert_eq!(header.as_bytes(), [b"Bearer ", trimmed].concat());
    assert!(header.is_sensitive());
    assert!(!format!("{token:?}").contains(&*String::from_utf8_lossy(trimmed)));
    assert_eq!(Token::opaque(bytes).unwrap(), token);
    // `serde_json` need not represent the values that are ignored, so it accepts more than `Value`.
    let Some(parts) = parts else {
        return;
    };
    assert!(is_jwt(&parts), "accepted");
    let time = |value: &Value| value.as_f64().and_then(super::from_unix_seconds);
    assert_eq!(token.expires_at(), time(&parts.claims["exp"]));
    assert_eq!(token.issued_at(), time(&parts.claims["iat"]));
    assert_eq!(
        token.warn_after(),
        time(&parts.claims["kubernetes.io"]["warnafter"])
    );
    let expected: Vec<&Value> = match &parts.claims["aud"] {
        Value::Array(all) => all.iter().collect(),
        Value::Null => Vec::new(),
        one => vec![one],
    };
    assert_eq!(audiences.iter().collect::<Vec<_>>(), expected);
    // Times of any size can be calculated with.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
    let _ = (
        token.is_expired(now),
        token.next_renewal(now),
        token.rotation_due(),
    );
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..3))]
    header: Vec<JsonEdit>,
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..4))]
    claims: Vec<JsonEdit>,
    signature: u8,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..3))]
    token: Vec<ByteEdit>,
}

#[test]
fn edited_tokens() {
    let header = json!({ "alg": "ES256", "kid": SECRET });
    let claims = json!({
        "iss": "https://issuer.example", "sub": SECRET, "aud": ["https://auth-server.example"], "exp": NOW + 600, "iat": NOW,
        "kubernetes.io": { "namespace": "shop", "warnafter": NOW + 500 },
    });
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
            let header = encode(JsonEdit::apply_all(&recipe.header, &header));
            let claims = encode(JsonEdit::apply_all(&recipe.claims, &claims));
            let length = [64, 64, 64, 32, 63, 65, 256, 0][usize::from(recipe.signature) % 8];
            let signature = URL_SAFE_NO_PAD.encode(vec![7; length]);
            let token = format!("{header}.{claims}.{signature}");
            check(&ByteEdit::apply_all(&recipe.token, token));
        });
}

#[test]
fn token_bytes() {
    check!().with_iterations(ITERATIONS).for_each(check);
}
