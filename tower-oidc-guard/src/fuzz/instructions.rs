//! The parsers of this library take time in proportion to the length of their input.

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;

use super::linear::{Case, assert_linear};
use crate::guard::extract_token;
use crate::jose::algorithm::Algorithm;
use crate::jose::claims::Claims;
use crate::jose::key_set::KeySet;
use crate::jose::{UnverifiedJws, pem};
use crate::keys::discovery::DiscoveryDocument;

/// Returns a text of `length` parts, in which each part gets its number.
fn parts(open: &str, length: usize, part: impl Fn(usize) -> String, close: &str) -> Vec<u8> {
    let parts: Vec<_> = (0..length).map(part).collect();
    format!("{open}{}{close}", parts.join(",")).into_bytes()
}

fn header(json: Vec<u8>) -> Vec<u8> {
    format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(json)).into_bytes()
}

fn parse_jws(token: &[u8]) {
    let _ = black_box(UnverifiedJws::parse(token, usize::MAX));
}

fn parse_claims(payload: &[u8]) {
    let claims = Claims::parse(payload);
    let accepted = ["https://auth-server.example".to_owned()];
    let _ = black_box(claims.is_ok_and(|claims| claims.audiences.contain_any_of(&accepted)));
}

fn parse_keys(json: &[u8]) {
    let keys = KeySet::from_json(json, [Algorithm::EdDSA].into_iter().collect()).unwrap();
    black_box((
        keys.usable(),
        keys.shared_kids().count(),
        keys.skipped().count(),
    ));
    let _ = black_box(keys.verify(Some("k"), Algorithm::EdDSA, b"a", &[0; 64]));
}

fn parse_discovery(json: &[u8]) {
    let url = Url::parse("https://issuer.example/").unwrap();
    let _ = black_box(DiscoveryDocument::parse(json, &url));
}

const KEY: &str =
    r#"{"kty":"OKP","crv":"Ed25519","kid":"k","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

