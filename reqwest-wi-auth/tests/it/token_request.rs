//! Tokens from the API server of a Kubernetes cluster.

use std::time::{Duration, SystemTime};

use http::StatusCode;
use reqwest_wi_auth::testing::{
    FakeTokenRequestServer, HttpFault, IssuedTokenRequest, TokenRequestFault,
};
use reqwest_wi_auth::{
    BearerAuth, Error, FetchError, FixedToken, Token, TokenProvider as _, TokenRequest,
    TokenRequestBuilder, TokenSource as _,
};
use serde_json::json;
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{OidcGuard, VerifyError};

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::Server;
use crate::support::{advance_clock, client, signed, wait_until};

const AUDIENCE: &str = "https://stock.example";

/// A server with the service account `shop/orders`, which may create tokens for itself, and the directory of its token.
struct Fixture {
    server: FakeTokenRequestServer,
    directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let server = FakeTokenRequestServer::start().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        server.write_volume(&directory, "shop", "orders").unwrap();
        server.grant("shop", "orders", "orders");
        Self { server, directory }
    }

    /// Returns a builder without environment variables.
    fn builder(&self) -> TokenRequestBuilder {
        TokenRequest::builder()
            .environment(|_| None)
            .api_server(self.server.url())
            .service_account_directory(self.directory.path())
    }

    fn token_request(&self) -> TokenRequest {
        self.builder().build().unwrap()
    }

    /// Replaces the program's own token by one that is bound to a pod.
    fn bind_own_token(&self, pod: &str) {
        let token = self.server.own_token_of_pod("shop", "orders", pod);
        std::fs::write(self.directory.path().join("token"), token).unwrap();
    }

    /// Opens a source, and returns what was requested.
    async fn issued(&self, token_request: &TokenRequest) -> IssuedTokenRequest {
        self.server.take_issued();
        token_request.open(AUDIENCE).await.unwrap();
        self.server.take_issued().remove(0)
    }

    /// Returns the error of a request.
    async fn error(&self, token_request: &TokenRequest) -> Error {
        let source = token_request.start(AUDIENCE);
        wait_until("a request has failed", || {
            source.health().last_error.is_some()
        })
        .await;
        assert!(source.current().is_err());
        source.health().last_error.unwrap()
    }
}

#[tokio::test]
async fn a_token_of_the_programs_own_service_account_is_requested() {
    let fixture = Fixture::new().await;
    let source = fixture.token_request().open(AUDIENCE).await.unwrap();
    let token = source.current().unwrap();
    let lifetime = token
        .expires_at()
        .unwrap()
        .duration_since(SystemTime::now());
    assert!((3590..=3600).contains(&lifetime.unwrap().as_secs()));
    let issued = fixture.server.take_issued().remove(0);
    assert_eq!(issued.namespace, "shop");
    assert_eq!(issued.service_account, "orders");
    assert_eq!(issued.audiences, [AUDIENCE]);
    assert_eq!(issued.expiration_seconds, 3600);
    assert_eq!(issued.pod, None);
    assert_eq!(issued.requested_by, "system:serviceaccount:shop:orders");
    assert!(source.health().last_error.is_none());
}

#[tokio::test]
async fn requests_carry_the_token_of_their_audience_and_never_the_programs_own() {
    let fixture = Fixture::new().await;
    let (orders, stock) = (Server::start().await, Server::start().await);
    let provider = fixture.token_request();
    let for_orders = provider.open("https://orders.example").await.unwrap();
    let for_stock = provider.token_source(AUDIENCE).unwrap();
    let auth = BearerAuth::for_origin(&orders.url, for_orders.clone()).unwrap();
    let client = client(auth.and_origin(&stock.url, for_stock.clone()).unwrap());
    client.get(&orders.url).send().await.unwrap();
    client.get(&stock.url).send().await.unwrap();
    let own = std::fs::read_to_string(fixture.directory.path().join("token")).unwrap();
    let sent = |server: &Server| server.take_authorization().remove(0).unwrap();
    let (to_orders, to_stock) = (sent(&orders), sent(&stock));
    let current = for_orders.current().unwrap();
    assert_eq!(to_orders, current.header().to_str().unwrap());
    assert_ne!(to_orders, to_stock);
    assert!(!to_orders.contains(&own) && !to_stock.contains(&own));
}

