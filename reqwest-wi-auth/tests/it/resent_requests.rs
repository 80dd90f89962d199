//! The request that is sent again after a 401 is the first one, with another token.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderName, HeaderValue, Method, StatusCode, Version};
use http_body_util::{Empty, Full};
use reqwest::{Body, Request, Response, ResponseBuilderExt as _, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use reqwest_wi_auth::BearerAuth;

use crate::support::sources::Tokens;
use crate::support::{bearer, token_from};

const ORIGIN: &str = "https://auth-server.example";

/// Returns one of two tokens that do not expire.
fn token(name: &str) -> String {
    token_from(name, 1_700_000_000, 3_000_000_000)
}

/// An extension of the request, which only middleware can read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marker(&'static str);

/// A request as the server, or middleware below `BearerAuth`, receives it.
#[derive(Debug, Clone, PartialEq)]
struct Received {
    method: Method,
    url: Url,
    /// In order, and whether they are marked as sensitive.
    headers: Vec<(HeaderName, HeaderValue, bool)>,
    body: Option<Vec<u8>>,
    version: Version,
    timeout: Option<Duration>,
    marker: Option<Marker>,
    extensions: usize,
}

impl Received {
    fn new(mut request: Request) -> Self {
        let headers = request.headers().iter();
        let headers =
            headers.map(|(name, value)| (name.clone(), value.clone(), value.is_sensitive()));
        let bytes = |body: &Body| body.as_bytes().unwrap_or(b"a stream").to_vec();
        let (headers, body) = (headers.collect(), request.body().map(bytes));
        let (method, url) = (request.method().clone(), request.url().clone());
        let (version, timeout) = (request.version(), request.timeout().copied());
        // The conversion shows the extensions. It does not accept every URL.
        *request.url_mut() = Url::parse(ORIGIN).unwrap();
        let request = http::Request::<Body>::try_from(request).unwrap();
        Self {
            method,
            url,
            headers,
            body,
            version,
            timeout,
            marker: request.extensions().get().cloned(),
            extensions: request.extensions().len(),
        }
    }

    /// Removes the token, which is the last header, and returns its text.
    fn take_token(&mut self) -> String {
        let (name, value, is_sensitive) = self.headers.pop().unwrap();
        assert_eq!((name, is_sensitive), (AUTHORIZATION, true));
        value.to_str().unwrap().to_owned()
    }
}

/// Records requests, and responds with 401 to all.
#[derive(Clone, Default)]
struct Unauthorized(Arc<Mutex<Vec<Received>>>);

#[async_trait]
impl Middleware for Unauthorized {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let url = request.url().clone();
        self.0.lock().unwrap().push(Received::new(request));
        let response = http::Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .url(url);
        Ok(response.body("").unwrap().into())
    }
}

/// Changes every part of a request below `BearerAuth`.
struct ChangeAll;

#[async_trait]
impl Middleware for ChangeAll {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        *request.method_mut() = Method::PUT;
        request.url_mut().set_path("/changed");
        request.url_mut().query_pairs_mut().append_pair("n", "1");
        let headers = request.headers_mut();
        headers.insert("accept", HeaderValue::from_static("changed"));
        headers.append("x-hops", HeaderValue::from_static("1"));
        *request.body_mut() = Some(Body::from("changed"));
        *request.version_mut() = Version::HTTP_10;
        *request.timeout_mut() = Some(Duration::from_millis(1));
        next.run(request, extensions).await
    }
}

fn client(server: &Unauthorized, below: Option<ChangeAll>) -> ClientWithMiddleware {
    let source = Tokens::two(&token("old"), &token("new"));
    let mut client = ClientBuilder::new(reqwest::Client::new())
        .with(BearerAuth::for_origin(ORIGIN, source).unwrap());
    if let Some(below) = below {
        client = client.with(below);
    }
    client.with(server.clone()).build()
}

