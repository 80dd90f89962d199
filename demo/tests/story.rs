//! The default program plays the whole story.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(arguments)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The four figures of the last line, in the one form it has.
fn figures(line: &str) -> [u64; 4] {
    let rest = line.strip_prefix("demo: ").expect(line);
    let names = [
        " requests",
        " token rotations",
        " key rotations",
        " unexpected answers",
    ];
    let parts: Vec<_> = rest.split(", ").collect();
    assert_eq!(parts.len(), names.len(), "{line}");
    std::array::from_fn(|i| {
        parts[i]
            .strip_suffix(names[i])
            .expect(line)
            .parse()
            .expect(line)
    })
}

#[test]
fn the_story_goes_through_rotations_without_an_unexpected_answer() {
    let output = demo(&[]);
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}");
    let [requests, token_rotations, key_rotations, unexpected] =
        figures(told.lines().last().unwrap());
    assert!(
        requests > 1000 && token_rotations >= 5 && key_rotations >= 1,
        "{told}"
    );
    assert_eq!(unexpected, 0, "{told}");
    for part in [
        "open to anyone",
        "without a token               401, refused",
        "let in as id-namespace/gke-sa",
        "with a token for another one  401, refused",
        "saw token 5",
        "fetched the new key",
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    assert!(!told.contains('\x1b'), "plain in a pipe");
    assert!(!told.contains("eyJ"), "no token is shown");
}

#[test]
fn the_full_story_goes_through_both_gates_and_an_outage() {
    let output = demo(&["--story", "full"]);
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}");
    assert_eq!(figures(told.lines().last().unwrap())[3], 0, "{told}");
    for part in [
        "gate: without a token            403",
        "gate: a member, once it is one   200",
        "gate: a member no more           403",
        "guarded twice, with one token    401",
        "guarded twice, with both tokens  200",
        "a token for the second one       200",
        "issuer away, its keys at hand    200",
        "issuer away, no keys yet         503",
        "issuer back, keys fetched        200",
    ] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    assert!(!told.contains("eyJ"), "no token is shown");
}

#[test]
fn with_json_each_line_is_an_object_and_the_last_one_the_summary() {
    let output = demo(&["--json", "--duration", "12"]);
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}");
    let lines: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let summary = lines.last().unwrap();
    assert_eq!(summary["event"], "summary");
    assert_eq!(summary["unexpected_answers"], 0);
    assert!(summary["token_rotations"].as_u64() >= Some(5), "{summary}");
    assert!(
        lines
            .iter()
            .any(|line| line["event"] == "key_rotated" && line["who"] == "issuer")
    );
    let plain = text(&output.stderr).lines().last().unwrap();
    assert_eq!(figures(plain)[0], summary["requests"].as_u64().unwrap());
}

#[test]
fn bad_flags_are_told_clearly() {
    for (arguments, part) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--duration", "soon"], "--duration"),
        (&["--duration", "3"], "12"),
        (&["--port", "99999"], "--port"),
    ] {
        let output = demo(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let told = text(&output.stderr);
        assert!(told.starts_with("error: ") && told.contains(part), "{told}");
    }
}

#[test]
fn help_explains_the_flags() {
    let output = demo(&["--help"]);
    let told = text(&output.stdout);
    assert!(output.status.success());
    for flag in ["--duration", "--json", "--port"] {
        assert!(told.contains(flag), "{told}");
    }
}

#[test]
fn a_busy_port_is_told_clearly() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = demo(&["--port", &address.port().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(
        told.contains(&address.to_string()) && told.contains("--port"),
        "{told}"
    );
    assert!(!told.contains("panicked"), "{told}");
}
