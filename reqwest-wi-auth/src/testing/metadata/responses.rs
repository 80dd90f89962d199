//! The responses of the fake metadata server, as a function of the request.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{ALLOW, CONTENT_TYPE, ETAG, HOST, LOCATION, SERVER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use reqwest::Url;
use serde_json::{Map, Value, json};

use crate::testing::http_server::{Body, full};

pub(super) const FLAVOR: &str = "Metadata-Flavor";
pub(super) const GOOGLE: &str = "Google";

const EMAIL: &str = "demo@project.iam.gserviceaccount.com";
const ACCOUNT_ID: &str = "100000000000000000000";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const PROJECT: &str = "project";
const PROJECT_NUMBER: u64 = 123_456_789_012;
const INSTANCE: &str = "demo";
const INSTANCE_ID: u64 = 4_520_031_799_277_581_759;
const ZONE: &str = "us-central1-a";

const TEXT: &str = "application/text";
const JSON: &str = "application/json";
const IDENTITY: &str = "text/html";
const ERROR: &str = "text/html; charset=UTF-8";

/// The size in bytes of an RS256 signature by a 2048-bit key.
const SIGNATURE_BYTES: usize = 256;

/// A valid request for an identity token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdentityRequest {
    pub(super) audience: String,
    /// Whether `format=full` is set: the token has claims with the email of the account and about the instance.
    pub(super) is_full: bool,
    /// Whether `licenses=TRUE` is set: with `format=full`, the token has a claim with the licences of the instance's
    /// images.
    pub(super) has_licenses: bool,
}

