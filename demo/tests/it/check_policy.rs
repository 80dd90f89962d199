//! `auth-server check-policy`.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::SERVER;

/// Runs `auth-server check-policy` in a directory, with these arguments and environment variables. Returns its exit code, and
/// the lines that it printed to standard output and to standard error.
fn check(
    directory: &Path,
    arguments: &[&str],
    variables: &[(&str, &str)],
) -> (Option<i32>, Vec<String>, Vec<String>) {
    let output = Command::new(SERVER)
        .arg("check-policy")
        .args(arguments)
        .current_dir(directory)
        .env_remove("ID_ISSUER")
        .env_remove("JWT_AUDIENCE")
        .envs(variables.iter().copied())
        .output()
        .unwrap();
    let lines = |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    (
        output.status.code(),
        lines(output.stdout),
        lines(output.stderr),
    )
}

#[test]
fn a_valid_policy_is_summarized_without_further_settings() {
    let folder = tempfile::tempdir().unwrap();
    let policy = "allow:\n- system:serviceaccounts:shop\n- user:jane@example.com\ndeny: [\"system:serviceaccount:shop:legacy\"]\nclaims: { hd: example.com }\n";
    std::fs::write(folder.path().join("shop.yaml"), policy).unwrap();
    // The environment variables of the server itself are not read.
    let variables = [("PORT", "none"), ("ID_ISSUER", " "), ("JWT_AUDIENCE", "a")];
    let (code, printed, errors) = check(folder.path(), &["shop.yaml"], &variables);
    assert_eq!((code, errors), (Some(0), vec![]));
    assert_eq!(
        printed,
        [
            "shop.yaml: the policy is valid",
            "allow: 2 members",
            "  system:serviceaccounts:shop",
            "  user:jane@example.com",
            "deny: 1 member",
            "  system:serviceaccount:shop:legacy",
            "audiences: any that the issuer accepts",
            "claims: 1 claim",
            "  hd: \"example.com\"",
            "issuers: not checked; to check that the members and audiences belong to the server's issuers, set --issuer (ID_ISSUER) and --audience (JWT_AUDIENCE)",
        ]
    );
}

#[test]
fn matchers_and_scopes_are_part_of_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let policy = "allow: [allAuthenticatedUsers]\nscopes: [orders.read]\nclaims:\n  /kubernetes.io/pod/name: { glob: \"web-*\" }\n  groups: { contains: { one_of: [admins, ops] } }\n";
    std::fs::write(folder.path().join("shop.yaml"), policy).unwrap();
    let (code, printed, errors) = check(folder.path(), &["shop.yaml"], &[]);
    assert_eq!((code, errors), (Some(0), vec![]));
    assert_eq!(
        printed.get(4..9).unwrap_or_default(),
        [
            "audiences: any that the issuer accepts",
            "scopes: 1 scope",
            "  orders.read",
            "claims: 2 claims",
            "  /kubernetes.io/pod/name: glob \"web-*\"",
        ]
    );
    assert_eq!(printed[9], "  groups: contains one of \"admins\", \"ops\"");
}

#[test]
fn an_invalid_policy_ends_it_with_1_and_the_position_of_the_error() {
    let folder = tempfile::tempdir().unwrap();
    for (content, expected) in [
        (
            "# The shop\nallow:\n  - allUsers\n  -   system:serviceacount:shop:web\n",
            "shop.yaml:4:7: the member \"system:serviceacount:shop:web\" has no known form; did you mean \"system:serviceaccount:shop:web\"?; the forms are allUsers, allAuthenticatedUsers, system:authenticated, system:serviceaccounts, system:serviceaccounts:<namespace>, system:serviceaccount:<namespace>:<name>, serviceAccount:<email>, user:<email> and principal:<issuer>#<subject>",
        ),
        (
            "allow:\n\t- allUsers\n",
            "shop.yaml:2:2: the line is indented with a tab; use spaces",
        ),
    ] {
        std::fs::write(folder.path().join("shop.yaml"), content).unwrap();
        let (code, printed, errors) = check(folder.path(), &["shop.yaml"], &[]);
        assert_eq!((code, printed), (Some(1), vec![]));
        assert_eq!(errors, [expected]);
    }
    let (code, _, errors) = check(folder.path(), &["missing.yaml"], &[]);
    assert_eq!(code, Some(1));
    assert!(errors[0].contains("missing.yaml"), "{errors:?}");
}

#[test]
fn a_policy_is_read_from_standard_input() {
    for path in ["-", "/dev/stdin"] {
        for (content, code, first) in [
            (
                "allow: [allUsers]\n",
                0,
                "standard input: the policy is valid",
            ),
            (
                "{\"allow\":[\"allUsers\"]}, \"deny\":[\"system:serviceaccount:shop:evil\"]}",
                1,
                "standard input:1:23: there is more text after the closing }; the file must be one mapping",
            ),
        ] {
            let mut server = Command::new(SERVER)
                .args(["check-policy", path])
                .env_remove("ID_ISSUER")
                .env_remove("JWT_AUDIENCE")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = server.stdin.take().unwrap();
            input.write_all(content.as_bytes()).unwrap();
            drop(input);
            let output = server.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{path}: {content}");
            let text = if code == 0 {
                output.stdout
            } else {
                output.stderr
            };
            let text = String::from_utf8(text).unwrap();
            assert_eq!(text.lines().next(), Some(first), "{path}: {content}");
        }
    }
}

#[test]
fn a_policy_is_checked_against_the_issuers_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("shop.yaml"),
        "allow:\n- user:jane@example.com\n",
    )
    .unwrap();
    let cluster = [
        "shop.yaml",
        "--issuer",
        "https://cluster.example",
        "--audience",
        "a",
    ];
    let (code, printed, errors) = check(folder.path(), &cluster, &[]);
    assert_eq!((code, printed), (Some(1), vec![]));
    assert_eq!(
        errors,
        [
            "shop.yaml:2:3: the policy has members of Google, and no trusted issuer is of that platform; add such an issuer to the guard, or remove the members"
        ]
    );
    let variables = [("ID_ISSUER", "google"), ("JWT_AUDIENCE", "a")];
    let (code, printed, errors) = check(folder.path(), &["shop.yaml"], &variables);
    assert_eq!((code, errors), (Some(0), vec![]));
    assert_eq!(
        printed.last().map(String::as_str),
        Some("issuers: the members and audiences belong to those in --issuer (ID_ISSUER)")
    );
    std::fs::write(
        folder.path().join("shop.yaml"),
        "allow: [allAuthenticatedUsers]\n",
    )
    .unwrap();
    let (code, printed, _) = check(folder.path(), &["shop.yaml"], &variables);
    assert_eq!(code, Some(0));
    let warning = "warning: the policy allows allAuthenticatedUsers, and Google is a trusted issuer: anyone on the internet can get such a token";
    assert!(printed.iter().any(|line| line == warning), "{printed:?}");
}

#[test]
fn invalid_settings_end_it_with_2() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("shop.yaml"), "allow: []\n").unwrap();
    for arguments in [
        &[][..],
        &["shop.yaml", "other.yaml"],
        &["shop.yaml", "--port", "1"],
        &["shop.yaml", "--issuer", "cluster", "--audience", "a"],
    ] {
        let (code, _, errors) = check(folder.path(), arguments, &[]);
        assert_eq!(code, Some(2), "{arguments:?}");
        assert!(!errors.is_empty(), "{arguments:?}");
    }
}