#[tokio::test]
async fn the_token_is_bound_to_the_pod_in_the_claims_of_the_programs_own_token() {
    let fixture = Fixture::new().await;
    fixture.bind_own_token("orders-0");
    let issued = fixture.issued(&fixture.token_request()).await;
    assert_eq!(issued.pod.as_deref(), Some("orders-0"));
    let unbound = fixture.builder().without_pod().build().unwrap();
    assert_eq!(fixture.issued(&unbound).await.pod, None);
}

#[tokio::test]
async fn the_token_is_bound_to_the_pod_that_the_downward_api_names() {
    let fixture = Fixture::new().await;
    let uid = fixture.server.create_pod("shop", "orders-1", "orders");
    for own_pod in [None, Some("orders-0"), Some("orders-1")] {
        if let Some(pod) = own_pod {
            fixture.bind_own_token(pod);
        }
        for uid in [None, Some(uid.clone()), Some(String::new())] {
            let builder = fixture.builder().environment(move |name| match name {
                "POD_NAME" => Some("orders-1".to_owned()),
                "POD_UID" => uid.clone(),
                _ => None,
            });
            let issued = fixture.issued(&builder.build().unwrap()).await;
            assert_eq!(issued.pod.as_deref(), Some("orders-1"));
        }
    }
}

#[tokio::test]
async fn the_token_of_another_service_account_is_not_bound_to_the_programs_pod() {
    let fixture = Fixture::new().await;
    fixture.bind_own_token("orders-0");
    fixture.server.create_service_account("shop", "reports");
    fixture.server.grant("shop", "orders", "reports");
    let builder = fixture.builder().service_account("reports");
    let issued = fixture.issued(&builder.clone().build().unwrap()).await;
    assert_eq!(
        (issued.service_account.as_str(), issued.pod),
        ("reports", None)
    );
    let builder = builder.environment(|name| (name == "POD_NAME").then(|| "orders-0".to_owned()));
    let issued = fixture.issued(&builder.build().unwrap()).await;
    assert_eq!(issued.pod, None);
}