/// Returns the response of the real server to a request. `create_token` returns the token of an identity response.
pub(super) fn respond<B>(
    request: &Request<B>,
    create_token: impl FnOnce(&IdentityRequest) -> String,
) -> Response<Body> {
    let path = request.uri().path();
    let headers = request.headers();
    if headers.contains_key("x-forwarded-for") {
        return error_page(
            StatusCode::FORBIDDEN,
            path,
            "The request was forwarded (X-Forwarded-For).",
        );
    }
    // Only the root, which clients use to detect the server, does not require the header.
    let has_flavor = headers.get(FLAVOR).is_some_and(|value| value == GOOGLE);
    if !has_flavor && path != "/" {
        return error_page(
            StatusCode::FORBIDDEN,
            path,
            "Missing Metadata-Flavor:Google header.",
        );
    }
    if request.method() != Method::GET {
        let mut response = error_page(
            StatusCode::METHOD_NOT_ALLOWED,
            path,
            "The method is not allowed.",
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let Ok(url) = Url::parse(&format!("http://metadata{}", request.uri())) else {
        return error_page(StatusCode::BAD_REQUEST, path, "The URL is malformed.");
    };
    let parameter = |name: &str| {
        let mut pairs = url.query_pairs();
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
    };
    let Some(node) = find_node(path) else {
        return error_page(
            StatusCode::NOT_FOUND,
            path,
            "The requested URL was not found on this server.",
        );
    };
    match node {
        Node::Directory(_) if !path.ends_with('/') => add_slash(request),
        Node::Directory(entries) => directory_listing(&entries, parameter),
        Node::Value(text, json) => match parameter("alt").as_deref() {
            Some("json") => with_etag(JSON, json.to_string()),
            _ => with_etag(TEXT, text),
        },
        Node::AccessToken => {
            let body =
                json!({ "access_token": "ya29.fake", "expires_in": 3599, "token_type": "Bearer" });
            response(StatusCode::OK, JSON, body.to_string())
        }
        Node::Identity => match parse_identity_request(parameter) {
            Ok(identity) => response(StatusCode::OK, IDENTITY, create_token(&identity)),
            Err(reason) => response(StatusCode::BAD_REQUEST, IDENTITY, reason.to_owned()),
        },
    }
}

fn parse_identity_request(
    parameter: impl Fn(&str) -> Option<String>,
) -> Result<IdentityRequest, &'static str> {
    let audience = parameter("audience").filter(|audience| !audience.trim().is_empty());
    let audience = audience.ok_or("non-empty audience parameter required")?;
    let is_full = match parameter("format").as_deref() {
        None | Some("standard") => false,
        Some("full") => true,
        Some(_) => return Err("the format parameter must be standard or full"),
    };
    let has_licenses =
        parameter("licenses").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    Ok(IdentityRequest {
        audience,
        is_full,
        has_licenses,
    })
}

/// An entry of the metadata tree.
enum Node {
    Directory(Vec<(&'static str, Node)>),
    /// A value, as text and as JSON.
    Value(String, Value),
    AccessToken,
    Identity,
}

/// Returns the entry at a path, or `None` if it does not exist. The path of a value does not end with a slash.
fn find_node(path: &str) -> Option<Node> {
    let mut node = tree();
    let mut parts = path.strip_prefix('/')?.split('/').peekable();
    while let Some(part) = parts.next() {
        if part.is_empty() && parts.peek().is_none() {
            return matches!(node, Node::Directory(_)).then_some(node);
        }
        let Node::Directory(entries) = node else {
            return None;
        };
        node = entries.into_iter().find(|(name, _)| *name == part)?.1;
    }
    Some(node)
}

/// Returns the root of the metadata tree.
fn tree() -> Node {
    let text = |value: &str| Node::Value(value.to_owned(), json!(value));
    let number = |value: u64| Node::Value(value.to_string(), json!(value));
    let account = || {
        Node::Directory(vec![
            (
                "aliases",
                Node::Value("default".to_owned(), json!(["default"])),
            ),
            ("email", text(EMAIL)),
            ("identity", Node::Identity),
            ("scopes", Node::Value(format!("{SCOPE}\n"), json!([SCOPE]))),
            ("token", Node::AccessToken),
        ])
    };
    let instance = Node::Directory(vec![
        ("id", number(INSTANCE_ID)),
        ("name", text(INSTANCE)),
        (
            "service-accounts",
            Node::Directory(vec![("default", account()), (EMAIL, account())]),
        ),
        (
            "zone",
            text(&format!("projects/{PROJECT_NUMBER}/zones/{ZONE}")),
        ),
    ]);
    let project = Node::Directory(vec![
        ("numeric-project-id", number(PROJECT_NUMBER)),
        ("project-id", text(PROJECT)),
    ]);
    let v1 = Node::Directory(vec![("instance", instance), ("project", project)]);
    let versions = Node::Directory(vec![("v1", v1)]);
    Node::Directory(vec![("computeMetadata", versions)])
}

/// Returns a listing of a directory, or with `recursive=true` everything below it: as JSON, or as text with `alt=text`.
fn directory_listing(
    entries: &[(&'static str, Node)],
    parameter: impl Fn(&str) -> Option<String>,
) -> Response<Body> {
    let is_recursive =
        parameter("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let alt = parameter("alt");
    match (is_recursive, alt.as_deref()) {
        (true, Some("text")) => {
            let mut lines = String::new();
            write_lines("", entries, &mut lines);
            with_etag(TEXT, lines)
        }
        (true, _) => with_etag(JSON, to_json(entries).to_string()),
        (false, _) => {
            let line = |(name, node): &(&str, Node)| match node {
                Node::Directory(_) => format!("{name}/\n"),
                _ => format!("{name}\n"),
            };
            with_etag(TEXT, entries.iter().map(line).collect())
        }
    }
}

/// Returns the values below a directory as JSON. Tokens are not included, since they are created on request only.
fn to_json(entries: &[(&'static str, Node)]) -> Value {
    let mut object = Map::new();
    for (name, node) in entries {
        let value = match node {
            Node::Directory(entries) => to_json(entries),
            Node::Value(_, json) => json.clone(),
            Node::AccessToken | Node::Identity => continue,
        };
        object.insert(camel_case(name), value);
    }
    Value::Object(object)
}

/// Writes the values below a directory as lines of text.
fn write_lines(prefix: &str, entries: &[(&'static str, Node)], lines: &mut String) {
    for (name, node) in entries {
        match node {
            Node::Directory(entries) => write_lines(&format!("{prefix}{name}/"), entries, lines),
            Node::Value(text, _) => {
                lines.push_str(&format!("{prefix}{name} {}\n", text.trim_end()));
            }
            Node::AccessToken | Node::Identity => {}
        }
    }
}

/// Converts a name to camel case, such as `service-accounts` to `serviceAccounts`. Names of accounts are not converted.
fn camel_case(name: &str) -> String {
    if name.contains('@') {
        return name.to_owned();
    }
    let mut words = name.split('-');
    let mut result = words.next().unwrap_or_default().to_owned();
    for word in words {
        let (first, rest) = word.split_at(word.len().min(1));
        result.push_str(&first.to_ascii_uppercase());
        result.push_str(rest);
    }
    result
}

/// Returns a redirect to the same URL with a slash after the path. The query is kept.
fn add_slash<B>(request: &Request<B>) -> Response<Body> {
    let uri = request.uri();
    let host = request.headers().get(HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let query = uri.query().map(|query| format!("?{query}"));
    let query = query.unwrap_or_default();
    let location = format!("http://{host}{}/{query}", uri.path());
    let body = format!("{}/{query}\n", uri.path());
    let mut response = response(StatusCode::MOVED_PERMANENTLY, "text/html", body);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// Returns an error page, which contains the path, as that of the real server does.
fn error_page(status: StatusCode, path: &str, reason: &str) -> Response<Body> {
    let path = path
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let number = status.as_u16();
    let name = status.canonical_reason().unwrap_or_default();
    let permission = match status {
        StatusCode::FORBIDDEN => format!(
            "Your client does not have permission to get URL <code>{path}</code> from this server. {reason}"
        ),
        _ => format!("<code>{path}</code>: {reason}"),
    };
    let page = format!(
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error {number} ({name})!!1</title>\n  \
         <p><b>{number}.</b> <ins>That’s an error.</ins>\n  <p>{permission} <ins>That’s all we know.</ins>\n"
    );
    response(status, ERROR, page)
}

/// Returns a response with status 200 and an `ETag`.
fn with_etag(content_type: &'static str, body: String) -> Response<Body> {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    let etag = format!("{:016x}", hasher.finish());
    let mut response = response(StatusCode::OK, content_type, body);
    if let Ok(etag) = HeaderValue::try_from(etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// Returns a response with the headers that every response of the real server has.
pub(super) fn response(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(FLAVOR, HeaderValue::from_static(GOOGLE));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(SERVER, HeaderValue::from_static("Metadata Server for VM"));
    headers.insert("x-xss-protection", HeaderValue::from_static("0"));
    headers.insert("x-frame-options", HeaderValue::from_static("SAMEORIGIN"));
    response
}

/// Returns a token with the claims of Google's identity tokens. Its signature has the length of a valid one, but is not
/// valid. `count` makes it differ from other tokens of the same second.
pub(super) fn identity_token(request: &IdentityRequest, lifetime: Duration, count: u64) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let mut claims = json!({
        "iss": "https://accounts.google.com",
        "aud": request.audience,
        "sub": ACCOUNT_ID,
        "azp": ACCOUNT_ID,
        "iat": now.as_secs(),
        "exp": (now + lifetime).as_secs(),
    });
    if request.is_full {
        let mut instance = json!({
            "instance_creation_timestamp": 1_700_000_000,
            "instance_id": INSTANCE_ID.to_string(),
            "instance_name": INSTANCE,
            "project_id": PROJECT,
            "project_number": PROJECT_NUMBER,
            "zone": ZONE,
        });
        if request.has_licenses {
            instance["license_id"] = json!(["1000204"]);
        }
        claims["email"] = json!(EMAIL);
        claims["email_verified"] = json!(true);
        claims["google"] = json!({ "compute_engine": instance });
    }
    let header = json!({ "alg": "RS256", "kid": "fake", "typ": "JWT" });
    let mut signature = [0xa5; SIGNATURE_BYTES];
    signature[..8].copy_from_slice(&count.to_be_bytes());
    let encode = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!(
        "{}.{}.{}",
        encode(header),
        encode(claims),
        URL_SAFE_NO_PAD.encode(signature)
    )
}
