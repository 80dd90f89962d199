//! Compares this crate's verifier with openidconnect's `IdTokenVerifier`.
//!
//! Both verify the same tokens: valid ones, ones with one mutation each of the format, a header parameter, a claim, the
//! signature or the keys, and tokens recorded from Kubernetes. They must agree on every token, except for those in
//! [`DIFFERENCES`]. A difference that is not listed fails the test, and so does a listed difference that does not occur.

#![expect(
    clippy::disallowed_types,
    reason = "the test compares with openidconnect's own verifier and keys"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::str::FromStr as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use openidconnect::core::{
    CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm,
};
use openidconnect::{
    AdditionalClaims, ClientId, EmptyAdditionalClaims, IssuerUrl, LanguageTag, Nonce,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower_oidc_guard::{Algorithm, Identity, Issuer, OidcGuard};

use crate::support::recorded::recorded_path;
use crate::support::signer::{Signer, base64url};
use crate::support::{AUDIENCE, HEADER, ISSUER_URL, NOW, claims, guard_with_keys, unix_time};

/// The verifier that accepts a token which the other refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum OnlyAcceptedBy {
    Guard,
    Openidconnect,
}
use OnlyAcceptedBy::{Guard, Openidconnect};

/// The known differences: which verifier accepts the tokens, the reason, and the names of the cases. A name that ends in `*`
/// stands for all cases whose names begin with it, and each of them must differ.
const DIFFERENCES: &[(OnlyAcceptedBy, &str, &[&str])] = &[
    (
        Guard,
        "Several audiences: openidconnect refuses a token that has any audience beside its own, unless it is \
         configured to trust that one. A Kubernetes token may be for several services.",
        &[
            "claim aud: [\"https://auth-server.example\",\"other\"]",
            "claim aud: [\"other\",\"https://auth-server.example\"]",
            "recorded v1.20/rs256/gke-sa-two-audiences, valid",
            "recorded v1.20/after-key-rotation/gke-sa-two-audiences, valid",
            "recorded v1.36/rs256/gke-sa-two-audiences, valid",
            "recorded v1.36/after-key-rotation/gke-sa-two-audiences, valid",
            "recorded v1.36/es256-beside-rs256/gke-sa-two-audiences, valid",
        ],
    ),
    (
        Guard,
        "`iat` is required in an ID token (OpenID Connect Core 1.0, section 2) and optional in a JWT (RFC 7519, \
         section 4.1.6). The guard requires it only with `max_lifetime`.",
        &["claim iat: missing"],
    ),
    (
        Guard,
        "openidconnect deserializes all claims of OpenID Connect before it verifies the signature, so one of a wrong \
         type fails the token. The guard does not use them.",
        &[
            "claim acr: 1",
            "claim acr: true",
            "claim acr: [*",
            "claim acr: {}",
            "claim at_hash: 1",
            "claim at_hash: true",
            "claim at_hash: [*",
            "claim at_hash: {}",
            "claim azp: 1",
            "claim azp: true",
            "claim azp: [*",
            "claim azp: {}",
            "claim email: 1",
            "claim email: true",
            "claim email: [*",
            "claim email: {}",
            "claim locale: 1",
            "claim locale: true",
            "claim locale: [*",
            "claim locale: {}",
            "claim name: 1",
            "claim name: true",
            "claim name: [*",
            "claim name: {}",
            "claim nonce: 1",
            "claim nonce: true",
            "claim nonce: [*",
            "claim nonce: {}",
            "claim address: \"text\"",
            "claim address: 1",
            "claim address: true",
            "claim address: [*",
            "claim amr: \"text\"",
            "claim amr: 1",
            "claim amr: true",
            "claim amr: [1]",
            "claim amr: {}",
            "claim email_verified: \"t*",
            "claim email_verified: 1",
            "claim email_verified: [*",
            "claim email_verified: {}",
            "claim auth_time: \"*",
            "claim auth_time: true",
            "claim auth_time: [*",
            "claim auth_time: {}",
            "claim auth_time: 18446744073709551616",
            "claim auth_time: 1e300",
            "claim auth_time: 1e400",
            "claim updated_at: \"*",
            "claim updated_at: true",
            "claim updated_at: [*",
            "claim updated_at: {}",
            "claim updated_at: 18446744073709551616",
            "claim updated_at: 1e300",
            "claim updated_at: 1e400",
        ],
    ),
    (
        Guard,
        "The guard does not read the values of claims that it does not use, so these may be nested to any depth and \
         hold numbers of any size.",
        &["claims: nested 200 levels", "claims: number out of range"],
    ),
    (
        Guard,
        "The guard does not interpret `cty`, which concerns the application (RFC 7515, section 4.1.10). A nested JWT \
         is refused because its payload is not a JSON object.",
        &[
            "header cty: \"JWT\"",
            "header cty: \"json\"",
            "header cty: 1",
            "header cty: true",
            "header cty: [*",
            "header cty: {}",
        ],
    ),
    (
        Guard,
        "Kubernetes and others publish a key more than once. The guard counts equal keys as one, and tries up to four \
         different keys of one `kid`; for openidconnect the key is ambiguous.",
        &["keys: two with one kid", "keys: the same key twice*"],
    ),
    (
        Guard,
        "The guard uses the only key without a `kid` for a token with a `kid`, because a set of one key often has \
         none.",
        &["keys: one without kid, token with kid"],
    ),
    (
        Openidconnect,
        "openidconnect does not check `nbf`.",
        &[
            "claim nbf: \"*",
            "claim nbf: -1",
            "claim nbf: 1.8000005e9",
            "claim nbf: 1800000001",
            "claim nbf: 1800000700",
            "claim nbf: 18446744073709551616",
            "claim nbf: 1e300",
            "claim nbf: [*",
            "claim nbf: now.5",
            "claim nbf: null",
            "claim nbf: true",
            "claim nbf: {}",
        ],
    ),
    (
        Openidconnect,
        "openidconnect accepts any `iat`, also one in the future or before 1970.",
        &[
            "claim iat: -1",
            "claim iat: 1.8000005e9",
            "claim iat: 1800000001",
            "claim iat: 1800000700",
            "claim iat: now.5",
        ],
    ),
    (
        Openidconnect,
        "openidconnect ignores `cnf`, so it accepts a token that is bound to a key of its sender (RFC 7800) from any \
         sender.",
        &["claim cnf: *"],
    ),
    (
        Openidconnect,
        "openidconnect does not read `jti`. The guard returns it, and refuses one that is not a string.",
        &[
            "claim jti: 1",
            "claim jti: [*",
            "claim jti: null",
            "claim jti: true",
            "claim jti: {}",
        ],
    ),
    (
        Openidconnect,
        "RFC 7515, section 4, and RFC 7519, section 4, allow to refuse repeated names, which two readers may \
         interpret differently. openidconnect refuses them only for names that it reads.",
        &[
            "header b64: repeated",
            "header zip: repeated",
            "header enc: repeated",
            "header jku: repeated",
            "header x5u: repeated",
            "header x5c: repeated",
            "header jwk: repeated",
            "header unknown: repeated",
            "claim jti: repeated",
            "claim nbf: repeated",
            "claim kubernetes.io: repeated",
            "claim unknown: repeated",
        ],
    ),
    (
        Openidconnect,
        "openidconnect treats a null header parameter as a missing one. The guard refuses it: `kid` and `typ` are \
         strings (RFC 7515, sections 4.1.4 and 4.1.9), and `crit` must not be present.",
        &["header kid: null", "header typ: null", "header crit: null"],
    ),
    (
        Openidconnect,
        "openidconnect accepts the type `JOSE`. The guard accepts `JWT` unless `token_types` names others (RFC 8725, \
         section 3.11).",
        &["header typ: \"JOSE\""],
    ),
    (
        Openidconnect,
        "Half of a surrogate pair is not text. openidconnect does not check strings that it does not read.",
        &["header: half a surrogate pair"],
    ),
    (
        Openidconnect,
        "openidconnect accepts a signature with non-zero unused bits in its base64url, so one token has several \
         spellings (RFC 4648, section 3.5).",
        &[
            "signature: non-canonical base64url",
            "recorded v1.20/rs256/non-canonical-base64, valid",
            "recorded v1.20/after-key-rotation/non-canonical-base64, valid",
            "recorded v1.36/rs256/non-canonical-base64, valid",
            "recorded v1.36/after-key-rotation/non-canonical-base64, valid",
            "recorded v1.36/es256-beside-rs256/non-canonical-base64, valid",
        ],
    ),
    (
        Openidconnect,
        "openidconnect has no limit on the length of a token. That of the guard is 16 KiB unless `max_token_bytes` \
         sets another.",
        &["format: 27 kB"],
    ),
    (
        Openidconnect,
        "openidconnect does not read `key_ops`, so it verifies with a key that is not for verification (RFC 7517, \
         section 4.3).",
        &["keys: key_ops without verify"],
    ),
];

