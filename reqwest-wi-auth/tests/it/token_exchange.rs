//! Token exchange (RFC 8693).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use reqwest_wi_auth::testing::{FakeTokenEndpoint, HttpFault, Kubelet, TokenEndpointFault};
use reqwest_wi_auth::{
    BearerAuth, Error, FetchError, FetchedToken, FixedToken, ProjectedToken, Token, TokenExchange,
    TokenExchangeBuilder, TokenProvider as _, TokenSource, TokenType,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Issuer, OidcGuard};

use crate::support::log::Log;
use crate::support::process::is_child_process;
use crate::support::server::Server;
use crate::support::sources::{FailingSource, Tokens};
use crate::support::{advance_clock, client, current_header, signed, token, wait_until};

const AUDIENCE: &str = "https://orders.example";
const EXCHANGE_GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

async fn start_endpoint() -> FakeTokenEndpoint {
    FakeTokenEndpoint::start().await.unwrap()
}

fn subject() -> Tokens {
    Tokens::one(&token("subject", 600))
}

/// Returns the settings of an exchange of one subject token.
fn exchange(endpoint: &FakeTokenEndpoint) -> TokenExchangeBuilder {
    TokenExchange::builder(endpoint.url(), subject()).audience(AUDIENCE)
}

/// Returns an exchanged token for the configured audience.
fn exchanged(name: &str, lifetime: u64) -> String {
    let expiry = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let expiry = expiry.unwrap().as_secs() + lifetime;
    signed(&format!(
        r#"{{"aud":"{AUDIENCE}","exp":{expiry},"jti":"{name}"}}"#
    ))
}

/// Accepts only this subject token.
fn accept_only(endpoint: &FakeTokenEndpoint, accepted: &str) {
    let accepted = accepted.to_owned();
    endpoint.set_subject_fn(move |token: String| {
        let is_accepted = token == accepted;
        async move {
            is_accepted
                .then_some(())
                .ok_or_else(|| "the token is revoked".to_owned())
        }
    });
}

/// Starts a source, and returns the error of its first exchange.
async fn first_error(exchange: &TokenExchange) -> Error {
    let source = exchange.start();
    let mut error = None;
    wait_until("an exchange has failed", || {
        error = source.health().last_error;
        error.is_some()
    })
    .await;
    assert!(source.current().is_err());
    error.unwrap()
}

/// Returns the code and the description of an error as defined by RFC 6749.
fn oauth_error(error: &Error) -> (&str, Option<&str>) {
    match error {
        Error::Fetch(FetchError::OAuth {
            error, description, ..
        }) => (error, description.as_deref()),
        other => panic!("{other}"),
    }
}

fn remaining(source: &FetchedToken) -> Option<u64> {
    let expiry = source.health().expires_at?;
    Some(expiry.duration_since(SystemTime::now()).unwrap().as_secs())
}

#[tokio::test]
async fn the_subject_token_is_exchanged_with_the_configured_parameters() {
    let endpoint = start_endpoint().await;
    let text = token("subject", 600);
    let source = TokenExchange::builder(endpoint.url(), Tokens::one(&text))
        .audience(AUDIENCE)
        .audience("https://stock.example")
        .resource("https://orders.example/v1")
        .resource("https://stock.example/v1")
        .scope("read write")
        .scope("list")
        .subject_token_type(TokenType::IdToken)
        .requested_token_type(TokenType::Jwt)
        .parameter("connector_id", "kubernetes & more")
        .build()
        .unwrap();
    let source = source.open().await.unwrap();
    let first = source.current().unwrap();
    assert!(first.expires_at().is_some());
    for _ in 0..100 {
        assert_eq!(source.current().unwrap(), first);
    }
    assert_eq!(endpoint.request_count(), 1);
    let request = endpoint.take_requests().remove(0);
    assert_eq!(request.grant_type, EXCHANGE_GRANT);
    assert_eq!(request.subject_token, Some(text));
    assert_eq!(request.audiences, [AUDIENCE, "https://stock.example"]);
    assert_eq!(
        request.resources,
        ["https://orders.example/v1", "https://stock.example/v1"]
    );
    assert_eq!(request.scope.as_deref(), Some("read write list"));
    assert_eq!(
        request.subject_token_type.as_deref(),
        Some(TokenType::IdToken.as_str())
    );
    assert_eq!(
        request.requested_token_type.as_deref(),
        Some(TokenType::Jwt.as_str())
    );
    assert_eq!(request.client_id, None);
    let other = [("connector_id".to_owned(), "kubernetes & more".to_owned())];
    assert_eq!(request.other, other);
    let health = source.health();
    assert!(health.present && health.last_rotation.is_some() && health.last_error.is_none());
}

#[tokio::test]
async fn parameters_without_a_setting_are_not_sent() {
    let endpoint = start_endpoint().await;
    let exchange = TokenExchange::builder(endpoint.url(), subject());
    exchange.build().unwrap().open().await.unwrap();
    let request = endpoint.take_requests().remove(0);
    assert_eq!((request.scope, request.requested_token_type), (None, None));
    assert!(request.audiences.is_empty() && request.resources.is_empty());
    assert_eq!(
        request.subject_token_type.as_deref(),
        Some(TokenType::Jwt.as_str())
    );
}

/// A guard that accepts the tokens of an issuer for an audience.
fn guard(issuer: &TestIssuer, audience: &str) -> OidcGuard {
    let issuer = Issuer::kubernetes(issuer.url()).audience(audience);
    OidcGuard::builder()
        .issuer(issuer.insecure_loopback_http())
        .any_verified_caller()
        .build()
        .unwrap()
}

