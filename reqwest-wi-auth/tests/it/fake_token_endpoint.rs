//! The fake token endpoint is as strict as RFC 6749 and RFC 8693 require. Its documentation lists the sections.

use std::time::Duration;

use http::{Method, StatusCode};
use reqwest::{RequestBuilder, Response};
use reqwest_wi_auth::testing::{FakeTokenEndpoint, HttpFault, TokenEndpointFault};
use serde_json::{Value, json};

use crate::support::token;

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Returns a request with form-encoded parameters.
fn post(endpoint: &FakeTokenEndpoint, parameters: &[(&str, &str)]) -> RequestBuilder {
    let mut url = reqwest::Url::parse("http://form/").unwrap();
    url.query_pairs_mut().extend_pairs(parameters);
    client()
        .post(endpoint.url())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(url.query().unwrap_or_default().to_owned())
}

async fn json_body(response: Response) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(&response.bytes().await.unwrap())
}

/// Returns the status, and the error or the type of the issued token.
async fn outcome(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body = json_body(response).await.unwrap();
    let text = body.get("error").or_else(|| body.get("token_type"));
    (status, text.unwrap().as_str().unwrap().to_owned())
}

/// The parameters of a request.
type Parameters<'p> = Vec<(&'p str, &'p str)>;

#[tokio::test]
async fn each_request_has_the_response_that_the_rfcs_require() {
    let endpoint = FakeTokenEndpoint::start().await.unwrap();
    endpoint.set_targets(["https://orders.example", "https://stock.example/v1"]);
    endpoint.set_scopes(["read", "write"]);
    let (subject, expired) = (token("subject", 600), token("expired", 0));
    let exchange = [
        ("grant_type", EXCHANGE),
        ("subject_token", subject.as_str()),
        ("subject_token_type", JWT),
    ];
    let with = |more: &[(&'static str, &'static str)]| [&exchange[..], more].concat();
    let without = |name: &str| {
        let mut parameters = exchange.to_vec();
        parameters.retain(|(other, _)| *other != name);
        parameters
    };
    let id_token = "urn:ietf:params:oauth:token-type:id_token";
    let saml = "urn:ietf:params:oauth:token-type:saml2";
    let cases: Vec<(Parameters<'_>, u16, &str)> = vec![
        (with(&[]), 200, "Bearer"),
        // Parameters without a value are ignored, and so are unknown ones.
        (with(&[("scope", ""), ("other", "x")]), 200, "Bearer"),
        (with(&[("requested_token_type", id_token)]), 200, "N_A"),
        (
            with(&[("requested_token_type", saml)]),
            400,
            "invalid_request",
        ),
        (
            with(&[
                ("audience", "https://orders.example"),
                ("audience", "https://orders.example"),
                ("resource", "https://stock.example/v1"),
            ]),
            200,
            "Bearer",
        ),
        (
            with(&[("audience", "https://other.example")]),
            400,
            "invalid_target",
        ),
        (with(&[("resource", "orders")]), 400, "invalid_target"),
        (
            with(&[("resource", "https://stock.example/v1#a")]),
            400,
            "invalid_target",
        ),
        (with(&[("scope", "read write")]), 200, "Bearer"),
        (with(&[("scope", "read delete")]), 400, "invalid_scope"),
        (with(&[("actor_token", "x")]), 400, "invalid_request"),
        (with(&[("actor_token_type", JWT)]), 400, "invalid_request"),
        (
            with(&[("scope", "read"), ("scope", "read")]),
            400,
            "invalid_request",
        ),
        (with(&[("subject_token", "x")]), 400, "invalid_request"),
        (without("grant_type"), 400, "invalid_request"),
        (without("subject_token"), 400, "invalid_request"),
        (without("subject_token_type"), 400, "invalid_request"),
        (
            vec![
                ("grant_type", EXCHANGE),
                ("subject_token", &expired),
                ("subject_token_type", JWT),
            ],
            400,
            "invalid_request",
        ),
        (
            vec![("grant_type", "password")],
            400,
            "unsupported_grant_type",
        ),
        (
            vec![("grant_type", "client_credentials")],
            400,
            "unauthorized_client",
        ),
        // A client that was not registered.
        (with(&[("client_id", "billing")]), 401, "invalid_client"),
    ];
    let count = cases.len() as u64;
    for (parameters, status, expected) in cases {
        let response = post(&endpoint, &parameters).send().await.unwrap();
        let found = outcome(response).await;
        assert_eq!(found, (status, expected.to_owned()), "{parameters:?}");
    }
    assert_eq!(endpoint.request_count(), count);
}

#[tokio::test]
async fn other_methods_paths_and_content_types_are_rejected() {
    let endpoint = FakeTokenEndpoint::start().await.unwrap();
    for method in [Method::GET, Method::PUT, Method::HEAD] {
        let request = client().request(method, endpoint.url());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], "POST");
    }
    let url = endpoint.url().replace("/token", "/other");
    let response = client().post(url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    for content_type in ["application/json", "application/x-www-form-urlencodedd"] {
        let request = client()
            .post(endpoint.url())
            .header("content-type", content_type);
        let response = request.body("grant_type=x").send().await.unwrap();
        assert_eq!(outcome(response).await, (400, "invalid_request".to_owned()));
    }
}