const CASES: &[Case] = &[
    Case {
        name: "header with many parameters",
        input: |length| {
            header(parts(
                "{",
                length,
                |index| format!(r#""p{index}":{index}"#),
                "}",
            ))
        },
        parse: parse_jws,
    },
    Case {
        name: "header with one parameter many times",
        input: |length| header(parts("{", length, |_| r#""alg":"ES256""#.to_owned(), "}")),
        parse: parse_jws,
    },
    Case {
        name: "token with many dots",
        input: |length| ".".repeat(64 * length).into_bytes(),
        parse: parse_jws,
    },
    Case {
        name: "many claims",
        input: |length| parts("{", length, |index| format!(r#""c{index}":"value""#), "}"),
        parse: parse_claims,
    },
    Case {
        name: "many audiences",
        input: |length| {
            let open = r#"{"iss":"a","sub":"a","exp":1,"aud":["#;
            parts(
                open,
                length,
                |index| format!(r#""https://{index}.example""#),
                "]}",
            )
        },
        parse: parse_claims,
    },
    Case {
        name: "escapes",
        input: |length| {
            parts(
                r#"{"iss":""#,
                length,
                |_| r"\u00e9\ud83d\ude00\n".to_owned(),
                r#""}"#,
            )
        },
        parse: parse_claims,
    },
    Case {
        name: "nested claims",
        input: |length| {
            format!(
                r#"{{"a":{}{}}}"#,
                r#"{"a":["#.repeat(8 * length),
                "]}".repeat(8 * length)
            )
            .into_bytes()
        },
        parse: parse_claims,
    },
    Case {
        name: "the same key many times",
        input: |length| parts(r#"{"keys":["#, length, |_| KEY.to_owned(), "]}"),
        parse: parse_keys,
    },
    Case {
        name: "many keys that cannot be used, with one kid",
        input: |length| {
            parts(
                r#"{"keys":["#,
                length,
                |index| format!(r#"{{"kty":"oct","kid":"k","k":"{index}"}}"#),
                "]}",
            )
        },
        parse: parse_keys,
    },
    Case {
        name: "a key with many members",
        input: |length| {
            let close = format!("}},{KEY}]}}");
            parts(
                r#"{"keys":[{"#,
                length,
                |index| format!(r#""m{index}":{index}"#),
                &close,
            )
        },
        parse: parse_keys,
    },
    Case {
        name: "the same key in PEM many times",
        input: |length| {
            let block = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n";
            block.repeat(length).into_bytes()
        },
        parse: |text| drop(black_box(pem::parse(text))),
    },
    Case {
        name: "different keys in PEM",
        input: |length| {
            let block = |index: usize| {
                let mut der = hex_prefix().to_vec();
                der.extend_from_slice(&[0; 24]);
                der.extend_from_slice(&index.to_be_bytes());
                let text = base64::engine::general_purpose::STANDARD.encode(der);
                format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
            };
            (0..length).map(block).collect::<String>().into_bytes()
        },
        parse: |text| drop(black_box(pem::parse(text))),
    },
    Case {
        name: "discovery document with many algorithms",
        input: |length| {
            let open = r#"{"issuer":"a","jwks_uri":"https://a.example","id_token_signing_alg_values_supported":["#;
            parts(open, length, |_| r#""ES256""#.to_owned(), "]}")
        },
        parse: parse_discovery,
    },
    Case {
        name: "header value with many schemes",
        input: |length| "Basic YTpi, Bear er ".repeat(length).into_bytes(),
        parse: extract_token,
    },
    Case {
        name: "header value of spaces",
        input: |length| " \t".repeat(32 * length).into_bytes(),
        parse: extract_token,
    },
];

/// The beginning of the DER encoding of an Ed25519 key (RFC 8410), up to its 32 bytes.
const fn hex_prefix() -> [u8; 12] {
    [
        0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
    ]
}

#[test]
fn four_times_as_long_an_input_takes_four_times_as_many_instructions() {
    assert_linear(
        "fuzz::instructions::four_times_as_long_an_input_takes_four_times_as_many_instructions",
        CASES,
    );
}

#[cfg(feature = "policy-file")]
mod policy_files {
    use super::*;
    use crate::policy::check_policy_content;

    const CASES: &[Case] = &[
        Case {
            name: "many members",
            input: |length| {
                let member = |index| format!("  - system:serviceaccount:shop:account-{index}\n");
                let members: String = (0..length).map(member).collect();
                format!("allow:\n{members}").into_bytes()
            },
            parse: check_policy_content,
        },
        Case {
            name: "many scopes",
            input: |length| {
                parts(
                    r#"{"allow":[],"scopes":["#,
                    length,
                    |index| format!(r#""s{index}""#),
                    "]}",
                )
            },
            parse: check_policy_content,
        },
        Case {
            name: "many audiences",
            input: |length| {
                parts(
                    r#"{"allow":[],"audiences":["#,
                    length,
                    |index| format!(r#""s{index}""#),
                    "]}",
                )
            },
            parse: check_policy_content,
        },
        Case {
            name: "many unknown fields",
            input: |length| {
                parts(
                    r#"{"allow":[],"#,
                    length,
                    |index| format!(r#""s{index}":1"#),
                    "}",
                )
            },
            parse: check_policy_content,
        },
        Case {
            name: "many comments",
            input: |length| format!("{}allow: []\n", "# a comment\n\n".repeat(length)).into_bytes(),
            parse: check_policy_content,
        },
        Case {
            name: "many aliases",
            input: |length| {
                format!("deny: &a [allUsers]\nallow: [{}]\n", "*a, ".repeat(length)).into_bytes()
            },
            parse: check_policy_content,
        },
        Case {
            name: "many open brackets",
            input: |length| "[".repeat(32 * length).into_bytes(),
            parse: check_policy_content,
        },
    ];

    #[test]
    #[ignore = "takes minutes: parsing YAML without optimization takes many instructions"]
    fn four_times_as_long_a_file_takes_four_times_as_many_instructions() {
        assert_linear(
            "fuzz::instructions::policy_files::four_times_as_long_a_file_takes_four_times_as_many_instructions",
            CASES,
        );
    }
}