#[cfg(unix)]
#[tokio::test]
async fn a_projected_token_is_verified_by_the_endpoint_and_the_exchanged_one_by_the_server() {
    let cluster = TestIssuer::start().await.unwrap();
    let sts = Arc::new(TestIssuer::start().await.unwrap());
    let endpoint = start_endpoint().await;
    let for_sts = Arc::new(guard(&cluster, "https://sts.example"));
    endpoint.set_subject_fn(move |token: String| {
        let guard = for_sts.clone();
        async move {
            let verified = guard.verifier().verify(token).await;
            verified.map(drop).map_err(|error| error.to_string())
        }
    });
    let signer = sts.clone();
    endpoint.set_token_fn(move |request| {
        let token = signer.token().service_account("shop", "orders");
        token.audience(&request.audiences[0]).mint()
    });

    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path()).unwrap();
    let projected = |audience: &str| cluster.token().audience(audience).mint();
    kubelet
        .write([("sts", projected("https://other.example"))])
        .unwrap();
    let projected_token = ProjectedToken::open(kubelet.path("sts")).await.unwrap();
    let exchange = TokenExchange::builder(endpoint.url(), projected_token.clone());
    let exchange = exchange.audience(AUDIENCE).build().unwrap();
    let error = first_error(&exchange).await.to_string();
    assert!(error.contains("https://other.example"), "{error}");

    let mut changes = projected_token.subscribe();
    kubelet
        .rotate("sts", projected("https://sts.example"))
        .unwrap();
    changes.next().await;
    let source = exchange.open().await.unwrap();
    let header = current_header(&source).unwrap();
    let token = header.strip_prefix("Bearer ").unwrap();
    let caller = guard(&sts, AUDIENCE)
        .verifier()
        .verify(token)
        .await
        .unwrap();
    assert_eq!(caller.subject(), "system:serviceaccount:shop:orders");
}

#[tokio::test]
async fn a_hundred_concurrent_callers_cause_one_exchange() {
    let endpoint = start_endpoint().await;
    endpoint.set_fault(Some(TokenEndpointFault::Delay(Duration::from_millis(50))));
    let source = exchange(&endpoint).build().unwrap().start();
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
    advance_clock(Duration::from_secs(60)).await;
    source.current().unwrap();
    assert_eq!(endpoint.request_count(), 1);
}

#[tokio::test]
async fn a_rejected_subject_token_is_refreshed_and_the_exchange_tried_once_more() {
    let (old, new) = (token("old", 600), token("new", 600));
    for code in ["invalid_request", "invalid_grant", "invalid_token"] {
        let endpoint = start_endpoint().await;
        endpoint.set_subject_error(code);
        accept_only(&endpoint, &new);
        let subject = Tokens::two(&old, &new);
        let exchange = TokenExchange::builder(endpoint.url(), subject);
        exchange.build().unwrap().open().await.expect(code);
        assert_eq!(endpoint.request_count(), 2, "{code}");
        let accepted = endpoint.take_requests();
        assert_eq!(accepted[0].subject_token.as_deref(), Some(new.as_str()));
    }
}

/// A source that counts how often it is refreshed, and always has the same token.
struct Counted(Token, Arc<AtomicU64>);

#[async_trait::async_trait]
impl TokenSource for Counted {
    fn current(&self) -> Result<Token, Error> {
        Ok(self.0.clone())
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        assert_eq!(rejected, Some(&self.0));
        self.1.fetch_add(1, Ordering::SeqCst);
        self.current()
    }
}

#[tokio::test]
async fn the_subject_is_refreshed_only_for_errors_about_it_and_resent_only_if_it_changes() {
    let status = |status, error: &str| TokenEndpointFault::Error {
        status,
        error: error.to_owned(),
        description: String::new(),
    };
    let (bad, unauthorized) = (StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED);
    for (fault, refreshes) in [
        (status(bad, "invalid_grant"), 1),
        (status(bad, "invalid_request"), 1),
        (status(unauthorized, "expired_token"), 1),
        (TokenEndpointFault::Http(HttpFault::Status(unauthorized)), 1),
        (status(unauthorized, "invalid_client"), 0),
        (status(bad, "invalid_target"), 0),
        (status(bad, "unsupported_grant_type"), 0),
        (
            status(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
            0,
        ),
        (TokenEndpointFault::Http(HttpFault::Status(bad)), 0),
        (TokenEndpointFault::Http(HttpFault::InvalidBody), 0),
    ] {
        let endpoint = start_endpoint().await;
        endpoint.set_fault(Some(fault.clone()));
        let count = Arc::new(AtomicU64::new(0));
        let subject = Counted(Token::new(token("subject", 600)).unwrap(), count.clone());
        let exchange = TokenExchange::builder(endpoint.url(), subject);
        first_error(&exchange.build().unwrap()).await;
        assert_eq!(count.load(Ordering::SeqCst), refreshes, "{fault:?}");
        assert_eq!(endpoint.request_count(), 1, "{fault:?}");
    }
}

#[tokio::test]
async fn a_401_of_the_server_causes_a_new_exchange() {
    let endpoint = start_endpoint().await;
    let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
    let (first, second) = (source.current().unwrap(), exchanged("second", 600));
    let server = Server::start().await;
    server.accept_only(&second);
    let text = second.clone();
    endpoint.set_token_fn(move |_| text.clone());
    let client = client(BearerAuth::for_origin(&server.url, source.clone()).unwrap());
    let response = client.get(&server.url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(endpoint.request_count(), 2);
    assert_ne!(source.current().unwrap(), first);
}

#[tokio::test]
async fn concurrent_rejections_cause_one_exchange() {
    let endpoint = start_endpoint().await;
    let text = exchanged("same", 600);
    endpoint.set_token_fn(move |_| text.clone());
    let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
    let rejected = source.current().unwrap();
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (source, rejected) = (source.clone(), rejected.clone());
            tokio::spawn(async move { source.refresh(Some(&rejected)).await })
        })
        .collect();
    for caller in callers {
        // The endpoint returns the same token again.
        assert_eq!(caller.await.unwrap().unwrap(), rejected);
    }
    assert_eq!(endpoint.request_count(), 2);
}

