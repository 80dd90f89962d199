//! The server's log of requests that it rejects, and its audit.

use tower_oidc_guard::testing::TestIssuer;

use crate::process::{MAX_POLLS, POLL_INTERVAL};
use crate::support::{AUDIENCE, Server, http_client, service_account_token};

#[tokio::test(flavor = "multi_thread")]
async fn the_default_log_states_which_audience_is_expected() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let other = service_account_token(&issuer, "https://other.example").mint();
    for _ in 0..2 {
        assert_eq!(server.status("/private?zqx", &other).await, 401);
    }
    let expected = format!("wrong_audience, expected {AUDIENCE}");
    let first = server.process.wait_for_line("1 request refused: ").await;
    assert!(
        first.contains(&format!("1 request refused: 1 {expected}")),
        "{first}"
    );
    assert!(first.contains(" WARN "), "{first}");
    let rest = server
        .process
        .wait_for_line("1 request refused in the last ")
        .await;
    assert!(rest.contains(&format!(": 1 {expected}")), "{rest}");
    let lines = server.process.lines();
    let about_requests: Vec<_> = lines
        .iter()
        .filter(|line| line.contains(" refused"))
        .collect();
    assert_eq!(about_requests.len(), 2, "{lines:?}");
    for text in ["other.example", "/private", "zqx", "gke-sa"] {
        assert!(
            !about_requests.iter().any(|line| line.contains(text)),
            "{about_requests:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_log_names_another_scheme() {
    let issuer = TestIssuer::start().await.unwrap();
    let server = Server::start(issuer.url(), &[]).await;
    let request = http_client().get(server.url("/private"));
    let response = request
        .basic_auth("user", Some("secret"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    let text = "1 unsupported_scheme (credentials of the scheme Basic), expected `Authorization: Bearer TOKEN`";
    server.process.wait_for_line(text).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_has_an_event_for_each_decision_if_it_is_turned_on() {
    let issuer = TestIssuer::start().await.unwrap();
    let spec = service_account_token(&issuer, AUDIENCE).token_id("id-1");
    let expired = spec.clone().claim("exp", 1).mint();
    let token = spec.mint();
    for is_on in [true, false] {
        let flags = ["--audit"];
        let server = Server::start(issuer.url(), if is_on { &flags } else { &[] }).await;
        assert_eq!(server.status("/private", &token).await, 200);
        assert_eq!(server.status("/private", &expired).await, 401);
        let response = http_client().get(server.url("/private")).send().await;
        assert_eq!(response.unwrap().status(), 401);
        server.process.wait_for_line("1 request refused").await;
        let audit = || -> Vec<String> {
            let lines = server.process.lines().into_iter();
            lines
                .filter(|line| line.contains("oidc_guard::audit: "))
                .collect()
        };
        if !is_on {
            assert!(audit().is_empty(), "{:?}", audit());
            continue;
        }
        for _ in 0..MAX_POLLS {
            if audit().len() >= 3 {
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let lines = audit();
        assert_eq!(lines.len(), 3, "{lines:?}");
        let expected = [
            &[
                "decision=\"allowed\" reason=\"allowed\" rule=\"allAuthenticatedUsers is an allowed member\"",
                "subject=\"system:serviceaccount:id-namespace:gke-sa\" credential_id=\"id-1\"",
                "audience=\"https://auth-server.example\" method=\"GET\" path=\"/private\"",
            ][..],
            &["decision=\"rejected\" reason=\"expired\" issuer="],
            &["decision=\"rejected\" reason=\"missing_token\" method=\"GET\" path=\"/private\""],
        ];
        for (line, expected) in lines.iter().zip(expected) {
            for text in expected {
                assert!(line.contains(text), "{text} in {line}");
            }
        }
        assert!(
            !lines[1].contains("id-1"),
            "the claims of an expired token: {}",
            lines[1]
        );
        for part in token.split('.').chain(expired.split('.')) {
            assert!(
                !server
                    .process
                    .lines()
                    .iter()
                    .any(|line| line.contains(part))
            );
        }
    }
}
