//! The default program, which runs the scenario.

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::Value;

fn run_demo(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(arguments)
        .output()
        .unwrap()
}

fn as_str(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Joins all words with single spaces, since the padding between columns is of no interest.
fn normalize_spaces(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Parses the four numbers of the summary line.
fn parse_summary(line: &str) -> [u64; 4] {
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
fn the_short_scenario_has_rotations_and_no_unexpected_response() {
    let output = run_demo(&[]);
    let printed = as_str(&output.stdout);
    assert!(output.status.success(), "{printed}");
    let [requests, token_rotations, key_rotations, unexpected] =
        parse_summary(printed.lines().last().unwrap());
    assert!(
        requests > 1000 && token_rotations >= 5 && key_rotations >= 1,
        "{printed}"
    );
    assert_eq!(unexpected, 0, "{printed}");
    let words = normalize_spaces(printed);
    for part in [
        "GET / without a token 200, open to any caller",
        "GET / with a token 200, open to any caller",
        "GET /private without a token 401, rejected",
        "GET /private with a token 200, admitted as id-namespace/gke-sa",
        "GET /private with a token for another audience 401, rejected",
        "received token 5",
        "fetched the new key",
    ] {
        assert!(words.contains(part), "{part:?} in {printed}");
    }
    assert!(!printed.contains('\x1b'), "colours in a pipe");
    assert!(!printed.contains("eyJ"), "the demo printed a token");
}

#[test]
fn the_full_scenario_has_a_gate_several_audiences_a_shadow_policy_an_outage_and_a_federated_identity()
 {
    let output = run_demo(&["--story", "full"]);
    let printed = as_str(&output.stdout);
    assert!(output.status.success(), "{printed}");
    assert_eq!(
        parse_summary(printed.lines().last().unwrap())[3],
        0,
        "{printed}"
    );
    let words = normalize_spaces(printed);
    for part in [
        "GET / gate: without a token 403",
        "GET / gate: account not in the policy 403",
        "GET / gate: account added to the policy 200",
        "GET / gate: account removed from the policy 403",
        "GET /private gate and guard: one token 401",
        "GET /private gate and guard: a token for each 200",
        "GET /private token for the first audience 200",
        "GET /private token for the second audience 200",
        "compares its policy with a stricter one, which it does not enforce",
        "GET /private shadow policy: allowed by both 200",
        "GET /private shadow policy: denied by it alone 200",
        "announced that 3 of 6 requests would be rejected, all from system:serviceaccount:id-namespace:legacy",
        "enforces what was the shadow policy",
        "GET /private promoted policy: allowed by both 200",
        "GET /private promoted policy: announced caller 403",
        "rejected 3 of 6 requests: those that were announced",
        "GET /private issuer down, keys already fetched 200",
        "GET /private issuer down, no keys yet 503",
        "GET /private issuer up again, keys fetched 200",
        "GET /private token confirmed: its pod exists 200",
        "GET /private pod deleted, token still signed 401",
        "GET /private pod deleted, server without reviews 200",
        "GET / gate: projected token exchanged 200",
        "GET /private gate and guard: exchanged, projected 200",
        "google verified and exchanged the new token",
        "GET / gate: new projected token exchanged 200",
        "GET / gate: token service down 200",
        "GET / gate: token service up again 200",
        "GET / gate: role on the account missing 200",
        "client logs what to do: gcloud iam service-accounts add-iam-policy-binding",
        "GET / gate: role on the account granted 200",
    ] {
        assert!(words.contains(part), "{part:?} in {printed}");
    }
    assert!(!printed.contains("eyJ"), "the demo printed a token");
}

#[test]
fn json_output_has_an_object_per_line_and_ends_with_the_summary() {
    let output = run_demo(&["--json", "--duration", "12"]);
    let printed = as_str(&output.stdout);
    assert!(output.status.success(), "{printed}");
    let lines: Vec<Value> = printed
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
            .any(|line| line["event"] == "key_rotated" && line["component"] == "issuer")
    );
    let plain = as_str(&output.stderr).lines().last().unwrap();
    assert_eq!(
        parse_summary(plain)[0],
        summary["requests"].as_u64().unwrap()
    );
}

#[test]
fn invalid_flags_are_named_in_the_error() {
    for (arguments, part) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["--duration", "soon"], "--duration"),
        (&["--duration", "3"], "12"),
        (&["--port", "99999"], "--port"),
    ] {
        let output = run_demo(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let printed = as_str(&output.stderr);
        assert!(
            printed.starts_with("error: ") && printed.contains(part),
            "{printed}"
        );
    }
}

#[test]
fn help_lists_the_flags() {
    let output = run_demo(&["--help"]);
    let printed = as_str(&output.stdout);
    assert!(output.status.success());
    for flag in ["--duration", "--json", "--port"] {
        assert!(printed.contains(flag), "{printed}");
    }
}

#[test]
fn a_port_in_use_is_named_with_its_flag() {
    let in_use = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = in_use.local_addr().unwrap();
    let output = run_demo(&["--port", &address.port().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let printed = as_str(&output.stderr);
    assert!(
        printed.contains(&address.to_string()) && printed.contains("--port"),
        "{printed}"
    );
    assert!(!printed.contains("panicked"), "{printed}");
}
