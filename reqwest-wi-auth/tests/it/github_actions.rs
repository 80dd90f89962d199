//! ID tokens of a job of GitHub Actions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use reqwest_wi_auth::testing::{FakeGitHubActions, GitHubActionsFault, HttpFault};
use reqwest_wi_auth::{
    BearerAuth, Error, FetchError, FetchedToken, GitHubActions, TokenProvider as _,
    TokenSource as _,
};
use tower_oidc_guard::OidcGuard;
use tower_oidc_guard::testing::TestIssuer;

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::Server;
use crate::support::{advance_clock, client, signed, wait_until};

const AUDIENCE: &str = "https://orders.example";
const URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// Starts a fake endpoint, and returns it with a client.
async fn endpoint() -> (FakeGitHubActions, GitHubActions) {
    let fake = FakeGitHubActions::start().await.unwrap();
    let github = GitHubActions::new(fake.request_url(), fake.request_token()).unwrap();
    (fake, github)
}

/// Creates a client with these environment variables.
fn with_variables(variables: &[(&'static str, &str)]) -> Result<GitHubActions, Error> {
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect();
    GitHubActions::builder()
        .environment(move |name| {
            let mut variables = variables.iter();
            variables.find_map(|(known, value)| (*known == name).then(|| value.clone()))
        })
        .build()
}

/// Waits until a request has failed, and returns the error.
async fn last_error(source: &FetchedToken) -> Error {
    wait_until("a request has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    source.health().last_error.unwrap()
}

/// Returns whether a text contains the request token or a part of it.
fn contains_request_token(text: &str, fake: &FakeGitHubActions) -> bool {
    fake.request_token()
        .split('.')
        .any(|part| text.contains(part))
}

#[tokio::test]
async fn a_token_for_the_audience_is_fetched_and_kept() {
    let (fake, github) = endpoint().await;
    let source = github.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    for _ in 0..100 {
        assert_eq!(source.current().unwrap(), first);
    }
    assert_eq!(fake.request_count(), 1);
    let health = source.health();
    assert!(health.present && health.expires_at.is_some() && health.last_error.is_none());
}

#[tokio::test]
async fn the_variables_of_the_job_are_used() {
    let fake = FakeGitHubActions::start().await.unwrap();
    let github = with_variables(&[(URL, fake.request_url()), (TOKEN, fake.request_token())]);
    github.unwrap().open(AUDIENCE).await.unwrap();
    // Values from a file or a script may end with a line break.
    let (url, token) = (
        format!("{}\n", fake.request_url()),
        format!("{}\n", fake.request_token()),
    );
    let github = with_variables(&[(URL, &url), (TOKEN, &token)]);
    github.unwrap().open(AUDIENCE).await.unwrap();
}

#[tokio::test]
async fn a_server_that_trusts_github_accepts_the_token() {
    let (fake, github) = endpoint().await;
    let issuer = Arc::new(TestIssuer::github_actions().await.unwrap());
    let guard = OidcGuard::builder()
        .issuer(issuer.issuer().audience(AUDIENCE))
        .any_verified_caller()
        .build()
        .unwrap();
    fake.set_token_fn(move |audience| {
        let token = issuer.token().audience(audience);
        token.github_repository("octo-org/octo-repo").mint()
    });
    let source = github.open(AUDIENCE).await.unwrap();
    let header = source.current().unwrap().header().clone();
    let token = header.to_str().unwrap().trim_start_matches("Bearer ");
    let caller = guard.verifier().verify(token).await.unwrap();
    assert_eq!(
        caller.subject(),
        "repo:octo-org/octo-repo:ref:refs/heads/main"
    );
}

#[tokio::test]
async fn any_audience_is_added_to_any_query() {
    let (fake, _) = endpoint().await;
    let requested = Arc::new(Mutex::new(Vec::new()));
    let recorded = requested.clone();
    fake.set_token_fn(move |audience| {
        recorded.lock().unwrap().push(audience.to_owned());
        signed(&serde_json::json!({ "exp": 4_000_000_000_u64, "aud": audience }).to_string())
    });
    let url = fake.request_url();
    for url in [
        url.to_owned(),
        format!("{url}&"),
        format!("{url}&x=y"),
        format!("{url}#fragment"),
    ] {
        let github = GitHubActions::new(&url, fake.request_token()).unwrap();
        for audience in [
            AUDIENCE,
            "a b",
            "a+b&c=d#e?f",
            "100%",
            "%41",
            "ä/ö",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        ] {
            let source = github.open(audience).await.unwrap();
            assert!(source.current().is_ok());
            assert_eq!(requested.lock().unwrap().pop().unwrap(), audience, "{url}");
        }
    }
}

#[tokio::test]
async fn one_client_provides_tokens_for_several_audiences() {
    let (fake, github) = endpoint().await;
    let (orders, stock) = (Server::start().await, Server::start().await);
    let for_orders = github.token_source("https://orders.example").unwrap();
    let for_stock = github.token_source("https://stock.example").unwrap();
    let auth = BearerAuth::for_origin(&orders.url, for_orders.clone()).unwrap();
    let client = client(auth.and_origin(&stock.url, for_stock.clone()).unwrap());
    client.get(&orders.url).send().await.unwrap();
    client.get(&stock.url).send().await.unwrap();
    let mut sent = HashSet::new();
    for (server, source) in [(orders, for_orders), (stock, for_stock)] {
        let header = server.take_authorization().remove(0).unwrap();
        assert_eq!(header, source.current().unwrap().header().to_str().unwrap());
        sent.insert(header);
    }
    assert_eq!((sent.len(), fake.request_count()), (2, 2));
}

#[tokio::test]
async fn a_hundred_concurrent_callers_cause_one_request() {
    let (fake, github) = endpoint().await;
    let source = github.start(AUDIENCE);
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { source.refresh(None).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(fake.request_count(), 1);
}

#[tokio::test]
async fn short_tokens_are_renewed_before_they_expire() {
    for lifetime in [60, 300, 600] {
        let (fake, github) = endpoint().await;
        fake.set_token_lifetime(Duration::from_secs(lifetime));
        let source = github.open(AUDIENCE).await.unwrap();
        let first = source.current().unwrap();
        advance_clock(Duration::from_secs(lifetime * 70 / 100)).await;
        assert_eq!(fake.request_count(), 1, "not before 75 % of the lifetime");
        advance_clock(Duration::from_secs(lifetime * 16 / 100)).await;
        wait_until("the token is renewed", || {
            source.current().unwrap() != first
        })
        .await;
    }
}

#[tokio::test]
async fn the_token_is_kept_while_renewals_fail() {
    let (fake, github) = endpoint().await;
    let source = github.open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    fake.set_fault(Some(GitHubActionsFault::Http(HttpFault::Status(
        StatusCode::BAD_GATEWAY,
    ))));
    advance_clock(Duration::from_secs(260)).await;
    let error = last_error(&source).await;
    assert!(
        error.is_transient() && error.to_string().contains("502"),
        "{error}"
    );
    assert_eq!(source.current().unwrap(), first);
    fake.set_fault(None);
    advance_clock(Duration::from_secs(5)).await;
    wait_until("the token is renewed", || {
        source.current().unwrap() != first
    })
    .await;
}

#[test]
fn missing_variables_are_named_with_the_permission_to_add() {
    let url = "https://run.actions.githubusercontent.com/idtoken?api-version=2.0";
    let cases: [(&[(&str, &str)], &str); 6] = [
        (
            &[],
            "ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN are not set",
        ),
        (&[(URL, url)], ": ACTIONS_ID_TOKEN_REQUEST_TOKEN is not set"),
        (
            &[(URL, url), (TOKEN, "")],
            ": ACTIONS_ID_TOKEN_REQUEST_TOKEN is not set",
        ),
        (
            &[(TOKEN, "s3cr3t")],
            ": ACTIONS_ID_TOKEN_REQUEST_URL is not set",
        ),
        (
            &[(TOKEN, "s3cr3t"), (URL, " \n")],
            ": ACTIONS_ID_TOKEN_REQUEST_URL is not set",
        ),
        (
            &[("GITHUB_ACTIONS", "true")],
            "runs in a job of GitHub Actions",
        ),
    ];
    for (variables, expected) in cases {
        let error = with_variables(variables).unwrap_err();
        assert!(matches!(error, Error::Configuration { .. }) && !error.is_transient());
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains("permissions: id-token: write"),
            "{text}"
        );
        assert!(!text.contains("s3cr3t"), "{text}");
    }
    let error = with_variables(&[]).unwrap_err().to_string();
    assert!(
        error.contains("may not run in a job of GitHub Actions"),
        "{error}"
    );
}

#[test]
fn the_request_token_of_the_environment_is_sent_to_hosts_of_github_only() {
    let github = |server: &str, url: &str| {
        with_variables(&[(URL, url), (TOKEN, "s3cr3t"), ("GITHUB_SERVER_URL", server)])
    };
    let public = "https://github.com";
    for (server, url) in [
        (
            public,
            "https://pipelines.actions.githubusercontent.com/a//idtoken?api-version=2.0",
        ),
        (
            public,
            "https://run-actions-1-azure-eastus.actions.githubusercontent.com/12//idtoken",
        ),
        (
            "https://ghes.example",
            "https://ghes.example/_services/pipelines/idtoken",
        ),
        (
            "https://ghes.example:8443",
            "https://pipelines.ghes.example/idtoken",
        ),
        ("https://10.0.0.2", "https://10.0.0.2/idtoken"),
        (
            "https://octocorp.ghe.com",
            "https://run.actions.octocorp.ghe.com/idtoken",
        ),
        (
            "",
            "https://pipelines.actions.githubusercontent.com/idtoken",
        ),
        (public, "http://127.0.0.1:8080/idtoken"),
    ] {
        assert!(github(server, url).is_ok(), "{server} {url}");
    }
    for (server, url) in [
        (public, "https://evil.example/idtoken"),
        (
            public,
            "https://actions.githubusercontent.com.evil.example/idtoken",
        ),
        (public, "https://evilactions.githubusercontent.com/idtoken"),
        (
            public,
            "https://evil.example/?actions.githubusercontent.com",
        ),
        (public, "https://octo-org.github.io/idtoken"),
        (public, "https://10.0.0.1/idtoken"),
        ("https://ghes.example", "https://evilghes.example/idtoken"),
        ("https://10.0.0.2", "https://10.0.0.1/idtoken"),
        ("not a url", "https://evil.example/idtoken"),
        (
            public,
            "http://pipelines.actions.githubusercontent.com/idtoken",
        ),
        (
            public,
            "https://x:s3cr3t@pipelines.actions.githubusercontent.com/idtoken",
        ),
        (public, "pipelines.actions.githubusercontent.com/idtoken"),
        (public, "file:///idtoken"),
    ] {
        let error = github(server, url).unwrap_err();
        assert!(matches!(error, Error::Configuration { .. }) && !error.is_transient());
        let text = error.to_string();
        assert!(text.contains(URL) && !text.contains("s3cr3t"), "{text}");
    }
    let error = github(public, "https://evil.example/idtoken")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"evil.example\"") && error.contains("request_url"),
        "{error}"
    );
    // A URL that the program sets can have any host.
    assert!(GitHubActions::new("https://proxy.example/idtoken", "s3cr3t").is_ok());
    assert!(GitHubActions::new("http://proxy.example/idtoken", "s3cr3t").is_err());
}

#[tokio::test]
async fn an_empty_audience_is_an_error_without_a_request() {
    let (fake, github) = endpoint().await;
    for audience in ["", " "] {
        let error = github.open(audience).await.unwrap_err();
        assert!(matches!(error, Error::Configuration { .. }), "{error}");
        assert!(github.token_source(audience).is_err());
    }
    assert_eq!(fake.request_count(), 0);
}

#[tokio::test]
async fn a_token_for_another_audience_is_an_error() {
    let (fake, github) = endpoint().await;
    fake.set_fault(Some(GitHubActionsFault::OtherAudience));
    let error = last_error(&github.start(AUDIENCE)).await;
    let is_audience = matches!(&error, Error::Fetch(FetchError::WrongAudience { .. }));
    let text = error.to_string();
    assert!(
        is_audience && text.contains("https://github.com/octo-org"),
        "{text}"
    );
    fake.set_fault(None);
    for claims in [
        r#"{"aud":["https://other.example"]}"#,
        "{}",
        r#"{"aud":"https://orders.example/"}"#,
    ] {
        fake.set_token_fn(move |_| signed(claims));
        let error = last_error(&github.start(AUDIENCE)).await;
        assert!(
            matches!(&error, Error::Fetch(FetchError::WrongAudience { .. })),
            "{error}"
        );
    }
    fake.set_token_fn(|_| signed(r#"{"aud":["https://other.example","https://orders.example"]}"#));
    github.open(AUDIENCE).await.unwrap();
}

#[tokio::test]
async fn a_rejected_request_token_is_reported_with_what_to_do() {
    let (fake, github) = endpoint().await;
    for fault in [
        GitHubActionsFault::JobEnded,
        GitHubActionsFault::QuotedToken,
        GitHubActionsFault::Http(HttpFault::Status(StatusCode::FORBIDDEN)),
    ] {
        fake.set_fault(Some(fault));
        let text = last_error(&github.start(AUDIENCE)).await.to_string();
        assert!(
            text.contains("id-token: write") && text.contains(TOKEN),
            "{text}"
        );
        assert!(!contains_request_token(&text, &fake), "{text}");
    }
    fake.set_fault(None);
    let other = GitHubActions::new(fake.request_url(), "other").unwrap();
    let text = last_error(&other.start(AUDIENCE)).await.to_string();
    assert!(text.contains("401"), "{text}");
}

#[tokio::test]
async fn responses_without_a_token_are_errors() {
    let (fake, github) = endpoint().await;
    let other = Server::start().await;
    let http = [
        HttpFault::Status(StatusCode::INTERNAL_SERVER_ERROR),
        HttpFault::Status(StatusCode::NO_CONTENT),
        HttpFault::Page(StatusCode::OK, "<html>".to_owned()),
        HttpFault::Page(StatusCode::OK, "{\"value\":1}".to_owned()),
        HttpFault::Page(StatusCode::OK, "[]".to_owned()),
        HttpFault::ClosedConnection,
        HttpFault::OversizedBody,
        HttpFault::InvalidBody,
        HttpFault::Redirect(other.url.clone()),
    ];
    let faults = http.into_iter().map(GitHubActionsFault::Http);
    for fault in faults.chain([
        GitHubActionsFault::MissingToken,
        GitHubActionsFault::InvalidToken,
    ]) {
        fake.set_fault(Some(fault.clone()));
        let source = github.start(AUDIENCE);
        let error = last_error(&source).await;
        assert!(matches!(error, Error::Fetch(_)), "{fault:?}: {error}");
        let text = error.to_string();
        assert!(
            text.contains(&fake.url()) && !text.contains("api-version"),
            "{fault:?}: {text}"
        );
        assert!(source.current().is_err());
    }
    assert_eq!(other.take_received(), [], "redirects are not followed");
}

#[tokio::test]
async fn a_server_that_does_not_respond_times_out() {
    let (fake, _) = endpoint().await;
    let github = GitHubActions::builder()
        .request_url(fake.request_url())
        .request_token(fake.request_token())
        .time_limit(Duration::from_millis(50));
    let github = github.build().unwrap();
    for fault in [HttpFault::NoResponse, HttpFault::StalledBody] {
        fake.set_fault(Some(GitHubActionsFault::Http(fault)));
        let error = last_error(&github.start(AUDIENCE)).await;
        assert!(
            error.is_transient() && error.to_string().contains("50ms"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_fake_rejects_what_the_endpoint_rejects() {
    let (fake, _) = endpoint().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (url, token) = (fake.request_url(), fake.request_token());
    let bearer = format!("Bearer {token}");
    let without_query = url.split('?').next().unwrap();
    let cases = [
        (Method::GET, url.to_owned(), bearer.clone(), 200),
        (
            Method::GET,
            format!("{url}&audience=a"),
            format!("bearer {token}"),
            200,
        ),
        (
            Method::GET,
            format!("{url}&audience=a&audience=b"),
            bearer.clone(),
            400,
        ),
        (Method::GET, without_query.to_owned(), bearer.clone(), 400),
        (
            Method::GET,
            format!("{url}?audience=a"),
            bearer.clone(),
            400,
        ),
        (
            Method::GET,
            format!("{}/other", fake.url()),
            bearer.clone(),
            404,
        ),
        (Method::POST, url.to_owned(), bearer.clone(), 405),
        (Method::GET, url.to_owned(), token.to_owned(), 401),
        (Method::GET, url.to_owned(), format!("Basic {token}"), 401),
        (Method::GET, url.to_owned(), "Bearer other".to_owned(), 401),
    ];
    for (method, url, authorization, status) in cases {
        let request = client.request(method.clone(), &url);
        let request = request.header("authorization", authorization);
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{method} {url}");
    }
    let response = client
        .get(url)
        .header("authorization", bearer)
        .send()
        .await
        .unwrap();
    let body: serde_json::Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    let token = body["value"].as_str().unwrap();
    assert_eq!(body["count"], token.len());
}

#[tokio::test]
async fn no_token_appears_in_logs_debug_output_or_errors() {
    if !is_child_process("github_actions::no_token_appears_in_logs_debug_output_or_errors") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::TRACE);
    let (fake, github) = endpoint().await;
    let builder = GitHubActions::builder().request_token(fake.request_token());
    let mut output = format!("{github:?} {builder:?}");
    let source = github.open(AUDIENCE).await.unwrap();
    let token = source.current().unwrap();
    output.push_str(&format!("{source:?} {:?}", source.health()));
    for fault in [
        GitHubActionsFault::JobEnded,
        GitHubActionsFault::QuotedToken,
        GitHubActionsFault::InvalidToken,
        GitHubActionsFault::OtherAudience,
    ] {
        fake.set_fault(Some(fault));
        let error = last_error(&github.start(AUDIENCE)).await;
        output.push_str(&format!("{error} {error:?}"));
    }
    let logged = log.text();
    assert!(logged.contains(AUDIENCE), "{logged}");
    let token = token
        .header()
        .to_str()
        .unwrap()
        .trim_start_matches("Bearer ")
        .to_owned();
    for text in [fake.request_token(), &token] {
        for part in text.split('.') {
            assert!(!output.contains(part), "{output}");
            assert!(!logged.contains(part), "{logged}");
        }
    }
}

#[tokio::test]
async fn the_settings_of_the_http_client_are_used() {
    let fake = FakeGitHubActions::start().await.unwrap();
    let builder = || {
        GitHubActions::builder()
            .request_url(fake.request_url())
            .request_token(fake.request_token())
    };
    let github = builder().ca_file("/nonexistent/ca.pem").build().unwrap();
    let error = last_error(&github.start(AUDIENCE)).await;
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
    let proxy = Server::start().await;
    let remote = builder().request_url("https://pipelines.actions.githubusercontent.com/token?v=1");
    let github = remote.proxy(&proxy.url).unwrap().build().unwrap();
    last_error(&github.start(AUDIENCE)).await;
    assert!(!proxy.take_received().is_empty());
    assert_eq!(fake.request_count(), 0);
    assert!(
        builder()
            .proxy("not a url: s3cr3t")
            .is_err_and(|error| !error.to_string().contains("s3cr3t"))
    );
}

/// Runs in a child process, whose environment contains a proxy that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_the_process_is_used_without_a_proxy() {
    const CHILD: &str = "TEST_RUNS_WITH_A_PROXY";
    if std::env::var_os(CHILD).is_some() {
        let github = GitHubActions::from_env().unwrap();
        github.open(AUDIENCE).await.unwrap();
        return;
    }
    let fake = FakeGitHubActions::start().await.unwrap();
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "github_actions::the_environment_of_the_process_is_used_without_a_proxy",
            "--exact",
        ])
        .env(CHILD, "1")
        .env(URL, fake.request_url())
        .env(TOKEN, fake.request_token())
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fake.request_count(), 1);
}

#[test]
fn a_request_token_that_is_not_a_token_is_an_error_without_it() {
    for token in ["two w0rds", "\"quoted\"", "line\nbreak", ""] {
        let error = GitHubActions::new("https://github.example/idtoken", token).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Configuration { .. }), "{text}");
        assert!(text.contains(TOKEN) && !text.contains("w0rds"), "{text}");
    }
}

#[tokio::test]
async fn audiences_in_an_error_contain_no_credential_and_are_short() {
    let (fake, github) = endpoint().await;
    let quoted = fake.request_token();
    fake.set_token_fn(move |_| {
        let audiences = [format!("token {quoted}"), "x ".repeat(10_000)];
        signed(&serde_json::json!({ "aud": audiences }).to_string())
    });
    let error = last_error(&github.start(AUDIENCE)).await;
    assert!(
        matches!(&error, Error::Fetch(FetchError::WrongAudience { .. })),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        !contains_request_token(&text, &fake) && text.len() < 2_000,
        "{text}"
    );
}
