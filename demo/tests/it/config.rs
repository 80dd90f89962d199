//! `auth-server --config`.

use tower_oidc_guard::testing::TestIssuer;

use crate::process::{MAX_POLLS, POLL_INTERVAL};
use crate::support::{
    SERVER, Server, http_client, path_string, replace_file, service_account_token,
};

/// Waits until requests with this token get this status.
async fn wait_for_status(server: &Server, token: &str, expected: u16) {
    let mut status = 0;
    for _ in 0..MAX_POLLS {
        status = server.status("/private", token).await;
        if status == expected {
            return;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    panic!("the status is {status} instead of {expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_configuration_file_takes_effect_and_a_bad_one_changes_nothing() {
    let issuer = TestIssuer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.yaml");
    let content = |audience: &str| {
        format!(
            "issuers:\n  - {{ url: \"{}\", platform: kubernetes, audiences: [{audience}], insecure_loopback_http: true }}\nallow: [allAuthenticatedUsers]\n",
            issuer.url()
        )
    };
    std::fs::write(&path, content("first")).unwrap();
    let config = path_string(&path);
    let server = Server::start_with(
        &["--address", "127.0.0.1", "--port", "0", "--config", &config],
        &[],
    )
    .await;
    let (first, second) = (
        service_account_token(&issuer, "first").mint(),
        service_account_token(&issuer, "second").mint(),
    );
    assert_eq!(server.status("/private", &first).await, 200);
    assert_eq!(server.status("/private", &second).await, 401);
    replace_file(&path, &content("second"));
    wait_for_status(&server, &second, 200).await;
    assert_eq!(server.status("/private", &first).await, 401);
    let changed = "configuration changed: the guard may admit callers that it did not admit before";
    server.process.wait_for_line(changed).await;
    replace_file(&path, &format!("{}relam: x\n", content("first")));
    let bad = server
        .process
        .wait_for_line("keeping the previous content")
        .await;
    assert!(bad.contains("line 4, column 1: unknown field"), "{bad}");
    assert_eq!(server.status("/private", &second).await, 200);
    assert_eq!(server.status("/private", &first).await, 401);
}

#[test]
fn a_flag_that_the_file_replaces_cannot_be_set_beside_it() {
    for flags in [
        &["--issuer", "google"][..],
        &["--audience", "a"],
        &["--policy-file", "p.yaml"],
        &["--optional"],
        &["--leeway", "3"],
        &["--cache-tokens", "1"],
        &["--ready-issuers", "any"],
    ] {
        let mut command = std::process::Command::new(SERVER);
        let output = command
            .args(["--config", "guard.yaml"])
            .args(flags)
            .output();
        let output = output.unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("cannot be used with"), "{flags:?}: {error}");
        assert_eq!(output.status.code(), Some(2), "{error}");
    }
}

#[test]
fn a_whole_configuration_file_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guard.yaml");
    let check = |content: &str| {
        std::fs::write(&path, content).unwrap();
        let mut command = std::process::Command::new(SERVER);
        command.arg("check-policy").arg("guard.yaml");
        command
            .current_dir(&folder)
            .env_remove("ID_ISSUER")
            .env_remove("JWT_AUDIENCE");
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let valid = "issuers: [{ url: \"https://c.example\", platform: kubernetes, audiences: [a] }]\nallow: [\"system:serviceaccounts:shop\"]\n";
    let (code, printed, errors) = check(valid);
    assert_eq!((code, errors), (Some(0), String::new()));
    let expected = "issuers: the members and audiences belong to those in the file\n";
    assert!(printed.ends_with(expected), "{printed}");
    for (more, expected) in [
        (
            "max_token_bytes: 7\n",
            "guard.yaml:3:1: `max_token_bytes` is 7; expected 1024 (1 KiB) to 1048576 (1 MiB)",
        ),
        ("ready_when: [nobody]\n", "guard.yaml:3:1: "),
        (
            "strip_token: 1\n",
            "guard.yaml:3:14: `strip_token` must be `true` or `false`, without quotes",
        ),
        ("audiences: [b]\n", "guard.yaml:3:13: "),
    ] {
        let (code, _, errors) = check(&format!("{valid}{more}"));
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(expected), "{errors}\n{expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metadata_that_a_challenge_names_is_served() {
    let issuer = TestIssuer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("guard.yaml");
    let config = path_string(&file);
    let arguments = ["--address", "127.0.0.1", "--port", "0", "--config", &config];
    let well_known = "/.well-known/oauth-protected-resource";
    for (resource, path) in [
        (None, None),
        (Some("https://a.example"), Some(well_known.to_owned())),
        (
            Some("https://a.example/:v1/*/{x}"),
            Some(format!("{well_known}/:v1/*/%7Bx%7D")),
        ),
    ] {
        let setting = resource.map(|resource| format!("protected_resource: \"{resource}\"\n"));
        let content = format!(
            "issuers:\n  - {{ url: \"{}\", audiences: [a], insecure_loopback_http: true }}\nallow: [allAuthenticatedUsers]\n{}",
            issuer.url(),
            setting.unwrap_or_default()
        );
        std::fs::write(&file, content).unwrap();
        let server = Server::start_with(&arguments, &[]).await;
        assert_eq!(
            server.status(&format!("{well_known}/other"), "x").await,
            404
        );
        let get = async |path: &str| http_client().get(server.url(path)).send().await.unwrap();
        let challenged = get("/private").await;
        let challenge = challenged.headers()["www-authenticate"].to_str().unwrap();
        let Some(path) = path else {
            assert!(!challenge.contains("resource_metadata"), "{challenge}");
            assert_eq!(server.status(well_known, "x").await, 404);
            continue;
        };
        let named = format!("resource_metadata=\"https://a.example{path}\"");
        assert!(challenge.contains(&named), "{challenge}");
        let metadata = get(&path).await.bytes().await.unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
        assert_eq!(metadata["resource"], resource.unwrap());
        assert_eq!(metadata["authorization_servers"][0], issuer.url());
    }
}
