//! The fake metadata server responds like the real one. Its documentation lists the sources of that knowledge.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use reqwest::Response;
use reqwest::redirect::Policy;
use reqwest_wi_auth::testing::FakeMetadataServer;
use reqwest_wi_auth::{MetadataServer, TokenSource as _};
use serde_json::{Value, json};

const V1: &str = "/computeMetadata/v1";
const ACCOUNTS: &str = "/computeMetadata/v1/instance/service-accounts";
const IDENTITY: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";
const EMAIL: &str = "demo@project.iam.gserviceaccount.com";
const HTML: &str = "text/html; charset=UTF-8";

const FLAVOR: &[(&str, &str)] = &[("Metadata-Flavor", "Google")];
const FORWARDED: &[(&str, &str)] = &[
    ("Metadata-Flavor", "Google"),
    ("X-Forwarded-For", "10.0.0.1"),
];

async fn send(
    fake: &FakeMetadataServer,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
) -> Response {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .build()
        .unwrap();
    let mut request = client.request(method, format!("http://{}{path}", fake.host()));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn get(fake: &FakeMetadataServer, path: &str) -> Response {
    send(fake, Method::GET, path, FLAVOR).await
}

fn header<'r>(response: &'r Response, name: &str) -> &'r str {
    let value = response.headers().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

/// A request (method, path, headers), and the status and content type of the response.
type Case = (
    Method,
    String,
    &'static [(&'static str, &'static str)],
    u16,
    &'static str,
);

