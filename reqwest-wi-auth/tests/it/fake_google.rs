//! The responses of the fake of Google's services to requests that are not as they should be.

use std::time::{Duration, SystemTime};

use reqwest::redirect::Policy;
use reqwest_wi_auth::http::StatusCode;
use reqwest_wi_auth::testing::FakeGoogle;
use reqwest_wi_auth::{GoogleFederation, GoogleFederationBuilder};
use serde_json::{Value, json};

use crate::support::signed;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

fn client() -> reqwest::Client {
    let builder = reqwest::Client::builder().no_proxy();
    builder.redirect(Policy::none()).build().unwrap()
}

/// Encodes pairs as a form.
fn form(pairs: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("http://a.example/").unwrap();
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

/// Sends a form to the Security Token Service, and returns the status and the JSON of the response.
async fn exchange(google: &FakeGoogle, body: String) -> (StatusCode, Value) {
    let request = client()
        .post(google.token_url())
        .header(
            "content-type",
            "application/x-www-form-urlencoded; charset=UTF-8",
        )
        .body(body);
    let response = request.send().await.unwrap();
    let status = response.status();
    (
        status,
        serde_json::from_str(&response.text().await.unwrap()).unwrap(),
    )
}

/// Returns a federated token with this scope.
async fn federated(google: &FakeGoogle, scope: &str) -> String {
    let (audience, subject) = (google.audience(), google.subject_token());
    let pairs = valid(&audience, &subject).map(|(name, value)| match name {
        "scope" => (name, scope),
        _ => (name, value),
    });
    let (status, body) = exchange(google, form(&pairs)).await;
    assert_eq!(status, 200, "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

/// Returns the parameters of a valid exchange.
fn valid<'a>(audience: &'a str, subject: &'a str) -> [(&'a str, &'a str); 6] {
    [
        ("grant_type", GRANT_TYPE),
        ("audience", audience),
        ("scope", SCOPE),
        ("requested_token_type", ACCESS_TOKEN),
        ("subject_token_type", JWT),
        ("subject_token", subject),
    ]
}

#[test]
fn public_types_are_send_sync_and_debug() {
    fn assert_traits<T: Send + Sync + std::fmt::Debug + 'static>() {}
    assert_traits::<FakeGoogle>();
    assert_traits::<GoogleFederation>();
    assert_traits::<GoogleFederationBuilder>();
}

#[tokio::test]
async fn an_exchange_returns_what_the_documentation_states() {
    let google = FakeGoogle::start().await.unwrap();
    let (audience, subject) = (google.audience(), google.subject_token());
    let (status, body) = exchange(&google, form(&valid(&audience, &subject))).await;
    assert_eq!(status, 200);
    assert!(
        body["access_token"]
            .as_str()
            .unwrap()
            .starts_with("ya29.d.")
    );
    assert_eq!(body["issued_token_type"], ACCESS_TOKEN);
    assert_eq!(body["token_type"], "Bearer");
    let expires_in = body["expires_in"].as_u64().unwrap();
    assert!((3590..=3600).contains(&expires_in), "{expires_in}");
}

#[tokio::test]
async fn each_parameter_of_an_exchange_is_required_and_checked() {
    let google = FakeGoogle::start().await.unwrap();
    let (audience, subject) = (google.audience(), google.subject_token());
    let valid = valid(&audience, &subject);
    for (index, (name, value)) in valid.iter().enumerate() {
        let mut missing = valid.to_vec();
        missing.remove(index);
        let mut empty = valid.to_vec();
        empty[index].1 = "";
        let mut twice = valid.to_vec();
        twice.push((name, value));
        for pairs in [missing, empty, twice] {
            let (status, body) = exchange(&google, form(&pairs)).await;
            assert_eq!(status, 400, "{name}: {body}");
            assert_eq!(body["error"], "invalid_request", "{name}: {body}");
        }
        let mut other = valid.to_vec();
        other[index].1 = "other";
        let expected = match *name {
            "scope" => 200,
            _ => 400,
        };
        assert_eq!(exchange(&google, form(&other)).await.0, expected, "{name}");
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let claims = |change: Value| {
        let mut claims = json!({
            "iss": "https://issuer.example", "aud": google.subject_audience(), "iat": now.as_secs(), "exp": now.as_secs() + 600,
        });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        signed(&claims.to_string())
    };
    google.set_issuer("https://issuer.example");
    let cases = [
        (claims(json!({})), None),
        (claims(json!({ "aud": google.audience() })), None),
        (claims(json!({ "aud": ["a", google.audience()] })), None),
        (claims(json!({ "exp": now.as_secs() - 30 })), None),
        (
            claims(json!({ "exp": now.as_secs() - 120 })),
            Some("is stale to sign-in."),
        ),
        (claims(json!({ "exp": "soon" })), Some("Unable to parse")),
        (
            claims(json!({ "aud": "a" })),
            Some("The audience in ID Token [a] does not match the expected audience."),
        ),
        (
            claims(json!({ "aud": null })),
            Some("The audience in ID Token [] does not match"),
        ),
        (
            claims(json!({ "iss": "https://other.example" })),
            Some("The issuer in ID Token https://other.example does not match"),
        ),
        ("opaque".to_owned(), Some("Unable to parse")),
        ("a.b.c".to_owned(), Some("Unable to parse")),
    ];
    for (subject, expected) in cases {
        let mut pairs = valid.to_vec();
        pairs[5].1 = &subject;
        let (status, body) = exchange(&google, form(&pairs)).await;
        match expected {
            None => assert_eq!(status, 200, "{body}"),
            Some(text) => {
                assert_eq!(status, 400, "{body}");
                assert_eq!(body["error"], "invalid_grant");
                assert!(
                    body["error_description"].as_str().unwrap().contains(text),
                    "{body}"
                );
            }
        }
    }
    for audience in [
        "https:",
        "//iam.googleapis.com/projects/p/",
        "//iam.googleapis.com/projects/name/locations/global/workloadIdentityPools/pool/providers/provider",
    ] {
        let mut pairs = valid.to_vec();
        pairs[1].1 = audience;
        let body = exchange(&google, form(&pairs)).await.1;
        assert!(
            body["error_description"]
                .as_str()
                .unwrap()
                .starts_with("Invalid value for \"audience\""),
            "{body}"
        );
    }
    let other = google.audience().replace("pool/", "other/");
    let mut pairs = valid.to_vec();
    pairs[1].1 = &other;
    assert_eq!(
        exchange(&google, form(&pairs)).await.1["error"],
        "invalid_target"
    );

    google.set_subject_fn(|_| async { Err("Unable to verify the ID Token signature.".to_owned()) });
    let valid = claims(json!({}));
    let mut pairs = pairs.clone();
    (pairs[1].1, pairs[5].1) = (&audience, &valid);
    let body = exchange(&google, form(&pairs)).await.1;
    assert_eq!(
        body["error_description"],
        "Unable to verify the ID Token signature."
    );
    assert_eq!(
        client()
            .get(google.token_url())
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
}

#[tokio::test]
async fn a_request_for_a_token_of_the_service_account_is_checked() {
    let google = FakeGoogle::start().await.unwrap();
    let token = federated(&google, SCOPE).await;
    let narrow = federated(
        &google,
        "https://www.googleapis.com/auth/devstorage.read_only",
    )
    .await;
    let identity = google
        .impersonation_url()
        .replace("generateAccessToken", "generateIdToken");
    let access = google.impersonation_url();
    let valid = json!({ "audience": "a", "includeEmail": true });
    let cases = [
        (&identity, Some(&token), valid.clone(), 200, ""),
        (
            &identity,
            Some(&token),
            json!({ "audience": "a", "delegates": [], "useEmailAzp": true }),
            200,
            "",
        ),
        (
            &identity,
            None,
            valid.clone(),
            401,
            "Request is missing required authentication credential.",
        ),
        (
            &identity,
            Some(&"other".to_owned()),
            valid.clone(),
            401,
            "Request had invalid authentication credentials.",
        ),
        (
            &identity,
            Some(&narrow),
            valid.clone(),
            403,
            "Request had insufficient authentication scopes.",
        ),
        (&identity, Some(&token), json!({}), 400, "invalid argument"),
        (
            &identity,
            Some(&token),
            json!({ "audience": "" }),
            400,
            "invalid argument",
        ),
        (
            &identity,
            Some(&token),
            json!({ "audience": ["a"] }),
            400,
            "Invalid value at 'audience'",
        ),
        (
            &identity,
            Some(&token),
            json!({ "audience": "a", "includeEmail": "true" }),
            400,
            "Invalid value at 'includeEmail'",
        ),
        (
            &identity,
            Some(&token),
            json!({ "audience": "a", "scope": [] }),
            400,
            "Unknown name \"scope\": Cannot find field.",
        ),
        (
            &identity,
            Some(&token),
            json!([]),
            400,
            "Root element must be a message",
        ),
        (&access, Some(&token), json!({ "scope": [SCOPE] }), 200, ""),
        (
            &access,
            Some(&token),
            json!({ "scope": [SCOPE], "lifetime": "600s" }),
            200,
            "",
        ),
        (
            &access,
            Some(&token),
            json!({ "scope": [] }),
            400,
            "invalid argument",
        ),
        (
            &access,
            Some(&token),
            json!({ "scope": SCOPE }),
            400,
            "Invalid value at 'scope'",
        ),
        (
            &access,
            Some(&token),
            json!({ "scope": [SCOPE], "lifetime": 600 }),
            400,
            "Invalid value at 'lifetime'",
        ),
        (
            &access,
            Some(&token),
            json!({ "scope": [SCOPE], "lifetime": "3601s" }),
            400,
            "invalid argument",
        ),
        (&access, Some(&token), valid.clone(), 400, "Unknown name"),
    ];
    for (url, token, body, status, message) in cases {
        let request = client()
            .post(url)
            .header("content-type", "application/json")
            .body(body.to_string());
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{body}");
        assert_eq!(
            response.headers().contains_key("www-authenticate"),
            status == 401 || message.contains("scopes"),
            "{body}"
        );
        let answer: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        if status != 200 {
            assert_eq!(answer["error"]["code"], status);
            assert!(
                answer["error"]["message"]
                    .as_str()
                    .unwrap()
                    .contains(message),
                "{answer}"
            );
        }
    }
    // Methods, paths, content types, and accounts that do not exist.
    let send = async |method: &str, url: String, content_type: &str| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = client()
            .request(method, url)
            .bearer_auth(&token)
            .header("content-type", content_type);
        request
            .body(valid.to_string())
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    let json = "application/json; charset=utf-8";
    assert_eq!(send("POST", identity.clone(), json).await, 200);
    assert_eq!(send("GET", identity.clone(), json).await, 404);
    assert_eq!(send("POST", identity.clone(), "text/plain").await, 400);
    assert_eq!(
        send("POST", identity.replace("demo@", "demo%40"), json).await,
        200
    );
    assert_eq!(
        send("POST", identity.replace("demo@", "other@"), json).await,
        404
    );
    assert_eq!(
        send("POST", identity.replace("/-/", "/project/"), json).await,
        404
    );
    assert_eq!(
        send("POST", identity.replace("generateIdToken", "signJwt"), json).await,
        404
    );
    assert_eq!(send("POST", google.url().to_owned(), json).await, 404);
}

#[tokio::test]
async fn federated_tokens_expire_with_the_subject_token_or_their_lifetime() {
    let google = FakeGoogle::start().await.unwrap();
    let (audience, subject) = (google.audience(), google.subject_token());
    for (lifetime, expected) in [(100, Some(100)), (2, Some(2)), (1, None)] {
        google.set_federated_lifetime(Duration::from_secs(lifetime));
        let (_, body) = exchange(&google, form(&valid(&audience, &subject))).await;
        assert_eq!(body.get("expires_in").and_then(Value::as_u64), expected);
    }
    google.set_clock(|| SystemTime::now() + Duration::from_secs(3000));
    google.set_federated_lifetime(Duration::from_secs(3600));
    let (_, body) = exchange(&google, form(&valid(&audience, &subject))).await;
    let expires_in = body["expires_in"].as_u64().unwrap();
    assert!((590..=600).contains(&expires_in), "{expires_in}");
}