#[tokio::test]
async fn an_opaque_token_is_kept_and_renewed_according_to_expires_in() {
    let endpoint = start_endpoint().await;
    let number = AtomicU64::new(0);
    endpoint.set_token_fn(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst);
        format!("opaque/{number}+~=")
    });
    endpoint.set_token_lifetime(Duration::from_secs(100));
    let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
    assert_eq!(source.current().unwrap().header(), "Bearer opaque/0+~=");
    assert!(matches!(remaining(&source), Some(98..=100)), "{source:?}");
    advance_clock(Duration::from_secs(70)).await;
    assert_eq!(
        endpoint.request_count(),
        1,
        "not before 75 % of the lifetime"
    );
    advance_clock(Duration::from_secs(20)).await;
    wait_until("the token is renewed", || {
        source.current().unwrap().header() == "Bearer opaque/1+~="
    })
    .await;
}

#[tokio::test]
async fn the_expiry_is_the_earlier_one_of_exp_and_expires_in() {
    use TokenEndpointFault as Fault;
    for (exp, fault, expected) in [
        (Some(600), Fault::ExpiresIn(100), Some(100)),
        (Some(100), Fault::ExpiresIn(600), Some(100)),
        (Some(100), Fault::MissingExpiresIn, Some(100)),
        (None, Fault::TextInExpiresIn("100".to_owned()), Some(100)),
        (
            None,
            Fault::TextInExpiresIn(" 100.0 ".to_owned()),
            Some(100),
        ),
        (None, Fault::ExpiresIn(100), Some(100)),
        (None, Fault::MissingExpiresIn, None),
        (Some(100), Fault::ExpiresIn(i64::MAX), Some(100)),
    ] {
        let endpoint = start_endpoint().await;
        endpoint.set_token_fn(move |_| match exp {
            Some(lifetime) => exchanged("token", lifetime),
            None => "opaque".to_owned(),
        });
        endpoint.set_fault(Some(fault.clone()));
        let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
        let found = remaining(&source);
        let is_expected = match (found, expected) {
            (Some(found), Some(expected)) => (expected - 3..=expected).contains(&found),
            (found, expected) => found == expected,
        };
        assert!(is_expected, "{fault:?}: {found:?}");
    }
    for text in ["soon", "-1", "", "1e400", "NaN"] {
        let endpoint = start_endpoint().await;
        endpoint.set_fault(Some(Fault::TextInExpiresIn(text.to_owned())));
        let error = first_error(&exchange(&endpoint).build().unwrap()).await;
        assert!(error.to_string().contains("expires_in"), "{error}");
    }
    let endpoint = start_endpoint().await;
    endpoint.set_fault(Some(Fault::ExpiresIn(-1)));
    first_error(&exchange(&endpoint).build().unwrap()).await;
}

#[tokio::test]
async fn a_token_without_expiry_is_replaced_every_300_seconds() {
    let endpoint = start_endpoint().await;
    endpoint.set_token_fn(|_| "opaque".to_owned());
    endpoint.set_fault(Some(TokenEndpointFault::MissingExpiresIn));
    let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
    assert_eq!(source.health().expires_at, None);
    advance_clock(Duration::from_secs(290)).await;
    assert_eq!(endpoint.request_count(), 1);
    advance_clock(Duration::from_secs(20)).await;
    wait_until("the token is exchanged again", || {
        endpoint.request_count() == 2
    })
    .await;
}