#[tokio::test]
async fn each_response_has_the_status_and_headers_of_the_real_server() {
    let fake = FakeMetadataServer::start().await.unwrap();
    let identity = |query: &str| format!("{IDENTITY}?{query}");
    let cases: Vec<Case> = vec![
        // The flavor header, both ways.
        (
            Method::GET,
            identity("audience=a"),
            FLAVOR,
            200,
            "text/html",
        ),
        (Method::GET, identity("audience=a"), &[], 403, HTML),
        (
            Method::GET,
            identity("audience=a"),
            &[("Metadata-Flavor", "google")],
            403,
            HTML,
        ),
        (
            Method::GET,
            identity("audience=a"),
            &[("Metadata-Flavor", "")],
            403,
            HTML,
        ),
        (Method::GET, format!("{ACCOUNTS}/"), &[], 403, HTML),
        (Method::GET, format!("{V1}/nothing"), &[], 403, HTML),
        (Method::GET, "/".to_owned(), &[], 200, "application/text"),
        // Forwarded requests, even to the root.
        (Method::GET, identity("audience=a"), FORWARDED, 403, HTML),
        (Method::GET, "/".to_owned(), FORWARDED, 403, HTML),
        (
            Method::GET,
            "/".to_owned(),
            &[("X-Forwarded-For", "")],
            403,
            HTML,
        ),
        // Methods.
        (Method::POST, identity("audience=a"), FLAVOR, 405, HTML),
        (Method::PUT, identity("audience=a"), FLAVOR, 405, HTML),
        (Method::DELETE, identity("audience=a"), FLAVOR, 405, HTML),
        (Method::HEAD, identity("audience=a"), FLAVOR, 405, HTML),
        (Method::OPTIONS, identity("audience=a"), FLAVOR, 405, HTML),
        // Parameters of the identity.
        (Method::GET, IDENTITY.to_owned(), FLAVOR, 400, "text/html"),
        (Method::GET, identity("audience="), FLAVOR, 400, "text/html"),
        (
            Method::GET,
            identity("audience=%20"),
            FLAVOR,
            400,
            "text/html",
        ),
        (
            Method::GET,
            identity("format=full"),
            FLAVOR,
            400,
            "text/html",
        ),
        (
            Method::GET,
            identity("audience=a&format=standard"),
            FLAVOR,
            200,
            "text/html",
        ),
        (
            Method::GET,
            identity("audience=a&format=full"),
            FLAVOR,
            200,
            "text/html",
        ),
        (
            Method::GET,
            identity("audience=a&format=FULL"),
            FLAVOR,
            400,
            "text/html",
        ),
        (
            Method::GET,
            identity("audience=a&format="),
            FLAVOR,
            400,
            "text/html",
        ),
        (
            Method::GET,
            identity("audience=a&format=json"),
            FLAVOR,
            400,
            "text/html",
        ),
        // Paths: directories need their slash, values have none.
        (Method::GET, ACCOUNTS.to_owned(), FLAVOR, 301, "text/html"),
        (
            Method::GET,
            format!("{ACCOUNTS}?recursive=true"),
            FLAVOR,
            301,
            "text/html",
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/default"),
            FLAVOR,
            301,
            "text/html",
        ),
        (Method::GET, V1.to_owned(), FLAVOR, 301, "text/html"),
        (
            Method::GET,
            format!("{ACCOUNTS}/"),
            FLAVOR,
            200,
            "application/text",
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/{EMAIL}/identity?audience=a"),
            FLAVOR,
            200,
            "text/html",
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/default/email"),
            FLAVOR,
            200,
            "application/text",
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/default/email?alt=json"),
            FLAVOR,
            200,
            "application/json",
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/?recursive=true"),
            FLAVOR,
            200,
            "application/json",
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/?recursive=true&alt=text"),
            FLAVOR,
            200,
            "application/text",
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/default/token"),
            FLAVOR,
            200,
            "application/json",
        ),
        (
            Method::GET,
            format!("{IDENTITY}/?audience=a"),
            FLAVOR,
            404,
            HTML,
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}/other/identity?audience=a"),
            FLAVOR,
            404,
            HTML,
        ),
        (
            Method::GET,
            format!("{ACCOUNTS}//identity"),
            FLAVOR,
            404,
            HTML,
        ),
        (Method::GET, format!("{V1}/nothing"), FLAVOR, 404, HTML),
        (
            Method::GET,
            "/computeMetadata/v1beta1/instance/".to_owned(),
            FLAVOR,
            404,
            HTML,
        ),
        (
            Method::GET,
            "/latest/meta-data/".to_owned(),
            FLAVOR,
            404,
            HTML,
        ),
    ];
    for (method, path, headers, status, content_type) in cases {
        let response = send(&fake, method.clone(), &path, headers).await;
        let description = format!("{method} {path} {headers:?}");
        assert_eq!(response.status(), status, "{description}");
        assert_eq!(
            header(&response, "content-type"),
            content_type,
            "{description}"
        );
        assert_eq!(
            header(&response, "metadata-flavor"),
            "Google",
            "{description}"
        );
        assert_eq!(
            header(&response, "server"),
            "Metadata Server for VM",
            "{description}"
        );
        assert_eq!(
            header(&response, "x-frame-options"),
            "SAMEORIGIN",
            "{description}"
        );
    }
}

#[tokio::test]
async fn a_directory_path_without_a_slash_is_redirected_as_recorded() {
    let fake = FakeMetadataServer::start().await.unwrap();
    for query in ["", "?recursive=true"] {
        let response = get(&fake, &format!("{ACCOUNTS}{query}")).await;
        let expected = format!("http://{}{ACCOUNTS}/{query}", fake.host());
        assert_eq!(header(&response, "location"), expected);
        assert_eq!(
            response.text().await.unwrap(),
            format!("{ACCOUNTS}/{query}\n")
        );
    }
}