/// A token, the keys and the time to verify it with.
pub struct Case {
    pub name: String,
    pub token: String,
    pub keys: Value,
    pub issuer: &'static str,
    pub now: u64,
}

/// Creates a guard with the keys, the issuer and the time of a case.
fn guard(case: &Case) -> OidcGuard {
    let now = case.now;
    let issuer = Issuer::oidc(case.issuer)
        .audience(AUDIENCE)
        .algorithms([Algorithm::RS256, Algorithm::ES256])
        .leeway(Duration::ZERO)
        .keys_json(case.keys.to_string());
    OidcGuard::builder()
        .issuer(issuer)
        .any_verified_caller()
        .clock(move || unix_time(now))
        .build()
        .unwrap()
}

/// Returns whether openidconnect accepts a token.
fn openidconnect_accepts(case: &Case) -> bool {
    let allowed = [
        CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    ];
    verifies(case, openidconnect_verifier(case).set_allowed_algs(allowed))
}

/// Returns whether openidconnect accepts a token, also one for other audiences beside its own, and with more algorithms.
pub fn openidconnect_accepts_any_other_audience(case: &Case) -> bool {
    let allowed = [
        CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
        CoreJwsSigningAlgorithm::RsaSsaPssSha256,
        CoreJwsSigningAlgorithm::EcdsaP256Sha256,
        CoreJwsSigningAlgorithm::EcdsaP384Sha384,
        CoreJwsSigningAlgorithm::EdDsa,
    ];
    let verifier = openidconnect_verifier(case).set_allowed_algs(allowed);
    verifies(case, verifier.set_other_audience_verifier_fn(|_| true))
}

