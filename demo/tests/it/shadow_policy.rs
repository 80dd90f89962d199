//! `auth-server --shadow-policy`.

use std::process::Command;

use tower_oidc_guard::testing::TestIssuer;

use crate::process::{MAX_POLLS, POLL_INTERVAL};
use crate::support::{
    AUDIENCE, ON_LOOPBACK, SERVER, Server, http_client, path_string, replace_file,
    service_account_token, trusting,
};

const POLICY: &str = "allow: [\"system:serviceaccounts:id-namespace\"]\n";
const STRICTER: &str = "allow: [\"system:serviceaccounts:id-namespace\"]\ndeny: [\"system:serviceaccount:id-namespace:legacy\"]\n";
const LEGACY: &str = "system:serviceaccount:id-namespace:legacy";

/// The files of the two policies.
struct Policies {
    folder: tempfile::TempDir,
}

impl Policies {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("policy.yaml", POLICY), ("shadow.yaml", STRICTER)] {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        path_string(self.folder.path().join(name))
    }
}

async fn scrape(server: &Server) -> String {
    let response = http_client().get(server.url("/metrics")).send().await;
    response.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requests_that_a_shadow_policy_announces_are_rejected_once_it_is_promoted() {
    let issuer = TestIssuer::start().await.unwrap();
    let policies = Policies::new();
    let (policy, shadow) = (policies.path("policy.yaml"), policies.path("shadow.yaml"));
    let flags = ["--audit", "--policy-file", &policy];
    let arguments = [&ON_LOOPBACK[..], &trusting(issuer.url(), &flags)].concat();
    // From the environment, as in a pod.
    let server = Server::start_with(&arguments, &[("SHADOW_POLICY", shadow.as_str())]).await;
    let configured = server
        .process
        .wait_for_line("the guard is configured")
        .await;
    assert!(
        configured.contains(&format!("shadow_policy=\"{shadow}\"")),
        "{configured}"
    );
    let equal = service_account_token(&issuer, AUDIENCE).mint();
    let legacy = service_account_token(&issuer, AUDIENCE);
    let legacy = legacy.service_account("id-namespace", "legacy").mint();
    for _ in 0..3 {
        assert_eq!(server.status("/private", &equal).await, 200);
        assert_eq!(server.status("/private", &legacy).await, 200);
    }
    let summary = format!(
        "the shadow policy differs for 1 request: 1 would be rejected, such as that of {LEGACY} of {} \
         (policy: system:serviceaccounts:id-namespace is an allowed member; shadow policy: {LEGACY} is denied)",
        issuer.url()
    );
    let line = server.process.wait_for_line(&summary).await;
    assert!(line.contains(" INFO "), "{line}");
    let metrics = scrape(&server).await;
    for line in [
        format!(
            "oidc_guard_shadow_policy_differences_total{{difference=\"would_reject\",issuer=\"{}\"}} 3",
            issuer.url()
        ),
        "oidc_guard_shadow_policy_differences_total{difference=\"would_allow\",issuer=\"none\"} 0"
            .to_owned(),
        "oidc_guard_shadow_policy_evaluations_total 6".to_owned(),
    ] {
        assert!(metrics.lines().any(|own| own == line), "{line}: {metrics}");
    }
    let rejected = format!("shadow_decision=\"rejected\" shadow_rule=\"{LEGACY} is denied\"");
    for (text, count) in [(&*rejected, 3), ("shadow_decision=\"allowed\"", 3)] {
        let lines = server.process.lines().into_iter();
        let lines = lines.filter(|line| line.contains("oidc_guard::audit: "));
        assert_eq!(lines.filter(|line| line.contains(text)).count(), count);
    }

    replace_file(&policy.into(), STRICTER);
    let mut status = 200;
    for _ in 0..MAX_POLLS {
        status = server.status("/private", &legacy).await;
        if status == 403 {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    assert_eq!(status, 403);
    assert_eq!(server.status("/private", &equal).await, 200);
}

#[test]
fn explain_prints_the_decision_of_the_shadow_policy() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let issuer = runtime.block_on(TestIssuer::start()).unwrap();
    let policies = Policies::new();
    let (policy, shadow) = (policies.path("policy.yaml"), policies.path("shadow.yaml"));
    for (account, is_announced) in [("legacy", true), ("gke-sa", false)] {
        let token = service_account_token(&issuer, AUDIENCE);
        let token = token.service_account("id-namespace", account).mint();
        let file = policies.path("token");
        std::fs::write(&file, token).unwrap();
        let flags = ["--policy-file", &policy, "--shadow-policy", &shadow, &file];
        let arguments = [&["explain"], &trusting(issuer.url(), &flags)[..]].concat();
        let mut command = Command::new(SERVER);
        command.args(arguments).env("NO_PROXY", "127.0.0.1");
        let output = command.output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        // The shadow policy is not enforced.
        assert_eq!(output.status.code(), Some(0), "{printed}");
        let line = printed
            .lines()
            .find(|line| line.starts_with("shadow policy"));
        let line = line.unwrap_or_else(|| panic!("{printed}"));
        let hint =
            "hint: if the shadow policy was enforced, the request would be rejected with 403";
        assert_eq!(printed.contains(hint), is_announced, "{printed}");
        let words: Vec<_> = line.split_whitespace().collect();
        let decision = if is_announced { "rejected" } else { "allowed" };
        assert_eq!(words[2], decision, "{line}");
        assert!(
            line.ends_with(&format!("{LEGACY} is denied")) == is_announced,
            "{line}"
        );
    }
}