/// Sends a request and returns the requests that arrived, without their tokens, which have to be the old and the new one.
async fn send(request: Request, below: Option<ChangeAll>) -> Vec<Received> {
    let server = Unauthorized::default();
    let response = client(&server, below).execute(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let mut received = std::mem::take(&mut *server.0.lock().unwrap());
    let tokens: Vec<_> = received
        .iter_mut()
        .map(|received| Some(received.take_token()))
        .collect();
    let (old, new) = (bearer(&token("old")), bearer(&token("new")));
    assert_eq!(tokens, [old, new][..tokens.len()]);
    received
}

/// Asserts that a request arrives twice, and in each part as it was.
async fn assert_resent(request: Request) {
    let expected = Received::new(request.try_clone().expect("the body is not a stream"));
    assert_eq!(send(request, None).await, [expected.clone(), expected]);
}

fn get() -> Request {
    Request::new(
        Method::GET,
        Url::parse(&format!("{ORIGIN}/private")).unwrap(),
    )
}

fn with_headers(headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Request {
    let mut request = get();
    for (name, value) in headers {
        request.headers_mut().append(name, value);
    }
    request
}

fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::try_from(text).unwrap();
    value.set_sensitive(true);
    value
}

#[tokio::test]
async fn the_method_and_the_url_are_those_of_the_first_request() {
    let methods = ["GET", "HEAD", "POST", "DELETE", "PATCH", "TRACE", "PURGE"];
    for method in methods {
        let mut request = get();
        *request.method_mut() = method.parse().unwrap();
        assert_resent(request).await;
    }
    let paths = [
        "",
        "/",
        "/a/b;c?d=e&d=f#g",
        "/ä b%20c?%",
        "?q",
        "/'\"<>",
        "#fragment",
    ];
    for path in paths {
        let mut request = get();
        *request.url_mut() = Url::parse(&format!("{ORIGIN}{path}")).unwrap();
        assert_resent(request).await;
    }
}

#[tokio::test]
async fn the_body_is_that_of_the_first_request() {
    let bodies = [
        None,
        Some(Body::default()),
        Some(Body::from("static")),
        Some(Body::from("owned".to_owned())),
        Some(Body::from(vec![0_u8, 255, 10])),
        Some(Body::from(vec![7; 1 << 20])),
        Some(Body::from(Bytes::from_static(b"bytes"))),
    ];
    for body in bodies {
        let mut request = get();
        *request.method_mut() = Method::POST;
        *request.body_mut() = body;
        assert_resent(request).await;
    }
}

#[tokio::test]
async fn a_streamed_body_is_sent_once() {
    let multipart = "multipart/form-data; boundary=b";
    let file = tokio::fs::File::open("Cargo.toml").await.unwrap();
    let requests = [
        (Body::from(file), "text/plain"),
        (Body::wrap(Full::new(Bytes::from("framed"))), "text/plain"),
        (Body::wrap(Empty::<Bytes>::new()), "text/plain"),
        // reqwest sends a form with several parts as a stream.
        (Body::wrap("a body of a known length".to_owned()), multipart),
    ];
    for (body, content_type) in requests {
        let mut request = with_headers([(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static(content_type),
        )]);
        *request.body_mut() = Some(body);
        assert!(
            request.try_clone().is_none(),
            "such a request cannot be sent twice"
        );
        let received = send(request, None).await;
        let [only] = received.as_slice() else {
            panic!("{received:?}");
        };
        assert_eq!(only.body.as_deref(), Some(b"a stream".as_slice()));
        assert_eq!(only.headers.len(), 1, "the headers stay");
    }
}

#[tokio::test]
async fn the_version_and_the_timeout_are_those_of_the_first_request() {
    let versions = [
        Version::HTTP_09,
        Version::HTTP_10,
        Version::HTTP_11,
        Version::HTTP_2,
        Version::HTTP_3,
    ];
    for version in versions {
        for timeout in [None, Some(Duration::ZERO), Some(Duration::from_secs(7))] {
            let mut request = get();
            *request.version_mut() = version;
            *request.timeout_mut() = timeout;
            assert_resent(request).await;
        }
    }
}

#[tokio::test]
async fn the_extensions_are_those_of_the_first_request() {
    let request = http::Request::post(format!("{ORIGIN}/private"))
        .extension(Marker("of the caller"))
        .extension(7_u32)
        .header("accept", "*/*")
        .body("text");
    let mut request = Request::try_from(request.unwrap()).unwrap();
    assert_resent(request.try_clone().unwrap()).await;
    *request.timeout_mut() = Some(Duration::from_secs(3));
    *request.body_mut() = None;
    assert_resent(request.try_clone().unwrap()).await;
    let received = send(request, None).await;
    assert_eq!(received[1].marker, Some(Marker("of the caller")));
}

#[tokio::test]
async fn the_headers_are_those_of_the_first_request_in_the_same_order() {
    let name = |text: &str| HeaderName::try_from(text).unwrap();
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).unwrap();
    let (accept, custom) = (http::header::ACCEPT, name("x-custom"));
    let long = "v".repeat(100_000);
    let kinds = [
        vec![],
        vec![(accept.clone(), HeaderValue::from_static("*/*"))],
        // Several values of one header, with others in between.
        vec![
            (custom.clone(), value(b"1")),
            (accept.clone(), value(b"a")),
            (custom.clone(), sensitive("2")),
            (name("cookie"), value(b"c")),
            (custom.clone(), value(b"3")),
            (accept.clone(), value(b"b")),
        ],
        // Empty values, values that are not text, and the longest and shortest names.
        vec![
            (custom.clone(), value(b"")),
            (custom.clone(), value(b"\t \xff\x80~")),
            (name("z"), value(b"1")),
            (name(&"n".repeat(60_000)), value(b"1")),
            (name("!#$%&'*+-.^_`|~"), value(b"1")),
        ],
        vec![
            (custom.clone(), value(long.as_bytes())),
            (accept, sensitive(&long)),
            (custom, sensitive("")),
        ],
        (0..300)
            .map(|number| (name(&format!("x-{number}")), value(b"v")))
            .collect(),
        (0..300)
            .map(|number| (name("x-many"), value(&[b'a'; 600][..number * 2])))
            .collect(),
    ];
    for headers in kinds {
        assert_resent(with_headers(headers)).await;
    }
}