#[tokio::test]
async fn a_client_authenticates_with_exactly_one_method() {
    let endpoint = FakeTokenEndpoint::start().await.unwrap();
    let grant = ("grant_type", "client_credentials");
    let (id, secret) = (("client_id", "bil:ling"), ("client_secret", "s3cr3t +/ä"));
    let send = async |parameters: &[(&str, &str)], basic: Option<(&str, &str)>| {
        let mut request = post(&endpoint, parameters);
        if let Some((id, secret)) = basic {
            request = request.basic_auth(id, Some(secret));
        }
        let response = request.send().await.unwrap();
        let has_challenge = response.headers().contains_key("www-authenticate");
        let (status, text) = outcome(response).await;
        assert_eq!(has_challenge, status == 401 && basic.is_some());
        (status, text)
    };
    let bearer = (200, "Bearer".to_owned());
    let unknown = (401, "invalid_client".to_owned());
    let twice = (400, "invalid_request".to_owned());

    endpoint.require_client_secret("bil:ling", "s3cr3t +/ä");
    // Both parts are form-encoded.
    let encoded = Some(("bil%3Aling", "s3cr3t+%2B%2F%C3%A4"));
    assert_eq!(send(&[grant, id, secret], None).await, bearer);
    assert_eq!(send(&[grant], encoded).await, bearer);
    assert_eq!(send(&[grant, id], encoded).await, bearer);
    assert_eq!(
        send(&[grant], Some(("bil%3Aling", "s3cr3t +/ä"))).await,
        unknown
    );
    assert_eq!(send(&[grant, secret], None).await, unknown);
    assert_eq!(send(&[grant, id], None).await, unknown);
    assert_eq!(send(&[grant, id, secret], encoded).await, twice);
    assert_eq!(send(&[grant, ("client_id", "x")], encoded).await, twice);

    endpoint.require_client_assertion("billing", |assertion: String| async move {
        (assertion == "good")
            .then_some(())
            .ok_or_else(|| "the signature is not valid".to_owned())
    });
    let kind = ("client_assertion_type", ASSERTION);
    let good = ("client_assertion", "good");
    assert_eq!(send(&[grant, kind, good], None).await, bearer);
    assert_eq!(
        send(&[grant, kind, good, ("client_id", "billing")], None).await,
        bearer
    );
    assert_eq!(
        send(&[grant, kind, good, ("client_id", "x")], None).await,
        unknown
    );
    assert_eq!(
        send(&[grant, kind, ("client_assertion", "bad")], None).await,
        unknown
    );
    assert_eq!(send(&[grant, good], None).await, twice);
    assert_eq!(send(&[grant, kind, good, secret, id], None).await, twice);
    let other_kind = ("client_assertion_type", "saml2");
    assert_eq!(send(&[grant, other_kind, good], None).await, unknown);

    endpoint.require_public_client("billing");
    let unauthorized = (400, "unauthorized_client".to_owned());
    assert_eq!(
        send(&[grant, ("client_id", "billing")], None).await,
        unauthorized
    );
    assert_eq!(send(&[grant, ("client_id", "x")], None).await, unknown);
}

#[tokio::test]
async fn faults_of_http_affect_every_request() {
    let endpoint = FakeTokenEndpoint::start().await.unwrap();
    let send = async |fault: HttpFault| {
        endpoint.set_fault(Some(TokenEndpointFault::Http(fault)));
        let request = client().post(endpoint.url());
        request.timeout(Duration::from_millis(300)).send().await
    };
    let status = send(HttpFault::Status(StatusCode::BAD_GATEWAY)).await;
    assert_eq!(status.unwrap().status(), StatusCode::BAD_GATEWAY);
    let page = HttpFault::Page(StatusCode::FORBIDDEN, "<html>no".to_owned());
    assert_eq!(send(page).await.unwrap().text().await.unwrap(), "<html>no");
    assert!(send(HttpFault::NoResponse).await.unwrap_err().is_timeout());
    let closed = send(HttpFault::ClosedConnection).await.unwrap_err();
    assert!(closed.is_request() && !closed.is_timeout(), "{closed:?}");
    let stalled = send(HttpFault::StalledBody).await.unwrap();
    assert!(stalled.bytes().await.unwrap_err().is_timeout());
    let oversized = send(HttpFault::OversizedBody).await.unwrap();
    assert!(oversized.content_length().unwrap() > 1024 * 1024);
    let invalid = send(HttpFault::InvalidBody).await.unwrap();
    assert!(json_body(invalid).await.is_err());
    endpoint.set_fault(None);
    let response = client().post(endpoint.url()).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn an_issued_token_has_the_claims_of_the_request() {
    use base64::Engine as _;
    let endpoint = FakeTokenEndpoint::start().await.unwrap();
    endpoint.set_token_lifetime(Duration::from_secs(120));
    endpoint.require_public_client("billing");
    let subject = crate::support::signed(r#"{"sub":"system:serviceaccount:shop:orders"}"#);
    let parameters = [
        ("grant_type", EXCHANGE),
        ("subject_token", subject.as_str()),
        ("subject_token_type", JWT),
        ("audience", "https://orders.example"),
        ("scope", "read"),
        ("client_id", "billing"),
    ];
    let response = post(&endpoint, &parameters).send().await.unwrap();
    let body = json_body(response).await.unwrap();
    assert_eq!(body["expires_in"], 120);
    assert_eq!(
        body["issued_token_type"],
        "urn:ietf:params:oauth:token-type:access_token"
    );
    let payload = body["access_token"].as_str().unwrap().split('.').nth(1);
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload.unwrap());
    let claims: Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    assert_eq!(claims["sub"], "system:serviceaccount:shop:orders");
    assert_eq!(claims["aud"], json!(["https://orders.example"]));
    assert_eq!(claims["client_id"], "billing");
    assert_eq!(claims["scope"], "read");
    let lifetime = claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap();
    assert_eq!(lifetime, 120);
    let accepted = endpoint.take_requests();
    assert_eq!(accepted.len(), 1);
    assert_eq!(accepted[0].subject_token.as_deref(), Some(subject.as_str()));
    assert!(!format!("{accepted:?} {endpoint:?}").contains(&subject));
    assert!(endpoint.take_requests().is_empty());
}