#[tokio::test]
async fn only_tokens_that_may_be_sent_as_bearer_tokens_are_accepted() {
    use TokenEndpointFault as Fault;
    let kind = |text: &str| Fault::TokenType(text.to_owned());
    let issued = |text: &str| Fault::IssuedTokenType(text.to_owned());
    let (id_token, jwt) = (Some(TokenType::IdToken), Some(TokenType::Jwt));
    let accepted = [
        (None, None),
        (Some(kind("bearer")), None),
        (Some(kind("BEARER")), None),
        (Some(Fault::MissingIssuedTokenType), None),
        (Some(Fault::MissingIssuedTokenType), jwt.clone()),
        (Some(issued("urn:example:token")), None),
        // The fake responds with `N_A`, as RFC 8693 requires.
        (None, id_token.clone()),
        (Some(kind("N_A")), jwt.clone()),
    ];
    for (fault, requested) in accepted {
        let endpoint = start_endpoint().await;
        endpoint.set_fault(fault.clone());
        let mut builder = exchange(&endpoint);
        if let Some(requested) = requested {
            builder = builder.requested_token_type(requested);
        }
        let opened = builder.build().unwrap().open().await;
        assert!(opened.is_ok(), "{fault:?}: {opened:?}");
    }
    let refused = [
        (kind("N_A"), None, "N_A"),
        (kind("DPoP"), None, "DPoP"),
        (kind("DPoP"), jwt.clone(), "DPoP"),
        (kind("mac"), None, "mac"),
        (kind(""), None, "token_type"),
        (Fault::MissingTokenType, None, "without `token_type`"),
        (
            issued(TokenType::RefreshToken.as_str()),
            None,
            "refresh_token",
        ),
        (issued(TokenType::Saml2.as_str()), None, "saml2"),
        (
            issued(TokenType::AccessToken.as_str()),
            id_token,
            "expected the requested",
        ),
    ];
    for (fault, requested, expected) in refused {
        let endpoint = start_endpoint().await;
        endpoint.set_fault(Some(fault.clone()));
        let mut builder = exchange(&endpoint);
        if let Some(requested) = requested {
            builder = builder.requested_token_type(requested);
        }
        let error = first_error(&builder.build().unwrap()).await;
        let is_invalid = matches!(&error, Error::Fetch(FetchError::InvalidResponse { .. }));
        assert!(is_invalid, "{fault:?}: {error}");
        assert!(error.to_string().contains(expected), "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn a_response_without_a_usable_token_is_an_error() {
    use TokenEndpointFault as Fault;
    let text = |text: &str| Fault::AccessToken(text.to_owned());
    for (fault, expected) in [
        (Fault::MissingAccessToken, "without `access_token`"),
        (text(""), "the token is empty"),
        (text("two words"), "a space at byte 4"),
        (text("line\r\nbreak"), "carriage return"),
        (Fault::Http(HttpFault::InvalidBody), "not JSON"),
        (Fault::Http(HttpFault::OversizedBody), "64 KiB"),
    ] {
        let endpoint = start_endpoint().await;
        endpoint.set_fault(Some(fault.clone()));
        let error = first_error(&exchange(&endpoint).build().unwrap()).await;
        let is_invalid = matches!(&error, Error::Fetch(FetchError::InvalidResponse { .. }));
        assert!(is_invalid, "{fault:?}: {error}");
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains(&endpoint.url()),
            "{text}"
        );
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn errors_of_the_endpoint_are_typed_and_state_what_to_do() {
    for (status, code, is_transient, advice) in [
        (
            400,
            "invalid_request",
            false,
            "trusts the issuer of the subject token",
        ),
        (
            400,
            "invalid_grant",
            true,
            "trusts the issuer of the subject token",
        ),
        (401, "invalid_client", false, "credentials of the client"),
        (400, "unauthorized_client", false, "allow this client"),
        (400, "unsupported_grant_type", false, "check its URL"),
        (400, "invalid_target", false, AUDIENCE),
        (400, "invalid_scope", false, "check the scope"),
        (503, "temporarily_unavailable", true, ""),
        (200, "server_error", true, ""),
        (403, "made_up", false, ""),
    ] {
        let endpoint = start_endpoint().await;
        endpoint.set_fault(Some(TokenEndpointFault::Error {
            status: StatusCode::from_u16(status).unwrap(),
            error: code.to_owned(),
            description: "an explanation\r\nof the server".to_owned(),
        }));
        let exchange = exchange(&endpoint).build().unwrap();
        let error = if is_transient {
            first_error(&exchange).await
        } else {
            // Reported at once.
            exchange.open().await.unwrap_err()
        };
        assert_eq!(
            oauth_error(&error),
            (code, Some("an explanation\\r\\nof the server"))
        );
        assert_eq!(error.is_transient(), is_transient, "{error}");
        let text = error.to_string();
        for expected in [&endpoint.url(), code, &status.to_string(), advice] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}

#[tokio::test]
async fn a_wrong_url_is_recognized() {
    let endpoint = start_endpoint().await;
    let url = endpoint.url().replace("/token", "/oauth");
    let exchange = TokenExchange::builder(url, subject()).build().unwrap();
    let error = exchange.open().await.unwrap_err();
    let is_status = matches!(
        &error,
        Error::Fetch(FetchError::Status { status, .. }) if *status == StatusCode::NOT_FOUND
    );
    assert!(is_status, "{error}");
    assert!(error.to_string().contains("check the URL"), "{error}");
    // A server may have an error of OAuth at every path.
    for status in [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED] {
        endpoint.set_fault(Some(TokenEndpointFault::Error {
            status,
            error: "invalid_request".to_owned(),
            description: "unknown path".to_owned(),
        }));
        let error = first_error(&self::exchange(&endpoint).build().unwrap()).await;
        assert_eq!(
            oauth_error(&error),
            ("invalid_request", Some("unknown path"))
        );
        assert!(error.to_string().contains("check the URL"), "{error}");
    }
}

#[tokio::test]
async fn credentials_that_are_encoded_for_basic_authentication_are_named_as_a_cause() {
    let endpoint = start_endpoint().await;
    endpoint.require_client_secret("billing", "another secret");
    let advice = "some servers do not decode them, use `client_secret_post` there";
    for (id, secret, is_encoded) in [
        ("billing", "s3cr3t*-._", false),
        ("billing", "s3cr3t:", true),
        ("billing", "s3cr3t é", true),
        ("bill ing", "s3cr3t", true),
    ] {
        let basic = exchange(&endpoint).client_secret_basic(id, secret);
        let error = basic.build().unwrap().open().await.unwrap_err().to_string();
        assert_eq!(error.contains(advice), is_encoded, "{error}");
        assert!(!error.contains(secret), "{error}");
        let post = exchange(&endpoint).client_secret_post(id, secret);
        let error = post.build().unwrap().open().await.unwrap_err().to_string();
        assert!(!error.contains(advice), "{error}");
    }
}

#[tokio::test]
async fn the_client_authenticates_as_configured() {
    let (id, secret) = ("bil:ling ä", "s3cr3t:+/&=% ä");
    let endpoint = start_endpoint().await;
    endpoint.require_client_secret(id, secret);
    let open = async |builder: TokenExchangeBuilder| {
        let result = builder.build().unwrap().open().await;
        result.map(|_| endpoint.take_requests().remove(0).client_id.unwrap())
    };
    let basic = exchange(&endpoint).client_secret_basic(id, secret);
    assert_eq!(open(basic).await.unwrap(), id);
    let post = exchange(&endpoint).client_secret_post(id, secret);
    assert_eq!(open(post).await.unwrap(), id);
    // The last method that is set is used.
    let both = exchange(&endpoint).client_secret_basic("other", "other");
    assert_eq!(open(both.client_secret_post(id, secret)).await.unwrap(), id);
    for wrong in [
        exchange(&endpoint).client_secret_basic(id, "other"),
        exchange(&endpoint).client_secret_post("other", secret),
        exchange(&endpoint).client_id(id),
        exchange(&endpoint),
    ] {
        let error = open(wrong).await.unwrap_err();
        assert_eq!(oauth_error(&error).0, "invalid_client");
        assert!(!error.to_string().contains(secret), "{error}");
    }
    endpoint.require_public_client(id);
    assert_eq!(open(exchange(&endpoint).client_id(id)).await.unwrap(), id);
}

#[tokio::test]
async fn a_rejected_client_assertion_is_refreshed_and_the_exchange_tried_once_more() {
    let (old, new) = (token("old", 600), token("new", 600));
    let endpoint = start_endpoint().await;
    let accepted = new.clone();
    endpoint.require_client_assertion("billing", move |assertion: String| {
        let is_accepted = assertion == accepted;
        async move {
            is_accepted
                .then_some(())
                .ok_or_else(|| "the assertion is revoked".to_owned())
        }
    });
    let assertions = || Tokens::two(&old, &new);
    for builder in [
        exchange(&endpoint).client_assertion(assertions()),
        exchange(&endpoint)
            .client_id("billing")
            .client_assertion(assertions()),
    ] {
        let before = endpoint.request_count();
        builder.build().unwrap().open().await.unwrap();
        assert_eq!(endpoint.request_count(), before + 2);
    }
    let error = first_error(
        &exchange(&endpoint)
            .client_assertion(FailingSource::permanent())
            .build()
            .unwrap(),
    )
    .await;
    assert!(error.to_string().contains("client assertion"), "{error}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let endpoint = start_endpoint().await;
    let other = start_endpoint().await;
    endpoint.set_fault(Some(TokenEndpointFault::Http(HttpFault::Redirect(
        other.url(),
    ))));
    let error = first_error(&exchange(&endpoint).build().unwrap()).await;
    assert!(
        error.to_string().contains("redirects are not followed"),
        "{error}"
    );
    assert_eq!(other.request_count(), 0);
}

#[tokio::test]
async fn an_endpoint_that_does_not_respond_is_given_up_after_the_time_limit() {
    for fault in [
        TokenEndpointFault::Http(HttpFault::NoResponse),
        TokenEndpointFault::Http(HttpFault::StalledBody),
        TokenEndpointFault::Delay(Duration::from_secs(60)),
        TokenEndpointFault::Http(HttpFault::ClosedConnection),
    ] {
        let endpoint = start_endpoint().await;
        endpoint.set_fault(Some(fault.clone()));
        let limit = Duration::from_millis(200);
        let exchange = exchange(&endpoint).time_limit(limit).build().unwrap();
        let error = first_error(&exchange).await;
        let is_no_response = matches!(
            &error,
            Error::Fetch(FetchError::NoResponse { limit: found, .. }) if *found == limit
        );
        assert!(is_no_response, "{fault:?}: {error}");
        assert!(error.is_transient());
    }
}

#[tokio::test]
async fn an_unreachable_endpoint_is_reported_within_seconds() {
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/token", unused.local_addr().unwrap());
    drop(unused);
    let exchange = TokenExchange::builder(&url, subject()).build().unwrap();
    let began = std::time::Instant::now();
    let error = exchange.open().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10));
    let is_unreachable = matches!(&error, Error::Fetch(FetchError::Unreachable { .. }));
    assert!(
        is_unreachable && error.to_string().contains(&url),
        "{error}"
    );
}

#[tokio::test]
async fn the_token_is_kept_while_renewals_fail() {
    let endpoint = start_endpoint().await;
    let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
    let first = source.current().unwrap();
    for fault in [
        TokenEndpointFault::Http(HttpFault::Status(StatusCode::INTERNAL_SERVER_ERROR)),
        TokenEndpointFault::Http(HttpFault::ClosedConnection),
    ] {
        endpoint.set_fault(Some(fault));
        advance_clock(Duration::from_secs(3100)).await;
        wait_until("the renewal has failed", || {
            source.health().last_error.is_some()
        })
        .await;
        assert_eq!(source.current().unwrap(), first);
    }
    endpoint.set_fault(None);
    advance_clock(Duration::from_secs(60)).await;
    wait_until("the token is renewed", || {
        source.current().unwrap() != first
    })
    .await;
    assert!(source.health().last_error.is_none());
}

#[cfg(unix)]
#[tokio::test]
async fn a_new_subject_token_is_used_at_the_next_exchange_and_not_before() {
    let endpoint = start_endpoint().await;
    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path()).unwrap();
    let (old, new) = (token("old", 600), token("new", 600));
    kubelet.write([("sts", &old)]).unwrap();
    let subject = ProjectedToken::open(kubelet.path("sts")).await.unwrap();
    let mut changes = subject.subscribe();
    let exchange = TokenExchange::builder(endpoint.url(), subject);
    let source = exchange.build().unwrap().open().await.unwrap();
    let first = source.current().unwrap();
    kubelet.rotate("sts", &new).unwrap();
    changes.next().await;
    assert_eq!(source.current().unwrap(), first);
    assert_eq!(endpoint.request_count(), 1);
    let refreshed = source.refresh(Some(&first)).await.unwrap();
    assert_ne!(refreshed, first);
    let sent = endpoint.take_requests();
    let sent: Vec<_> = sent
        .iter()
        .map(|request| request.subject_token.as_deref())
        .collect();
    assert_eq!(sent, [Some(old.as_str()), Some(new.as_str())]);
}

#[tokio::test]
async fn the_exchanged_token_is_kept_although_the_subject_token_expires_earlier_or_never() {
    let opaque = FixedToken::new(Token::opaque("opaque-subject").unwrap());
    let short = FixedToken::new(Token::new(token("subject", 2)).unwrap());
    let sources: [Arc<dyn TokenSource>; 2] = [Arc::new(opaque), Arc::new(short)];
    for subject in sources {
        let endpoint = start_endpoint().await;
        endpoint.set_subject_fn(|_: String| async { Ok(()) });
        let exchange = TokenExchange::builder(endpoint.url(), subject);
        let source = exchange.build().unwrap().open().await.unwrap();
        assert!(remaining(&source).unwrap() > 3000);
    }
}

#[tokio::test]
async fn a_subject_without_a_valid_token_is_refreshed_or_reported() {
    // The first token has expired.
    let (expired, valid) = (token("expired", 0), token("valid", 600));
    struct Expired(Tokens);
    #[async_trait::async_trait]
    impl TokenSource for Expired {
        fn current(&self) -> Result<Token, Error> {
            let token = self.0.current()?;
            if token.is_expired(SystemTime::now()) {
                return Err(crate::support::sources::not_fetched());
            }
            Ok(token)
        }
        async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
            self.0.refresh(rejected).await
        }
    }
    let endpoint = start_endpoint().await;
    let subject = Expired(Tokens::two(&expired, &valid));
    let exchange = TokenExchange::builder(endpoint.url(), subject);
    exchange.build().unwrap().open().await.unwrap();
    assert_eq!(endpoint.request_count(), 1);

    for (subject, is_transient) in [
        (FailingSource::permanent(), false),
        (FailingSource::transient(), true),
    ] {
        let exchange = TokenExchange::builder(endpoint.url(), subject.clone());
        let error = first_error(&exchange.build().unwrap()).await;
        let is_subject = matches!(&error, Error::Fetch(FetchError::Credential { .. }));
        assert!(is_subject, "{error}");
        let text = error.to_string();
        assert!(text.contains("the subject token"), "{text}");
        assert!(text.contains(&subject.0.to_string()), "{text}");
        assert_eq!(error.is_transient(), is_transient);
    }
    assert_eq!(endpoint.request_count(), 1);
}

/// Returns a source of each kind of credentials, and the secrets in them.
fn exchanges_with_secrets(url: &str) -> (Vec<TokenExchangeBuilder>, Vec<String>) {
    let (jwt, assertion) = (token("subject", 600), token("assertion", 600));
    let opaque = "0paque+Subj/ect=T0ken".to_owned();
    let secrets = ["s3cr3t", "päss/w0rd+ &=%", "pin1"];
    let subjects = || {
        [
            FixedToken::new(Token::new(&jwt).unwrap()),
            FixedToken::new(Token::opaque(&opaque).unwrap()),
        ]
    };
    let mut builders = Vec::new();
    for subject in subjects() {
        let builder = || TokenExchange::builder(url, subject.clone()).audience(AUDIENCE);
        builders.push(builder());
        let assertions = FixedToken::new(Token::new(&assertion).unwrap());
        builders.push(builder().client_assertion(assertions));
        for secret in secrets {
            builders.push(builder().client_secret_basic("billing", secret));
            builders.push(builder().client_secret_post("billing", secret));
        }
    }
    let mut parts: Vec<String> = secrets.map(str::to_owned).to_vec();
    for token in [jwt, assertion] {
        parts.extend(token.split('.').map(str::to_owned));
    }
    // The encoded forms, and parts of them.
    parts.extend(
        [
            "0paque",
            "Subj",
            "T0ken",
            "w0rd",
            "p%C3%A4ss",
            "p%c3%a4ss",
            "%2Fw0rd",
            "YmlsbGluZzp",
        ]
        .map(str::to_owned),
    );
    (builders, parts)
}

#[tokio::test]
async fn no_secret_appears_in_errors_debug_output_health_or_logs_even_if_the_server_repeats_it() {
    if !is_child_process(
        "token_exchange::no_secret_appears_in_errors_debug_output_health_or_logs_even_if_the_server_repeats_it",
    ) {
        return;
    }
    let log = Log::default();
    let _subscribed = log.subscribe(tracing::Level::TRACE);
    let endpoint = start_endpoint().await;
    let (builders, parts) = exchanges_with_secrets(&endpoint.url());
    let mut output = String::new();
    endpoint.set_fault(Some(TokenEndpointFault::EchoedRequest));
    for builder in builders {
        output.push_str(&format!("{builder:?} "));
        let exchange = builder.build().unwrap();
        output.push_str(&format!("{exchange:?} "));
        let error = first_error(&exchange).await;
        assert_eq!(oauth_error(&error).0, "invalid_request");
        assert!(
            error.to_string().contains("cannot process the request"),
            "{error}"
        );
        let source = exchange.start();
        output.push_str(&format!(
            "{error} {error:?} {source:?} {:?} ",
            source.health()
        ));
    }
    // A successful exchange, too.
    endpoint.set_fault(None);
    let exchanged = "exchanged-0123456789-t0ken";
    endpoint.set_token_fn(move |_| exchanged.to_owned());
    let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
    output.push_str(&format!(
        "{source:?} {:?} {:?}",
        source.health(),
        source.current()
    ));
    // A response whose error contains the issued token.
    endpoint.set_fault(Some(TokenEndpointFault::TokenType("DPoP".to_owned())));
    output.push_str(
        &first_error(&exchange(&endpoint).build().unwrap())
            .await
            .to_string(),
    );

    let logged = log.text();
    assert!(logged.contains("token could not be fetched"), "{logged}");
    assert!(logged.contains("token fetched"), "{logged}");
    for part in parts.iter().map(String::as_str).chain([exchanged]) {
        assert!(!output.contains(part), "{part}: {output}");
        assert!(!logged.contains(part), "{part}: {logged}");
    }
}

#[test]
fn invalid_settings_are_errors_of_build() {
    let builder = |url: &str| TokenExchange::builder(url, subject());
    let valid = || builder("https://sts.example/token");
    for url in [
        "",
        "sts.example",
        "http://sts.example/token",
        "ftp://sts.example/token",
        "https://user:s3cr3t@sts.example/token",
    ] {
        let error = builder(url).build().unwrap_err();
        assert!(
            matches!(&error, Error::InvalidOrigin { .. }),
            "{url}: {error}"
        );
        assert!(!error.to_string().contains("s3cr3t"), "{error}");
    }
    builder("http://sts.example/token")
        .insecure_http()
        .build()
        .unwrap();
    for (setting, builder) in [
        ("audience", valid().audience("")),
        ("resource", valid().resource("orders")),
        ("resource", valid().resource("https://orders.example/#a")),
        ("parameter", valid().parameter("subject_token", "x")),
        ("parameter", valid().parameter("", "x")),
        ("scope", valid().scope("a\nb")),
        ("scope", valid().scope("\"a\"")),
        ("client_id", valid().client_id("")),
        (
            "client_secret_basic",
            valid().client_secret_basic("billing", ""),
        ),
        (
            "client_secret_post",
            valid().client_secret_post("billing", ""),
        ),
        ("proxy", valid().proxy("not a url")),
        (
            "subject_token_type",
            valid().subject_token_type(TokenType::Other("jwt".to_owned())),
        ),
        (
            "requested_token_type",
            valid().requested_token_type(TokenType::RefreshToken),
        ),
        (
            "requested_token_type",
            valid().requested_token_type(TokenType::Other(TokenType::Saml1.to_string())),
        ),
    ] {
        let error = builder.build().unwrap_err();
        assert!(
            matches!(&error, Error::Configuration { .. }),
            "{setting}: {error}"
        );
        assert!(error.to_string().contains(setting), "{setting}: {error}");
        assert!(!error.is_transient());
    }
}

#[tokio::test]
async fn as_a_provider_it_exchanges_tokens_for_any_audience() {
    let endpoint = start_endpoint().await;
    let exchange = exchange(&endpoint).scope("read").build().unwrap();
    for audience in ["https://stock.example", "https://billing.example"] {
        let source = exchange.token_source(audience).unwrap();
        source.refresh(None).await.unwrap();
        let request = endpoint.take_requests().remove(0);
        assert_eq!(request.audiences, [audience]);
        assert_eq!(request.scope.as_deref(), Some("read"));
    }
    assert!(exchange.token_source(" ").is_err());
}

#[test]
fn a_source_cannot_be_opened_outside_a_runtime() {
    let exchange = TokenExchange::builder("https://sts.example/token", subject());
    let exchange = exchange.build().unwrap();
    let mut opening = std::pin::pin!(exchange.open());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(Err(error)) = opening.as_mut().poll(&mut context) else {
        panic!("it waits");
    };
    assert!(
        matches!(error, Error::Fetch(FetchError::NoRuntime { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_configured_proxy_is_used() {
    // The fake responds to requests for any host, as a proxy does.
    let proxy = start_endpoint().await;
    let exchange = TokenExchange::builder("http://sts.invalid/token", subject())
        .insecure_http()
        .proxy(proxy.url().replace("/token", ""));
    exchange.build().unwrap().open().await.unwrap();
    assert_eq!(proxy.request_count(), 1);
}

/// Runs in a child process, whose environment contains a proxy.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_the_environment_is_used_only_if_configured_and_not_for_loopback() {
    const CHILD: &str = "TEST_EXCHANGES_WITH_A_PROXY";
    if let Ok(url) = std::env::var(CHILD) {
        let remote =
            || TokenExchange::builder("http://sts.invalid/token", subject()).insecure_http();
        let error = first_error(&remote().build().unwrap()).await;
        let is_unreachable = matches!(&error, Error::Fetch(FetchError::Unreachable { .. }));
        assert!(is_unreachable, "{error}");
        let through_proxy = remote().proxy_from_environment().build().unwrap();
        through_proxy.open().await.unwrap();
        // Over plain http, a proxy could read the token.
        let on_loopback = TokenExchange::builder(&url, subject());
        let on_loopback = on_loopback.proxy_from_environment().build().unwrap();
        on_loopback.open().await.unwrap();
        return;
    }
    let (endpoint, proxy) = (start_endpoint().await, start_endpoint().await);
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "token_exchange::the_proxy_of_the_environment_is_used_only_if_configured_and_not_for_loopback",
            "--exact",
        ])
        .env(CHILD, endpoint.url())
        .env_remove("no_proxy")
        .env_remove("NO_PROXY");
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env(name, proxy.url().replace("/token", ""));
    }
    let status = tokio::task::spawn_blocking(move || command.status()).await;
    assert!(status.unwrap().unwrap().success());
    assert_eq!((endpoint.request_count(), proxy.request_count()), (1, 1));
}

/// Starts a server that terminates TLS in front of an endpoint. Returns its URL, and its certificate in PEM.
async fn start_tls(endpoint: &FakeTokenEndpoint) -> (String, String) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = reqwest::Url::parse(&endpoint.url()).unwrap();
    let upstream = ("127.0.0.1", url.port().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                let mut upstream = tokio::net::TcpStream::connect(upstream).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
            });
        }
    });
    (format!("https://localhost:{port}/token"), key.cert.pem())
}