#[tokio::test]
async fn directories_list_entries_or_recursively_values() {
    let fake = FakeMetadataServer::start().await.unwrap();
    let text = async |path: String| get(&fake, &path).await.text().await.unwrap();
    assert_eq!(text(format!("{V1}/")).await, "instance/\nproject/\n");
    assert_eq!(
        text(format!("{ACCOUNTS}/")).await,
        format!("default/\n{EMAIL}/\n")
    );
    assert_eq!(
        text(format!("{ACCOUNTS}/default/")).await,
        "aliases\nemail\nidentity\nscopes\ntoken\n"
    );
    let account = json!({
        "aliases": ["default"],
        "email": EMAIL,
        "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
    });
    let all: Value = serde_json::from_str(&text(format!("{V1}/?recursive=true")).await).unwrap();
    assert_eq!(
        all["instance"]["serviceAccounts"],
        json!({ "default": account, EMAIL: account })
    );
    assert_eq!(all["project"]["projectId"], "project");
    let lines = text(format!("{ACCOUNTS}/default/?recursive=true&alt=text")).await;
    assert!(lines.contains(&format!("email {EMAIL}\n")), "{lines}");
    let etag = get(&fake, &format!("{ACCOUNTS}/default/email")).await;
    assert_eq!(header(&etag, "etag").len(), 16);
}

#[tokio::test]
async fn the_error_page_states_the_missing_header() {
    let fake = FakeMetadataServer::start().await.unwrap();
    let page = send(&fake, Method::GET, IDENTITY, &[])
        .await
        .text()
        .await
        .unwrap();
    assert!(page.starts_with("<!DOCTYPE html>"), "{page}");
    assert!(
        page.contains("Missing Metadata-Flavor:Google header."),
        "{page}"
    );
    assert!(page.contains(IDENTITY), "{page}");
    let missing = get(&fake, IDENTITY).await.text().await.unwrap();
    assert_eq!(missing, "non-empty audience parameter required");
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn only_a_full_identity_has_the_claims_of_account_and_instance() {
    let fake = FakeMetadataServer::start().await.unwrap();
    let cases = [
        ("", false, false),
        ("&format=standard", false, false),
        ("&format=standard&licenses=TRUE", false, false),
        ("&format=full", true, false),
        ("&format=full&licenses=FALSE", true, false),
        ("&format=full&licenses=TRUE", true, true),
    ];
    for (query, is_full, has_licenses) in cases {
        let path = format!("{IDENTITY}?audience=https%3A%2F%2Fa.example{query}");
        let token = get(&fake, &path).await.text().await.unwrap();
        let claims = claims(&token);
        assert_eq!(claims["aud"], "https://a.example", "{query}");
        assert_eq!(claims["iss"], "https://accounts.google.com", "{query}");
        assert_eq!(claims["azp"], claims["sub"], "{query}");
        for name in ["email", "email_verified", "google"] {
            assert_eq!(claims.get(name).is_some(), is_full, "{query}: {name}");
        }
        let instance = &claims["google"]["compute_engine"];
        assert_eq!(instance.get("instance_id").is_some(), is_full, "{query}");
        assert_eq!(
            instance.get("license_id").is_some(),
            has_licenses,
            "{query}"
        );
        let signature = URL_SAFE_NO_PAD.decode(token.split('.').nth(2).unwrap());
        assert_eq!(signature.unwrap().len(), 256, "{query}");
    }
}

#[tokio::test]
async fn the_source_accepts_tokens_with_a_trailing_newline() {
    for suffix in ["", "\n", "\r\n"] {
        let fake = FakeMetadataServer::start().await.unwrap();
        fake.set_token_suffix(suffix);
        let body = get(&fake, &format!("{IDENTITY}?audience=a"))
            .await
            .text()
            .await
            .unwrap();
        assert_eq!(
            body.trim_end().len() + suffix.len(),
            body.len(),
            "{suffix:?}"
        );
        let source = MetadataServer::with_host(fake.host())
            .unwrap()
            .open("a")
            .await
            .unwrap();
        let token = source.current().unwrap();
        let sent = token.header().to_str().unwrap();
        assert!(!sent.ends_with(['\n', '\r']), "{suffix:?}");
        let claims = claims(sent.trim_start_matches("Bearer "));
        assert_eq!(claims["email"], EMAIL, "requested with format=full");
    }
}
