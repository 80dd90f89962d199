//! The parsers of this library take time in proportion to the length of their input.

use std::hint::black_box;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::linear::{Case, assert_linear};
use crate::timestamp::parse_timestamp;
use crate::token::Token;

/// Returns a text of `length` parts, in which each part gets its number.
fn parts(open: &str, length: usize, part: impl Fn(usize) -> String, close: &str) -> Vec<u8> {
    let parts: Vec<_> = (0..length).map(part).collect();
    format!("{open}{}{close}", parts.join(",")).into_bytes()
}

fn jwt(claims: Vec<u8>) -> Vec<u8> {
    let [header, signature] =
        [br#"{"alg":"ES256"}"#.as_slice(), &[7; 64]].map(|part| URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode(claims)).into_bytes()
}

fn parse_token(token: &[u8]) {
    let _ = black_box((Token::new(token).is_ok(), Token::opaque(token).is_ok()));
}

const CASES: &[Case] = &[
    Case {
        name: "token with many audiences",
        input: |length| {
            jwt(parts(
                r#"{"aud":["#,
                length,
                |index| format!(r#""https://{index}.example""#),
                "]}",
            ))
        },
        parse: parse_token,
    },
    Case {
        name: "token with many claims",
        input: |length| {
            jwt(parts(
                "{",
                length,
                |index| format!(r#""c{index}":{{"a":[]}}"#),
                "}",
            ))
        },
        parse: parse_token,
    },
    Case {
        name: "file of dots",
        input: |length| ".".repeat(64 * length).into_bytes(),
        parse: parse_token,
    },
    Case {
        name: "file of white space",
        input: |length| {
            format!("{}a{}", " \n".repeat(32 * length), "\t".repeat(32 * length)).into_bytes()
        },
        parse: parse_token,
    },
    Case {
        name: "file of letters that are not ASCII",
        input: |length| "é".repeat(32 * length).into_bytes(),
        parse: parse_token,
    },
    Case {
        name: "time with a long fraction",
        input: |length| format!("2026-11-26T16:00:00.{}Z", "1".repeat(64 * length)).into_bytes(),
        parse: |text| {
            black_box(parse_timestamp(str::from_utf8(text).unwrap()));
        },
    },
];

#[test]
fn four_times_as_long_an_input_takes_four_times_as_many_instructions() {
    assert_linear(
        "fuzz::instructions::four_times_as_long_an_input_takes_four_times_as_many_instructions",
        CASES,
    );
}

#[cfg(feature = "federation")]
mod responses {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::fuzz::SECRET;
    use crate::source::http::{Response, Secrets};
    use crate::source::json_member::find_member;

    fn parse_error(body: &[u8]) {
        let secrets = Secrets::default().with(SECRET);
        let response =
            Response::for_test(StatusCode::BAD_REQUEST, &HeaderMap::new(), body, secrets);
        black_box(response.error());
    }

    const CASES: &[Case] = &[
        Case {
            name: "file with many members",
            input: |length| {
                parts(
                    "{",
                    length,
                    |index| format!(r#""m{index}":"a""#),
                    r#","token":"a"}"#,
                )
            },
            parse: |json| drop(black_box(find_member(json, "token"))),
        },
        Case {
            name: "error with many credentials",
            input: |length| {
                parts(
                    r#"{"error":"a","error_description":""#,
                    length,
                    |index| format!("{index} {SECRET} "),
                    r#""}"#,
                )
            },
            parse: parse_error,
        },
        Case {
            name: "error with many parts of a credential",
            input: |length| {
                parts(
                    r#"{"error":"a","error_description":""#,
                    length,
                    |index| SECRET[index % 8..].to_owned(),
                    r#""}"#,
                )
            },
            parse: parse_error,
        },
        Case {
            name: "error with many words that may be tokens",
            input: |length| {
                parts(
                    r#"{"message":""#,
                    length,
                    |index| format!("eyJ{index:040} "),
                    r#""}"#,
                )
            },
            parse: parse_error,
        },
        Case {
            name: "error of control characters",
            input: |length| "\u{1b}\u{85}\r\n".repeat(8 * length).into_bytes(),
            parse: parse_error,
        },
    ];

    #[test]
    fn four_times_as_long_an_answer_takes_four_times_as_many_instructions() {
        assert_linear(
            "fuzz::instructions::responses::four_times_as_long_an_answer_takes_four_times_as_many_instructions",
            CASES,
        );
    }
}