#[tokio::test]
async fn the_certificates_of_a_ca_file_are_trusted_and_followed() {
    let endpoint = start_endpoint().await;
    let (url, certificate) = start_tls(&endpoint).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.crt");
    let builder = || TokenExchange::builder(&url, subject());
    let untrusted = first_error(&builder().build().unwrap()).await;
    let is_unreachable = matches!(&untrusted, Error::Fetch(FetchError::Unreachable { .. }));
    assert!(is_unreachable, "{untrusted}");
    // A file that is missing at first, and then is not a certificate.
    let exchange = builder().ca_file(&path).build().unwrap();
    for content in [None, Some("not a certificate")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = first_error(&exchange).await;
        let is_file = matches!(&error, Error::Fetch(FetchError::CaFile { .. }));
        assert!(is_file && error.to_string().contains("ca.crt"), "{error}");
    }
    assert_eq!(endpoint.request_count(), 0);
    std::fs::write(&path, certificate).unwrap();
    exchange.open().await.unwrap();
    assert_eq!(endpoint.request_count(), 1);
}

#[tokio::test]
async fn an_exchanged_token_that_has_expired_is_not_sent() {
    let endpoint = start_endpoint().await;
    let source = exchange(&endpoint).build().unwrap().open().await.unwrap();
    let first = source.current().unwrap();
    endpoint.set_token_fn(|_| exchanged("expired", 0));
    assert_eq!(source.refresh(Some(&first)).await.unwrap(), first);
    let error = source.health().last_error.unwrap();
    assert!(matches!(error, Error::Expired { .. }), "{error}");
    assert!(error.to_string().contains("check the clock"), "{error}");
}