#[tokio::test]
async fn a_missing_role_is_named_with_the_command_that_creates_it() {
    let fixture = Fixture::new().await;
    fixture.server.revoke("shop", "orders", "orders");
    let source = fixture.token_request().start(AUDIENCE);
    wait_until("a request has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    let error = source.health().last_error.unwrap();
    let url = fixture.server.url();
    assert_eq!(
        error.to_string(),
        format!(
            "{url}/api/v1/namespaces/shop/serviceaccounts/orders/token returned 403 Forbidden: serviceaccounts \"orders\" is forbidden: User \"system:serviceaccount:shop:orders\" cannot create resource \"serviceaccounts/token\" in API group \"\" in the namespace \"shop\"; the service account shop/orders lacks a Role with the verb `create` on `serviceaccounts/token` for the service account `orders` in the namespace `shop`; create it with `kubectl create role token-request-orders --namespace=shop --verb=create --resource=serviceaccounts/token --resource-name=orders && kubectl create rolebinding token-request-orders --namespace=shop --role=token-request-orders --serviceaccount=shop:orders`"
        )
    );
    assert!(error.is_transient(), "the role may be created later");
    fixture.server.grant("shop", "orders", "orders");
    source.refresh(None).await.expect("a token with the role");
}

#[tokio::test]
async fn a_rejected_credential_is_read_again_and_the_request_is_sent_once_more() {
    let fixture = Fixture::new().await;
    let source = fixture.token_request().open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    // The service account is created again, and the kubelet replaces the token.
    fixture.server.delete_service_account("shop", "orders");
    let rotated = || {
        let directory = fixture.directory.path();
        fixture.server.write_volume(directory, "shop", "orders")
    };
    rotated().unwrap();
    let before = fixture.server.request_count();
    let second = source.refresh(Some(&first)).await.unwrap();
    assert_ne!(second, first);
    assert!(fixture.server.request_count() - before <= 2);
}

#[tokio::test]
async fn a_credential_that_stays_rejected_is_described() {
    let fixture = Fixture::new().await;
    fixture.server.delete_service_account("shop", "orders");
    let error = fixture.error(&fixture.token_request()).await;
    let text = error.to_string();
    let path = fixture.directory.path().join("token");
    for part in [
        "returned 401 Unauthorized",
        &path.display().to_string(),
        "the service account shop/orders",
        "the audience \"https://kubernetes.default.svc.cluster.local\"",
        "expires in 3",
        "have been deleted",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(error.is_transient());
}

#[tokio::test]
async fn objects_that_do_not_exist_are_named_with_what_to_do() {
    let fixture = Fixture::new().await;
    fixture.server.grant("shop", "orders", "reports");
    fixture.server.create_service_account("shop", "reports");
    let old_uid = fixture.server.create_pod("shop", "orders-0", "orders");
    fixture.server.create_pod("shop", "orders-0", "orders");
    fixture.server.create_pod("shop", "reports-0", "reports");
    let builder = || fixture.builder();
    let environment = |pod: &'static str| {
        builder().environment(move |name| (name == "POD_NAME").then(|| pod.to_owned()))
    };
    fixture.server.delete_service_account("shop", "reports");
    for (builder, status, parts) in [
        (
            builder().service_account("reports"),
            StatusCode::NOT_FOUND,
            [
                "shop/reports does not exist",
                "kubectl create serviceaccount reports --namespace=shop",
            ],
        ),
        (
            environment("orders-9"),
            StatusCode::NOT_FOUND,
            ["there is no pod shop/orders-9", "POD_NAME"],
        ),
        (
            builder().pod("orders-9", ""),
            StatusCode::NOT_FOUND,
            ["there is no pod shop/orders-9", "the setting `pod`"],
        ),
        (
            builder().pod("orders-0", old_uid.clone()),
            StatusCode::CONFLICT,
            [&format!("with the uid {old_uid}"), "without_pod"],
        ),
        (
            environment("reports-0"),
            StatusCode::BAD_REQUEST,
            [
                "does not run with the service account `orders`",
                "without_pod",
            ],
        ),
    ] {
        let error = fixture.error(&builder.build().unwrap()).await;
        let Error::Fetch(FetchError::Status { status: found, .. }) = &error else {
            panic!("{error}");
        };
        assert_eq!(*found, status, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{part}: {error}");
        }
        assert!(!error.is_transient(), "{error}");
    }
}

#[tokio::test]
async fn responses_that_are_not_a_token_are_errors_of_their_kind() {
    let fixture = Fixture::new().await;
    let invalid = |error: &FetchError| matches!(error, FetchError::InvalidResponse { .. });
    let status = |error: &FetchError| matches!(error, FetchError::Status { .. });
    type Case = (TokenRequestFault, fn(&FetchError) -> bool, &'static str);
    let http = TokenRequestFault::Http;
    let page = "<html>proxy</html>".to_owned();
    let cases: Vec<Case> = vec![
        (http(HttpFault::InvalidBody), invalid, "not JSON"),
        (http(HttpFault::OversizedBody), invalid, "64 KiB"),
        (
            http(HttpFault::ClosedConnection),
            |error| matches!(error, FetchError::NoResponse { .. }),
            "no complete response",
        ),
        (
            http(HttpFault::Page(StatusCode::FORBIDDEN, page.clone())),
            status,
            "not one of a Kubernetes API server",
        ),
        (
            http(HttpFault::Page(StatusCode::BAD_GATEWAY, page)),
            status,
            "502 Bad Gateway",
        ),
        (
            http(HttpFault::Status(StatusCode::INTERNAL_SERVER_ERROR)),
            status,
            "500",
        ),
        (TokenRequestFault::TooManyRequests(7), status, "429"),
        (TokenRequestFault::MissingToken, invalid, "status.token"),
        (
            TokenRequestFault::Token("s3cr3t".to_owned()),
            invalid,
            "not a JWT",
        ),
        (
            TokenRequestFault::WrongAudience,
            |error| matches!(error, FetchError::WrongAudience { .. }),
            AUDIENCE,
        ),
        (
            TokenRequestFault::Timestamp("soon".to_owned()),
            invalid,
            "\"soon\", expected a time in the format of RFC 3339",
        ),
    ];
    for (fault, is_expected, text) in cases {
        fixture.server.set_fault(Some(fault.clone()));
        let error = fixture.error(&fixture.token_request()).await;
        assert!(error.is_transient(), "{fault:?}: {error}");
        let Error::Fetch(cause) = &error else {
            panic!("{fault:?}: {error}");
        };
        assert!(is_expected(cause), "{fault:?}: {error}");
        let shown = error.to_string();
        assert!(shown.contains(text), "{fault:?}: {shown}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
    }
}

#[tokio::test]
async fn an_expired_token_is_not_sent() {
    let fixture = Fixture::new().await;
    fixture
        .server
        .set_fault(Some(TokenRequestFault::ExpiredToken));
    let source = fixture.token_request().start(AUDIENCE);
    wait_until("a token was issued", || fixture.server.request_count() > 0).await;
    assert!(source.current().is_err() && !source.health().present);
}

#[tokio::test]
async fn a_token_without_a_timestamp_expires_at_its_exp_and_otherwise_at_the_earlier_time() {
    let fixture = Fixture::new().await;
    let fault = TokenRequestFault::MissingTimestamp;
    fixture.server.set_fault(Some(fault.clone()));
    let source = fixture.token_request().open(AUDIENCE).await.unwrap();
    let lifetime = |expiry: Option<SystemTime>| {
        let left = expiry.unwrap().duration_since(SystemTime::now());
        left.unwrap().as_secs()
    };
    let left = lifetime(source.health().expires_at);
    assert!((3590..=3600).contains(&left), "{left}");

    // The API server extends the lifetime of tokens for itself without saying so in `expirationTimestamp`.
    let audiences = json!([AUDIENCE]);
    let extended = json!({ "aud": audiences, "exp": 4_000_000_000_u64 }).to_string();
    fixture.server.set_fault(None);
    fixture.server.set_token_fn(move |_| signed(&extended));
    let token_request = with_fixed_credential(&fixture);
    let source = token_request.open(AUDIENCE).await.unwrap();
    let left = lifetime(source.health().expires_at);
    assert!((3590..=3600).contains(&left), "{left}");

    fixture.server.set_fault(Some(fault));
    let endless = json!({ "aud": [AUDIENCE] }).to_string();
    fixture.server.set_token_fn(move |_| signed(&endless));
    let error = fixture.error(&token_request).await;
    assert!(error.to_string().contains("does not expire"), "{error}");
}

/// Returns the program's own token.
fn own_token(fixture: &Fixture) -> String {
    std::fs::read_to_string(fixture.directory.path().join("token")).unwrap()
}

/// Returns a client whose credential is the program's own token, but not its file.
fn with_fixed_credential(fixture: &Fixture) -> TokenRequest {
    let credentials = FixedToken::new(Token::new(own_token(fixture)).unwrap());
    fixture.builder().credentials(credentials).build().unwrap()
}

#[tokio::test]
async fn the_token_is_renewed_at_80_percent_of_its_lifetime() {
    let fixture = Fixture::new().await;
    // The API server grants less than the requested hour.
    fixture.server.set_max_expiration(Duration::from_secs(1000));
    let source = fixture.token_request().open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    advance_clock(Duration::from_secs(790)).await;
    assert_eq!(fixture.server.request_count(), 1, "not before 80 %");
    advance_clock(Duration::from_secs(21)).await;
    wait_until("the token is renewed", || {
        source.current().unwrap() != first
    })
    .await;
    assert_eq!(fixture.server.request_count(), 2);
}

#[tokio::test]
async fn the_token_is_kept_while_renewals_fail() {
    let fixture = Fixture::new().await;
    let source = fixture.token_request().open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    for fault in [
        TokenRequestFault::Http(HttpFault::Status(StatusCode::SERVICE_UNAVAILABLE)),
        TokenRequestFault::ExpiredToken,
        TokenRequestFault::WrongAudience,
    ] {
        let before = fixture.server.request_count();
        fixture.server.set_fault(Some(fault));
        advance_clock(Duration::from_secs(3000)).await;
        wait_until("a renewal has failed", || {
            fixture.server.request_count() > before
        })
        .await;
        assert_eq!(source.current().unwrap(), first);
    }
    fixture.server.set_fault(None);
    advance_clock(Duration::from_secs(3000)).await;
    wait_until("the token is renewed", || {
        source.current().unwrap() != first
    })
    .await;
}

#[tokio::test]
async fn a_hundred_concurrent_callers_cause_one_request() {
    let fixture = Fixture::new().await;
    let source = fixture.token_request().start(AUDIENCE);
    assert!(matches!(source.current(), Err(Error::NotFetched { .. })));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { source.refresh(None).await })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(fixture.server.request_count(), 1);
}

#[tokio::test]
async fn a_token_for_the_api_server_itself_or_for_no_audience_is_refused() {
    let fixture = Fixture::new().await;
    let token_request = fixture.token_request();
    let api_server = "https://kubernetes.default.svc.cluster.local";
    let error = token_request.open(api_server).await.unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error}");
    assert!(error.to_string().contains("API server"), "{error}");
    let error = token_request.open("").await.unwrap_err();
    assert!(matches!(error, Error::Configuration { .. }), "{error}");
    assert!(token_request.token_source("").is_err());
    assert!(token_request.start("").refresh(None).await.is_err());
    assert_eq!(fixture.server.request_count(), 0);
}

#[tokio::test]
async fn a_credential_that_is_not_of_a_service_account_requires_the_settings() {
    let fixture = Fixture::new().await;
    let token = FixedToken::new(Token::opaque("s3cr3t-of-a-user").unwrap());
    let builder = fixture.builder().credentials(token);
    let error = fixture.error(&builder.clone().build().unwrap()).await;
    let text = error.to_string();
    assert!(text.contains("`service_account`"), "{text}");
    // The namespace is that of the file. The server does not accept the token.
    let builder = builder.service_account("orders");
    let error = fixture.error(&builder.build().unwrap()).await.to_string();
    assert!(error.contains("/namespaces/shop/"), "{error}");
    assert!(error.contains("an unknown account"), "{error}");
    assert!(!error.contains("s3cr3t"), "{error}");
}

#[tokio::test]
async fn a_missing_token_file_is_an_error_until_it_exists() {
    let fixture = Fixture::new().await;
    let own = own_token(&fixture);
    let path = fixture.directory.path().join("token");
    std::fs::remove_file(&path).unwrap();
    let source = fixture.token_request().start(AUDIENCE);
    wait_until("the token could not be read", || {
        source.health().last_error.is_some()
    })
    .await;
    let error = source.health().last_error.unwrap();
    let is_credential = matches!(&error, Error::Fetch(FetchError::Credential { .. }));
    assert!(is_credential, "{error}");
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    assert!(error.is_transient());
    assert_eq!(fixture.server.request_count(), 0);
    std::fs::write(&path, own).unwrap();
    source.refresh(None).await.expect("a token with the file");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let fixture = Fixture::new().await;
    let other = Server::start().await;
    let fault = HttpFault::Redirect(format!("{}/api", other.url));
    fixture
        .server
        .set_fault(Some(TokenRequestFault::Http(fault)));
    let error = fixture.error(&fixture.token_request()).await;
    let text = error.to_string();
    assert!(text.contains("redirects are not followed"), "{text}");
    assert!(other.take_received().is_empty());
}

#[tokio::test]
async fn a_response_that_does_not_end_is_an_error_after_the_time_limit() {
    let fixture = Fixture::new().await;
    let builder = fixture.builder().time_limit(Duration::from_millis(100));
    let token_request = builder.build().unwrap();
    for fault in [HttpFault::NoResponse, HttpFault::StalledBody] {
        let fault = TokenRequestFault::Http(fault);
        fixture.server.set_fault(Some(fault));
        let error = fixture.error(&token_request).await;
        let is_late = matches!(&error, Error::Fetch(FetchError::NoResponse { .. }));
        assert!(is_late, "{error}");
    }
}

#[tokio::test]
async fn neither_errors_nor_logs_contain_a_token() {
    if !is_child_process("token_request::neither_errors_nor_logs_contain_a_token") {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::TRACE);
    let fixture = Fixture::new().await;
    fixture.bind_own_token("orders-0");
    let own = own_token(&fixture);
    let token_request = fixture.token_request();
    let source = token_request.open(AUDIENCE).await.unwrap();
    let token = source.current().unwrap();
    let issued = token.header().to_str().unwrap().to_owned();
    let mut shown = format!("{token_request:?} {source:?} {:?}", fixture.server);
    for fault in [
        TokenRequestFault::EchoedRequest,
        TokenRequestFault::Token(own.clone()),
        TokenRequestFault::Token(format!("{own}.")),
        TokenRequestFault::Timestamp(own.clone()),
        TokenRequestFault::Http(HttpFault::Page(StatusCode::BAD_GATEWAY, own.clone())),
    ] {
        fixture.server.set_fault(Some(fault));
        let error = fixture.error(&token_request).await;
        shown.push_str(&format!("{error} {error:?}"));
    }
    fixture.server.set_fault(None);
    fixture.server.delete_service_account("shop", "orders");
    let error = fixture.error(&token_request).await;
    shown.push_str(&format!("{error} {error:?}"));
    shown.push_str(&log.text());
    assert!(shown.contains("token could not be fetched"), "{shown}");
    let own_parts = own.split('.');
    let issued_parts = issued.trim_start_matches("Bearer ").split('.');
    for part in own_parts.chain(issued_parts) {
        assert!(!shown.contains(part), "{part} in {shown}");
    }
}

/// A real signature, TLS, and a CA: the API server of a cluster with the files of a pod.
struct Pod {
    server: FakeApiServer,
    volume: tempfile::TempDir,
}

impl Pod {
    async fn start(address: &str) -> std::io::Result<Self> {
        let server = FakeApiServer::start_at(address.parse().unwrap()).await?;
        let volume = tempfile::tempdir()?;
        server.write_pod_volume(&volume, "shop", "orders")?;
        server.grant_token_requests("shop", "orders", "orders");
        Ok(Self { server, volume })
    }

    /// Returns the builder of a program in the pod.
    fn builder(&self) -> TokenRequestBuilder {
        let (host, port) = (self.server.host(), self.server.port());
        TokenRequest::builder()
            .service_account_directory(self.volume.path())
            .environment(move |name| match name {
                "KUBERNETES_SERVICE_HOST" => Some(host.clone()),
                "KUBERNETES_SERVICE_PORT" => Some(port.clone()),
                _ => None,
            })
    }
}

#[tokio::test]
async fn a_guard_accepts_the_token_until_the_pod_is_deleted() {
    let pod = Pod::start("127.0.0.1").await.unwrap();
    pod.server.grant_token_reviews("shop", "orders");
    let issuer = pod.server.issuer(&pod.volume).unwrap().audience(AUDIENCE);
    let review = tower_oidc_guard::TokenReview::new(tower_oidc_guard::WhenUnavailable::Refuse);
    let guard = OidcGuard::builder()
        .issuer(issuer.token_review(review))
        .any_verified_caller()
        .build()
        .unwrap();
    let source = pod.builder().build().unwrap().open(AUDIENCE).await.unwrap();
    let token = source.current().unwrap();
    let text = token.header().to_str().unwrap();
    let text = text.trim_start_matches("Bearer ");
    let identity = guard.verifier().verify(text).await.unwrap();
    assert_eq!(identity.subject(), "system:serviceaccount:shop:orders");
    let kubernetes = identity.kubernetes().unwrap();
    assert_eq!(kubernetes.pod().map(|pod| pod.name()), Some("orders"));

    // The program's own token is for the API server, so no service accepts it.
    let own = std::fs::read_to_string(pod.volume.path().join("token")).unwrap();
    let rejected = guard.verifier().verify(own).await.unwrap_err();
    assert!(matches!(rejected, VerifyError::InvalidToken(_)));
}

#[tokio::test]
async fn the_ca_file_and_the_programs_own_token_are_read_again() {
    let pod = Pod::start("127.0.0.1").await.unwrap();
    let source = pod.builder().build().unwrap().open(AUDIENCE).await.unwrap();
    let first = source.current().unwrap();
    pod.server.replace_ca().unwrap();
    // The server's certificate is not trusted until the file contains its new CA.
    let refreshed = tokio::spawn({
        let (source, first) = (source.clone(), first.clone());
        async move { source.refresh(Some(&first)).await }
    });
    wait_until("a request has failed", || {
        source.health().last_error.is_some()
    })
    .await;
    let error = source.health().last_error.unwrap();
    let is_untrusted = matches!(&error, Error::Fetch(FetchError::Unreachable { .. }));
    assert!(is_untrusted, "{error}");
    let requests = pod.server.requests().len();
    pod.server
        .write_pod_volume(&pod.volume, "shop", "orders")
        .unwrap();
    assert_ne!(refreshed.await.unwrap().unwrap(), first);
    let request = pod.server.requests().remove(requests);
    let own = std::fs::read_to_string(pod.volume.path().join("token")).unwrap();
    assert_eq!(request.bearer_token(), Some(own.as_str()));
}

#[tokio::test]
async fn only_the_ca_of_the_file_is_trusted_and_a_missing_one_is_named() {
    let pod = Pod::start("127.0.0.1").await.unwrap();
    let path = pod.volume.path().join("ca.crt");
    for (content, expected) in [
        (None, "No such file"),
        (Some("no certificate"), "certificate"),
    ] {
        match content {
            Some(content) => std::fs::write(&path, content).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let source = pod.builder().build().unwrap().start(AUDIENCE);
        wait_until("a request has failed", || {
            source.health().last_error.is_some()
        })
        .await;
        let error = source.health().last_error.unwrap();
        let is_ca = matches!(&error, Error::Fetch(FetchError::CaFile { .. }));
        assert!(is_ca, "{error}");
        let text = error.to_string();
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    assert!(pod.server.requests().is_empty());
}

#[tokio::test]
async fn the_host_of_the_api_server_may_be_an_ipv6_address() {
    let pod = match Pod::start("::1").await {
        Ok(pod) => pod,
        Err(error) => {
            println!("skipped: this machine has no IPv6: {error}");
            return;
        }
    };
    pod.builder().build().unwrap().open(AUDIENCE).await.unwrap();
    assert_eq!(pod.server.requests().len(), 1);
}

#[test]
fn outside_a_runtime_the_source_is_not_opened() {
    let token_request = TokenRequest::builder()
        .environment(|_| None)
        .api_server("http://127.0.0.1:1")
        .build()
        .unwrap();
    let error = futures_now(token_request.open(AUDIENCE)).unwrap_err();
    let is_runtime = matches!(&error, Error::Fetch(FetchError::NoRuntime { .. }));
    assert!(is_runtime, "{error}");
    assert!(!error.is_transient());
}

/// Polls a future once, outside a runtime.
fn futures_now<F: Future>(future: F) -> F::Output {
    let waker = std::task::Waker::noop();
    let mut context = std::task::Context::from_waker(waker);
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("not ready"),
    }
}