#[tokio::test]
async fn a_sensitive_value_is_not_copied() {
    let values = [sensitive("s3cr3t"), HeaderValue::from_static("public")];
    let names = ["x-api-key", "x-public"].map(HeaderName::from_static);
    let received = send(with_headers(names.into_iter().zip(values)), None).await;
    let address = |request: usize, header: usize| {
        let (_, value, _): &(_, HeaderValue, _) = &received[request].headers[header];
        value.as_bytes().as_ptr()
    };
    // The provider of the value may wipe its memory when the last reference to it is dropped.
    assert_eq!(address(0, 0), address(1, 0));
}

#[tokio::test]
async fn changes_by_middleware_below_are_made_once_to_each_request() {
    let mut request = with_headers([
        (http::header::ACCEPT, HeaderValue::from_static("*/*")),
        (
            HeaderName::from_static("x-hops"),
            HeaderValue::from_static("0"),
        ),
    ]);
    *request.body_mut() = Some(Body::from("original"));
    let received = send(request, Some(ChangeAll)).await;
    let [first, second] = received.as_slice() else {
        panic!("{received:?}");
    };
    assert_eq!(first, second);
    assert_eq!(second.url.as_str(), format!("{ORIGIN}/changed?n=1"));
    assert_eq!(second.body.as_deref(), Some(b"changed".as_slice()));
    let headers: Vec<_> = second
        .headers
        .iter()
        .map(|(name, value, _)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    let expected = [("accept", "changed"), ("x-hops", "0"), ("x-hops", "1")];
    assert_eq!(headers, expected);
}