#[tokio::test]
async fn a_jwt_for_another_audience_is_an_error_unless_any_audience_is_accepted() {
    let endpoint = start_endpoint().await;
    let resource = "https://orders.example/v1";
    for (claims, is_accepted) in [
        (r#"{"aud":"https://orders.example"}"#, true),
        (
            r#"{"aud":["https://stock.example","https://orders.example/v1"]}"#,
            true,
        ),
        (r#"{"aud":"https://stock.example"}"#, false),
        (
            r#"{"aud":["https://stock.example","https://orders.example/"]}"#,
            false,
        ),
        (r#"{"aud":[]}"#, false),
        ("{}", false),
    ] {
        endpoint.set_token_fn(move |_| signed(claims));
        let builder = || exchange(&endpoint).resource(resource);
        if is_accepted {
            builder().build().unwrap().open().await.expect(claims);
        } else {
            let error = first_error(&builder().build().unwrap()).await;
            let is_audience = matches!(&error, Error::Fetch(FetchError::WrongAudience { .. }));
            assert!(is_audience, "{claims}: {error}");
            let text = error.to_string();
            assert!(text.contains(AUDIENCE) && text.contains(resource), "{text}");
        }
        let any = builder().accept_any_audience().build().unwrap();
        any.open().await.expect(claims);
    }
    // As a provider, it does not accept a token for a resource of the settings.
    endpoint.set_token_fn(move |_| signed(r#"{"aud":"https://orders.example/v1"}"#));
    let provider = exchange(&endpoint).resource(resource).build().unwrap();
    let source = provider.token_source("https://stock.example").unwrap();
    let before = endpoint.request_count();
    wait_until("an exchange has failed", || {
        endpoint.request_count() > before + 1
    })
    .await;
    assert!(source.current().is_err());
    // Without a configured audience, there is nothing to compare with.
    let exchange = TokenExchange::builder(endpoint.url(), subject());
    exchange.build().unwrap().open().await.unwrap();
}