/// Returns the verifier of openidconnect with the keys, the issuer and the time of a case. Panics if it cannot read the keys.
fn openidconnect_verifier(case: &Case) -> CoreIdTokenVerifier<'static> {
    let now = case.now;
    let keys: CoreJsonWebKeySet = serde_json::from_value(case.keys.clone()).unwrap();
    let issuer = IssuerUrl::new(case.issuer.to_owned()).unwrap();
    let client_id = ClientId::new(AUDIENCE.to_owned());
    CoreIdTokenVerifier::new_public_client(client_id, issuer, keys)
        .set_time_fn(move || unix_time(now).into())
}

fn verifies(case: &Case, verifier: CoreIdTokenVerifier<'_>) -> bool {
    // A token that is presented to an API is not the answer to a login, so it has no nonce.
    let any_nonce = |_: Option<&Nonce>| Ok(());
    CoreIdToken::from_str(&case.token).is_ok_and(|token| token.claims(&verifier, any_nonce).is_ok())
}

/// Creates cases that are signed by one key, unless they replace the signature.
struct Cases {
    signer: Signer,
    all: Vec<Case>,
}

impl Cases {
    fn new() -> Self {
        Self {
            signer: Signer::new(),
            all: Vec::new(),
        }
    }

    fn add_token(&mut self, name: impl Into<String>, token: String) {
        let keys = json!({ "keys": [self.signer.jwk()] });
        self.add_token_with_keys(name, token, keys);
    }

    fn add_token_with_keys(&mut self, name: impl Into<String>, token: String, keys: Value) {
        self.all.push(Case {
            name: name.into(),
            token,
            keys,
            issuer: ISSUER_URL,
            now: NOW,
        });
    }

    /// Adds a token with this text as its header.
    fn add_header(&mut self, name: impl Into<String>, header: &str) {
        let token = self.signer.sign(header, &claims(json!({})));
        self.add_token(name, token);
    }

    /// Adds a token with this text as its claims set.
    fn add_payload(&mut self, name: impl Into<String>, payload: &[u8]) {
        let token = self.signer.sign_bytes(HEADER.as_bytes(), payload);
        self.add_token(name, token);
    }

    fn add_formats(&mut self) {
        let valid = self.signer.sign(HEADER, &claims(json!({})));
        let parts: Vec<_> = valid.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            panic!("{valid}");
        };
        for (name, token) in [
            ("valid", valid.clone()),
            ("format: empty", String::new()),
            ("format: two parts", format!("{header}.{payload}")),
            ("format: four parts", format!("{valid}.{signature}")),
            ("format: empty header", format!(".{payload}.{signature}")),
            ("format: empty payload", format!("{header}..{signature}")),
            ("format: leading space", format!(" {valid}")),
            ("format: trailing line break", format!("{valid}\n")),
            (
                "format: padded header",
                format!("{header}=.{payload}.{signature}"),
            ),
            (
                "format: JSON serialization",
                json!({ "protected": header, "payload": payload, "signature": signature })
                    .to_string(),
            ),
        ] {
            self.add_token(name, token);
        }
        let filler = "x".repeat(20_000);
        let long = claims(json!({ "filler": filler }));
        self.add_payload("format: 27 kB", long.as_bytes());
    }

    fn add_header_parameters(&mut self) {
        let values = |texts: &[&'static str]| texts.to_vec();
        let wrong_types = ["null", "1", "true", "[]", "{}"];
        for (parameter, texts) in [
            (
                "alg",
                values(&[
                    r#""none""#,
                    r#""None""#,
                    r#""HS256""#,
                    r#""RS256""#,
                    r#""ES384""#,
                    r#""EdDSA""#,
                    r#""es256""#,
                    r#""dir""#,
                    r#""A128GCM""#,
                    r#""""#,
                ]),
            ),
            ("kid", values(&[r#""other""#, r#""""#, r#""K""#])),
            (
                "typ",
                values(&[
                    r#""JWT""#,
                    r#""jwt""#,
                    r#""application/jwt""#,
                    r#""JOSE""#,
                    r#""JOSE+JSON""#,
                    r#""at+jwt""#,
                    r#""dpop+jwt""#,
                    r#""""#,
                ]),
            ),
            ("cty", values(&[r#""JWT""#, r#""json""#])),
            ("crit", values(&[r#"["exp"]"#, r#"["b64"]"#, r#"[""]"#])),
            ("b64", values(&["false"])),
            ("zip", values(&[r#""DEF""#])),
            ("enc", values(&[r#""A128GCM""#])),
            ("jku", values(&[r#""https://evil.example/jwks""#])),
            ("x5u", values(&[r#""https://evil.example/x5u""#])),
            ("x5c", values(&[r#"["AAAA"]"#])),
            ("jwk", values(&[r#"{"kty":"oct","k":"AAAA"}"#])),
            ("unknown", values(&[r#""x""#])),
        ] {
            let mut others: BTreeMap<_, _> =
                BTreeMap::from([("alg", r#""ES256""#), ("kid", r#""k""#)]);
            let own = others.remove(parameter);
            let others: String = others
                .iter()
                .fold(String::new(), |mut text, (name, value)| {
                    write!(text, r#","{name}":{value}"#).unwrap();
                    text
                });
            if own.is_some() {
                let header = format!("{{{}}}", others.trim_start_matches(','));
                self.add_header(format!("header {parameter}: missing"), &header);
            }
            for text in texts.iter().copied().chain(wrong_types) {
                let header = format!(r#"{{"{parameter}":{text}{others}}}"#);
                self.add_header(format!("header {parameter}: {text}"), &header);
            }
            let first = own.unwrap_or(texts[0]);
            let header = format!(r#"{{"{parameter}":{first},"{parameter}":{first}{others}}}"#);
            self.add_header(format!("header {parameter}: repeated"), &header);
        }
        for (name, header) in [
            ("header: array", r#"["ES256"]"#),
            ("header: string", r#""ES256""#),
            ("header: empty object", "{}"),
            ("header: trailing object", r#"{"alg":"ES256","kid":"k"}{}"#),
            ("header: trailing comma", r#"{"alg":"ES256","kid":"k",}"#),
            (
                "header: white space",
                " {\"alg\":\"ES256\",\n\"kid\":\"k\"} ",
            ),
            (
                "header: half a surrogate pair",
                r#"{"alg":"ES256","kid":"k","unknown":"\ud800"}"#,
            ),
            (
                "header: escaped parameter name",
                r#"{"\u0061lg":"ES256","kid":"k"}"#,
            ),
        ] {
            self.add_header(name, header);
        }
    }

    fn add_claims(&mut self) {
        let now = |difference: i64| (i128::from(NOW) + i128::from(difference)).to_string();
        let text = |text: &str| Value::from(text).to_string();
        let wrong_types = ["null", "1", "\"text\"", "true", "[]", "{}", "[1]"].map(str::to_owned);
        let times = || {
            vec![
                now(-700),
                now(-1),
                now(0),
                now(1),
                now(700),
                format!("{NOW}.5"),
                "1.8000005e9".to_owned(),
                "1e300".to_owned(),
                "1e400".to_owned(),
                "-1".to_owned(),
                "18446744073709551616".to_owned(),
                text(&now(600)),
                text("2099-01-01T00:00:00Z"),
            ]
        };
        for (claim, texts) in [
            (
                "iss",
                vec![
                    text("https://other.example"),
                    text(&format!("{ISSUER_URL}/")),
                    text("HTTPS://ISSUER.EXAMPLE"),
                    text("https://issuer.example:443"),
                    text("issuer.example"),
                    json!([ISSUER_URL]).to_string(),
                ],
            ),
            ("sub", vec![text(""), text("other")]),
            (
                "aud",
                vec![
                    text("other"),
                    text(""),
                    text(&AUDIENCE.to_uppercase()),
                    json!([AUDIENCE]).to_string(),
                    json!([AUDIENCE, AUDIENCE]).to_string(),
                    json!([AUDIENCE, "other"]).to_string(),
                    json!(["other", AUDIENCE]).to_string(),
                    json!(["other"]).to_string(),
                    json!([AUDIENCE, 1]).to_string(),
                ],
            ),
            ("exp", times()),
            ("nbf", times()),
            ("iat", times()),
            ("jti", vec![text("id")]),
            ("cnf", vec![json!({ "jkt": "x" }).to_string()]),
            ("azp", vec![text(AUDIENCE), text("other")]),
            ("nonce", vec![text("n")]),
            ("acr", vec![text("0")]),
            ("amr", vec![json!(["pwd"]).to_string()]),
            ("auth_time", times()),
            ("at_hash", vec![text("x")]),
            ("email", vec![text("a@b.example")]),
            ("email_verified", vec![text("true")]),
            ("locale", vec![text("de-DE"), text("not a locale")]),
            ("updated_at", times()),
            ("address", vec![json!({ "country": "DE" }).to_string()]),
            ("name", vec![text("Name")]),
            (
                "kubernetes.io",
                vec![json!({ "namespace": "n" }).to_string()],
            ),
            ("unknown", vec![text("x")]),
        ] {
            let valid: Value = serde_json::from_str(&claims(json!({}))).unwrap();
            let mut others = valid.as_object().unwrap().clone();
            let own = others.remove(claim).map(|own| own.to_string());
            let others = Value::from(others).to_string();
            let others = others.strip_prefix('{').unwrap();
            if own.is_some() {
                self.add_payload(
                    format!("claim {claim}: missing"),
                    format!("{{{others}").as_bytes(),
                );
            }
            let first = own.unwrap_or_else(|| texts[0].clone());
            let all: BTreeSet<_> = texts.into_iter().chain(wrong_types.clone()).collect();
            for text in all {
                let payload = format!(r#"{{"{claim}":{text},{others}"#);
                let text = text.replace(&NOW.to_string(), "now");
                self.add_payload(format!("claim {claim}: {text}"), payload.as_bytes());
            }
            let payload = format!(r#"{{"{claim}":{first},"{claim}":{first},{others}"#);
            self.add_payload(format!("claim {claim}: repeated"), payload.as_bytes());
        }
        let valid = claims(json!({}));
        let with = |member: &str| format!("{},{member}}}", valid.strip_suffix('}').unwrap());
        let nested = |depth: usize| {
            with(&format!(
                r#""unknown":{}{}"#,
                "[".repeat(depth),
                "]".repeat(depth)
            ))
        };
        for (name, payload) in [
            ("claims: array", format!("[{valid}]")),
            ("claims: string", Value::from(valid.as_str()).to_string()),
            ("claims: empty object", "{}".to_owned()),
            ("claims: trailing object", format!("{valid}{{}}")),
            ("claims: white space", format!(" {valid}\n")),
            ("claims: byte order mark", format!("\u{feff}{valid}")),
            (
                "claims: half a surrogate pair",
                with(r#""unknown":"\udc00""#),
            ),
            (
                "claims: nested half a surrogate pair",
                with(r#""unknown":["\ud800x"]"#),
            ),
            (
                "claims: whole surrogate pair",
                with(r#""unknown":"\ud83d\ude00""#),
            ),
            ("claims: number out of range", with(r#""unknown":1e400"#)),
            ("claims: nested 100 levels", nested(100)),
            ("claims: nested 200 levels", nested(200)),
            ("claims: control character", with("\"unknown\":\"\u{1}\"")),
        ] {
            self.add_payload(name, payload.as_bytes());
        }
        let not_utf_8 = with("\"unknown\":\"?\"").into_bytes();
        let not_utf_8: Vec<_> = not_utf_8
            .iter()
            .map(|&byte| if byte == b'?' { 0xff } else { byte })
            .collect();
        self.add_payload("claims: not UTF-8", &not_utf_8);
    }

    fn add_signatures(&mut self) {
        let valid = self.signer.sign(HEADER, &claims(json!({})));
        let other = self.signer.sign(HEADER, &claims(json!({ "sub": "other" })));
        let (input, signature) = valid.rsplit_once('.').unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let with = |bytes: &[u8]| format!("{input}.{}", base64url(bytes));
        for byte in [0, 1, 30, 31, 32, 33, 62, 63] {
            for bit in [0, 7] {
                let mut changed = bytes.clone();
                changed[byte] ^= 1 << bit;
                self.add_token(
                    format!("signature: bit {bit} of byte {byte}"),
                    with(&changed),
                );
            }
        }
        let (r, s) = bytes.split_at(32);
        let der_integer = |number: &[u8]| {
            let padded = [&[0][..], number].concat();
            [&[0x02, padded.len() as u8][..], &padded].concat()
        };
        let der = [der_integer(r), der_integer(s)].concat();
        let der = [&[0x30, der.len() as u8][..], &der].concat();
        let order = [
            0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
            0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63,
            0x25, 0x51,
        ];
        let zero = [0; 32];
        for (name, bytes) in [
            ("signature: empty", Vec::new()),
            ("signature: one byte", vec![0]),
            ("signature: truncated", bytes[..63].to_vec()),
            ("signature: extended", [&bytes[..], &[0]].concat()),
            ("signature: r and s exchanged", [s, r].concat()),
            ("signature: r and s zero", [zero, zero].concat()),
            ("signature: r and s the order", [order, order].concat()),
            ("signature: s zero", [r, &zero].concat()),
            ("signature: DER", der),
            (
                "signature: of another key",
                URL_SAFE_NO_PAD
                    .decode(
                        Signer::new()
                            .sign(HEADER, &claims(json!({})))
                            .rsplit_once('.')
                            .unwrap()
                            .1,
                    )
                    .unwrap(),
            ),
            (
                "signature: of another token",
                URL_SAFE_NO_PAD
                    .decode(other.rsplit_once('.').unwrap().1)
                    .unwrap(),
            ),
        ] {
            self.add_token(name, with(&bytes));
        }
        self.add_token("signature: padded", format!("{valid}=="));
        self.add_token(
            "signature: standard base64",
            format!("{input}.{}", STANDARD.encode(&bytes)),
        );
        // 64 bytes leave 4 unused bits in the last character.
        let last = match signature.chars().last().unwrap() {
            'A' => 'B',
            'Q' => 'R',
            'g' => 'h',
            'w' => 'x',
            other => panic!("{other}"),
        };
        let non_canonical = format!("{}{last}", &signature[..signature.len() - 1]);
        self.add_token(
            "signature: non-canonical base64url",
            format!("{input}.{non_canonical}"),
        );
        let changed_payload = base64url(claims(json!({ "sub": "admin" })).as_bytes());
        let header = base64url(HEADER.as_bytes());
        self.add_token(
            "signature: of the original claims",
            format!("{header}.{changed_payload}.{signature}"),
        );
    }

    fn add_keys(&mut self) {
        let other = Signer::new();
        let without_kid = |jwk: &Value| {
            let mut jwk = jwk.clone();
            jwk.as_object_mut().unwrap().remove("kid");
            jwk
        };
        let with = |jwk: &Value, name: &str, value: Value| {
            let mut jwk = jwk.clone();
            jwk[name] = value;
            jwk
        };
        let (own, other) = (self.signer.jwk(), other.jwk());
        let renamed = with(&other, "kid", json!("other"));
        let no_kid_header = r#"{"alg":"ES256"}"#;
        for (name, header, keys) in [
            ("keys: two with one kid", HEADER, json!([own, other])),
            ("keys: the same key twice", HEADER, json!([own, own])),
            ("keys: two, token with kid", HEADER, json!([renamed, own])),
            (
                "keys: two, token without kid",
                no_kid_header,
                json!([renamed, own]),
            ),
            (
                "keys: the same key twice, token without kid",
                no_kid_header,
                json!([own, own]),
            ),
            (
                "keys: one without kid, token with kid",
                HEADER,
                json!([without_kid(&own)]),
            ),
            (
                "keys: one without kid, token without kid",
                no_kid_header,
                json!([without_kid(&own)]),
            ),
            (
                "keys: use sig",
                HEADER,
                json!([with(&own, "use", json!("sig"))]),
            ),
            (
                "keys: unusable use",
                HEADER,
                json!([with(&own, "use", json!("enc")), other]),
            ),
            (
                "keys: unusable use, token without kid",
                no_kid_header,
                json!([with(&other, "use", json!("enc")), own]),
            ),
            (
                "keys: key_ops without verify",
                HEADER,
                json!([with(&own, "key_ops", json!(["sign"])), renamed]),
            ),
            (
                "keys: alg ES256",
                HEADER,
                json!([with(&own, "alg", json!("ES256"))]),
            ),
            (
                "keys: alg ES384",
                HEADER,
                json!([with(&own, "alg", json!("ES384")), renamed]),
            ),
            (
                "keys: unknown kty beside",
                HEADER,
                json!([{ "kty": "AKP", "kid": "a", "pub": "x" }, own]),
            ),
            ("keys: number beside", HEADER, json!([1, own])),
            (
                "keys: private member",
                HEADER,
                json!([with(&own, "d", json!("AAAA"))]),
            ),
            (
                "keys: padded coordinate",
                HEADER,
                json!([
                    with(&own, "x", json!(format!("{}=", own["x"].as_str().unwrap()))),
                    renamed
                ]),
            ),
        ] {
            let token = self.signer.sign(header, &claims(json!({})));
            self.add_token_with_keys(name, token, json!({ "keys": keys }));
        }
    }

    /// Adds the tokens recorded from real clusters, at a second when they are valid and when they have just expired.
    fn add_recorded(&mut self) {
        let data = recorded_path("");
        let claim = |token: &str, name: &str| {
            let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
            serde_json::from_slice::<Value>(&payload).ok()?[name].as_u64()
        };
        for folder in [
            "v1.20/rs256",
            "v1.20/after-key-rotation",
            "v1.36/rs256",
            "v1.36/after-key-rotation",
            "v1.36/es256-beside-rs256",
        ] {
            let keys = std::fs::read(data.join(folder).join("jwks.json")).unwrap();
            let keys: Value = serde_json::from_slice(&keys).unwrap();
            for entry in std::fs::read_dir(data.join(folder)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|extension| extension != "jwt") {
                    continue;
                }
                let token = std::fs::read_to_string(&path)
                    .unwrap()
                    .trim_end()
                    .to_owned();
                let name = path.file_stem().unwrap().to_str().unwrap();
                let issued_at = claim(&token, "iat").unwrap_or(NOW);
                let expires_at = claim(&token, "exp").unwrap_or(NOW);
                for (when, now) in [("valid", issued_at + 1), ("expired", expires_at)] {
                    self.all.push(Case {
                        name: format!("recorded {folder}/{name}, {when}"),
                        token: token.clone(),
                        keys: keys.clone(),
                        issuer: "https://kubernetes.default.svc.cluster.local",
                        now,
                    });
                }
            }
        }
    }
}

#[tokio::test]
async fn both_verifiers_agree_except_for_the_listed_differences() {
    let mut cases = Cases::new();
    cases.add_formats();
    cases.add_header_parameters();
    cases.add_claims();
    cases.add_signatures();
    cases.add_keys();
    cases.add_recorded();
    let names: BTreeSet<_> = cases.all.iter().map(|case| &case.name).collect();
    assert_eq!(names.len(), cases.all.len(), "two cases have one name");

    // Creating a guard loads the system's root certificates, so cases share guards.
    let mut guards = BTreeMap::new();
    let mut found = BTreeMap::new();
    let mut accepted_by_both = BTreeSet::new();
    for case in &cases.all {
        let guard = guards
            .entry((case.keys.to_string(), case.issuer, case.now))
            .or_insert_with(|| guard(case));
        let is_accepted = guard.verifier().verify(&case.token).await.is_ok();
        match (is_accepted, openidconnect_accepts(case)) {
            (true, true) => drop(accepted_by_both.insert(case.name.as_str())),
            (false, false) => {}
            (true, false) => drop(found.insert(case.name.as_str(), Guard)),
            (false, true) => drop(found.insert(case.name.as_str(), Openidconnect)),
        }
    }
    for name in ["valid", "recorded v1.36/rs256/gke-sa-600s, valid"] {
        assert!(accepted_by_both.contains(name), "{accepted_by_both:?}");
    }

    let mut wrong = String::new();
    for case in &cases.all {
        let name = case.name.as_str();
        let listed: Vec<_> = DIFFERENCES
            .iter()
            .filter(|(_, _, patterns)| {
                patterns
                    .iter()
                    .any(|pattern| matches_pattern(name, pattern))
            })
            .map(|(accepted_by, _, _)| *accepted_by)
            .collect();
        let found: Vec<_> = found.get(name).copied().into_iter().collect();
        if listed != found {
            writeln!(
                wrong,
                "{name}: only accepted by {found:?}, listed as {listed:?}"
            )
            .unwrap();
        }
    }
    let patterns = DIFFERENCES.iter().flat_map(|(_, _, patterns)| *patterns);
    for pattern in patterns {
        if !names.iter().any(|name| matches_pattern(name, pattern)) {
            writeln!(wrong, "{pattern}: no such case").unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "differences other than those listed:\n{wrong}"
    );
}

/// Returns whether a case has this name or, for a pattern that ends in `*`, a name that begins with it.
fn matches_pattern(name: &str, pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

#[derive(Debug, Deserialize, Serialize)]
struct Groups {
    groups: Vec<String>,
}

impl AdditionalClaims for Groups {}

/// Verifies a token with these claims.
async fn verified_identity(changes: Value) -> Identity {
    let signer = Signer::new();
    let guard = guard_with_keys(&[signer.jwk()]);
    let token = signer.sign(HEADER, &claims(changes));
    guard.verifier().verify(token).await.unwrap()
}

#[tokio::test]
async fn id_token_claims_are_typed_and_equal_those_of_openidconnect() {
    let identity = verified_identity(json!({
        "aud": [AUDIENCE, "other"],
        "email": "a@b.example",
        "email_verified": true,
        "name": "A",
        "name#de": "Ä",
        "groups": ["one", "two"],
    }))
    .await;
    let claims = identity.id_token_claims::<Groups>().unwrap();
    assert_eq!(claims.issuer().as_str(), identity.issuer());
    assert_eq!(claims.subject().as_str(), identity.subject());
    let audiences: Vec<_> = claims
        .audiences()
        .iter()
        .map(|audience| audience.as_str())
        .collect();
    assert_eq!(audiences, identity.audiences());
    assert_eq!(SystemTime::from(claims.expiration()), identity.expires_at());
    assert_eq!(Some(claims.issue_time().into()), identity.issued_at());
    assert_eq!(claims.email().unwrap().as_str(), "a@b.example");
    assert_eq!(claims.email_verified(), Some(true));
    let german = LanguageTag::new("de".to_owned());
    assert_eq!(claims.name().unwrap().get(None).unwrap().as_str(), "A");
    assert_eq!(
        claims.name().unwrap().get(Some(&german)).unwrap().as_str(),
        "Ä"
    );
    assert_eq!(claims.additional_claims().groups, ["one", "two"]);
}

#[tokio::test]
async fn id_token_claims_are_an_error_if_the_token_is_not_an_id_token() {
    for (changes, reason) in [
        (json!({ "iat": null }), "missing field `iat`"),
        (json!({ "locale": 1 }), "expected a string"),
        (json!({ "groups": 1 }), "expected a sequence"),
    ] {
        let identity = verified_identity(changes).await;
        let error = identity.id_token_claims::<EmptyAdditionalClaims>().err();
        let error = error.or_else(|| identity.id_token_claims::<Groups>().err());
        let error = error.unwrap().to_string();
        assert!(error.contains(reason), "{error}");
    }
}
