//! Clients of other makers at the fakes in `testing`: they accept the responses of the fakes, and read their errors.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest_wi_auth::testing::{
    FakeEntra, FakeGitHubActions, FakeGoogle, FakeTokenEndpoint, FakeTokenRequestServer,
    GoogleTokenRequest,
};
use serde_json::{Value, json};

use super::program::run_client;
use super::{AUDIENCE, CLIENT_ID, CLIENT_SECRET, assert_not_shown};
use crate::support::{signed, token};

/// Returns the claims of a token in the JSON of a client.
fn claims(token: &Value) -> Value {
    let token = token.as_str().unwrap_or_else(|| panic!("found {token}"));
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

mod openid_client {
    use super::*;

    /// Runs the client at a fake that serves one audience and one scope more than that.
    async fn results(endpoint: &FakeTokenEndpoint, authentication: &str, subject: &str) -> Value {
        endpoint.set_targets([AUDIENCE, "https://stock.example"]);
        endpoint.set_scopes(["orders.read"]);
        let url = endpoint.url();
        let variables = [
            ("INTEROP_TOKEN_ENDPOINT", url.as_str()),
            ("INTEROP_CLIENT_ID", CLIENT_ID),
            ("INTEROP_CLIENT_SECRET", CLIENT_SECRET),
            ("INTEROP_SUBJECT_TOKEN", subject),
            ("INTEROP_AUTHENTICATION", authentication),
        ];
        run_client("openid-client.mjs", &variables).await
    }

    fn assert_exchanged(results: &Value, endpoint: &FakeTokenEndpoint, subject: &str) {
        let exchange = &results["exchange"];
        assert_eq!(exchange["token_type"], "bearer", "{exchange}");
        let access_token = "urn:ietf:params:oauth:token-type:access_token";
        assert_eq!(exchange["issued_token_type"], access_token);
        assert_eq!(exchange["scope"], "orders.read");
        assert!(
            exchange["expires_in"].as_u64().unwrap() > 3500,
            "{exchange}"
        );
        let audiences = json!([AUDIENCE, "https://stock.example"]);
        assert_eq!(claims(&exchange["access_token"])["aud"], audiences);
        let request = endpoint.take_requests().remove(0);
        assert_eq!(request.client_id.as_deref(), Some(CLIENT_ID));
        assert_eq!(request.subject_token.as_deref(), Some(subject));
        assert_error(
            &results["unknown_scope"],
            400,
            "invalid_scope",
            "orders.delete",
        );
        let unknown_target = &results["unknown_target"];
        assert_error(unknown_target, 400, "invalid_target", "unknown.example");
        let unknown_grant = &results["unknown_grant"];
        assert_error(unknown_grant, 400, "unsupported_grant_type", "grant_type");
    }

    fn assert_error(result: &Value, status: u16, code: &str, description: &str) {
        assert_eq!(result["status"], status, "{result}");
        assert_eq!(result["code"], code, "{result}");
        let found = result["description"].as_str().unwrap();
        assert!(found.contains(description), "{result}");
        assert_not_shown(&result.to_string(), CLIENT_SECRET);
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn authenticates_with_a_secret() {
        for authentication in ["basic", "post"] {
            let endpoint = FakeTokenEndpoint::start().await.unwrap();
            endpoint.require_client_secret(CLIENT_ID, CLIENT_SECRET);
            let subject = token("subject", 600);
            let results = results(&endpoint, authentication, &subject).await;
            assert_exchanged(&results, &endpoint, &subject);
            let credentials = &results["client_credentials"];
            assert_eq!(claims(&credentials["access_token"])["sub"], CLIENT_ID);
            assert_eq!(credentials["token_type"], "bearer");
        }
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn authenticates_with_an_assertion() {
        let endpoint = FakeTokenEndpoint::start().await.unwrap();
        endpoint.require_client_assertion(CLIENT_ID, |assertion: String| async move {
            let claims = claims(&json!(assertion));
            let is_client = claims["iss"] == CLIENT_ID && claims["sub"] == CLIENT_ID;
            is_client
                .then_some(())
                .ok_or_else(|| "another client".to_owned())
        });
        let subject = token("subject", 600);
        let results = results(&endpoint, "assertion", &subject).await;
        assert_exchanged(&results, &endpoint, &subject);
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn is_rejected_without_credentials() {
        let endpoint = FakeTokenEndpoint::start().await.unwrap();
        endpoint.require_client_secret(CLIENT_ID, "another secret");
        for authentication in ["basic", "post", "assertion", "none"] {
            let results = results(&endpoint, authentication, &token("subject", 600)).await;
            for name in ["exchange", "client_credentials"] {
                let result = &results[name];
                if authentication == "basic" {
                    // The client reads the challenge before the body.
                    assert_eq!(
                        result["failed"], "WWWAuthenticateChallengeError",
                        "{result}"
                    );
                    assert_eq!(result["status"], 401, "{result}");
                } else {
                    assert_error(result, 401, "invalid_client", "");
                }
            }
        }
        assert!(endpoint.take_requests().is_empty());
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn is_rejected_with_an_expired_subject_token() {
        let endpoint = FakeTokenEndpoint::start().await.unwrap();
        endpoint.require_public_client(CLIENT_ID);
        let expired = crate::support::token_from("subject", 1_700_000_000, 600);
        let results = results(&endpoint, "none", &expired).await;
        assert_error(&results["exchange"], 400, "invalid_request", "has expired");
    }
}

mod azure_identity {
    use super::*;

    const ISSUER: &str = "https://issuer.example";
    const SUBJECT: &str = "system:serviceaccount:shop:orders";

    fn assertion(subject: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let expiry = (now.unwrap() + Duration::from_secs(600)).as_secs();
        let audience = FakeEntra::AUDIENCE;
        signed(
            &json!({ "iss": ISSUER, "sub": subject, "aud": audience, "exp": expiry }).to_string(),
        )
    }

    async fn results(entra: &FakeEntra) -> Value {
        entra.set_federated_credential(ISSUER, SUBJECT);
        let (first, other) = (
            assertion(SUBJECT),
            assertion("system:serviceaccount:shop:other"),
        );
        let variables = [
            ("INTEROP_AUTHORITY", entra.url()),
            ("INTEROP_TENANT_ID", FakeEntra::TENANT_ID),
            ("INTEROP_CLIENT_ID", FakeEntra::CLIENT_ID),
            ("INTEROP_ASSERTION", first.as_str()),
            ("INTEROP_OTHER_ASSERTION", other.as_str()),
        ];
        run_client("azure_identity.py", &variables).await
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn gets_tokens_for_an_assertion() {
        let entra = FakeEntra::start().await.unwrap();
        let results = results(&entra).await;
        for (name, resource) in [("workload", "api://orders"), ("assertion", "api://stock")] {
            let claims = claims(&results[name]["token"]);
            assert_eq!(claims["aud"], resource, "{claims}");
            assert!(results[name]["expires_on"].is_u64(), "{results}");
        }
        assert!(entra.request_count() > 0);
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn reads_the_errors() {
        let entra = FakeEntra::start().await.unwrap();
        let results = results(&entra).await;
        for (name, code) in [
            ("other_subject", "AADSTS700213"),
            ("other_client", "AADSTS700016"),
            ("scope_without_default", "AADSTS1002012"),
            ("unknown_resource", "AADSTS500011"),
        ] {
            let result = &results[name];
            assert_eq!(result["failed"], "ClientAuthenticationError", "{result}");
            assert!(
                result["message"].as_str().unwrap().contains(code),
                "{result}"
            );
        }
        // The client finds at the discovery document that the tenant does not exist.
        let tenant = &results["other_tenant"];
        assert!(tenant["failed"].is_string(), "{tenant}");
        assert!(
            tenant["message"].as_str().unwrap().contains("tenant"),
            "{tenant}"
        );
    }
}

mod actions_core {
    use super::*;

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn gets_a_token_for_each_audience() {
        let github = FakeGitHubActions::start().await.unwrap();
        let variables = [
            ("ACTIONS_ID_TOKEN_REQUEST_URL", github.request_url()),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", github.request_token()),
        ];
        let results = run_client("actions-core.mjs", &variables).await;
        for (name, audience) in [
            ("default_audience", "https://github.com/octo-org"),
            ("audience", AUDIENCE),
            ("encoded_audience", "a b&c=d#é"),
        ] {
            let claims = claims(&results[name]["token"]);
            assert_eq!(claims["aud"], audience);
            assert_eq!(claims["iss"], "https://token.actions.githubusercontent.com");
        }
        let error = results["wrong_request_token"]["error"].as_str().unwrap();
        assert!(error.contains("401"), "{error}");
    }
}

mod kubernetes_client {
    use super::*;

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn requests_tokens_and_reads_the_errors() {
        let server = FakeTokenRequestServer::start().await.unwrap();
        server.create_service_account("shop", "orders");
        server.create_service_account("shop", "stock");
        server.grant("shop", "orders", "orders");
        let pod = server.create_pod("shop", "orders-1", "orders");
        let (url, own) = (server.url(), server.own_token("shop", "orders"));
        let variables = [
            ("INTEROP_API_SERVER", url.as_str()),
            ("INTEROP_TOKEN", own.as_str()),
            ("INTEROP_POD_UID", pod.as_str()),
        ];
        let results = run_client("kubernetes_client.py", &variables).await;
        for (name, lifetime) in [("unbound", 3600), ("bound", 900)] {
            let result = &results[name];
            let claims = claims(&result["token"]);
            assert_eq!(claims["aud"], json!(["https://stock.example"]));
            assert_eq!(claims["sub"], "system:serviceaccount:shop:orders");
            assert_eq!(result["expiration_seconds"], lifetime, "{name}");
            let expires_in = result["expires_in"].as_f64().unwrap();
            assert!((expires_in - f64::from(lifetime)).abs() < 60.0, "{result}");
        }
        let bound = claims(&results["bound"]["token"]);
        assert_eq!(bound["kubernetes.io"]["pod"]["uid"], pod);
        for (name, status, reason, message) in [
            (
                "short",
                422,
                "Invalid",
                "may not specify a duration less than 10 minutes",
            ),
            ("forbidden", 403, "Forbidden", "serviceaccounts/token"),
            ("unauthorized", 401, "Unauthorized", "Unauthorized"),
        ] {
            let result = &results[name];
            assert_eq!(result["status"], status, "{result}");
            assert_eq!(result["body"]["kind"], "Status", "{result}");
            assert_eq!(result["body"]["reason"], reason, "{result}");
            let found = result["body"]["message"].as_str().unwrap();
            assert!(found.contains(message), "{result}");
        }
    }
}

mod google {
    use super::*;

    /// Runs a client with a credential configuration of the fake, for a subject token that the fake accepts.
    async fn results(google: &FakeGoogle, script: &str) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let [token, configuration] =
            ["token", "configuration.json"].map(|name| folder.path().join(name));
        std::fs::write(&token, google.subject_token()).unwrap();
        std::fs::write(&configuration, google.credential_configuration(&token)).unwrap();
        let variables = [
            ("INTEROP_CONFIGURATION", configuration.to_str().unwrap()),
            ("INTEROP_URL", google.url()),
            ("INTEROP_AUDIENCE", AUDIENCE),
        ];
        run_client(script, &variables).await
    }

    fn assert_access_tokens(results: &Value) {
        for name in ["access", "federated"] {
            let token = results[name]["token"].as_str();
            let token = token.unwrap_or_else(|| panic!("{name}: {results}"));
            assert!(token.starts_with("ya29."), "{name}: {results}");
        }
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn google_auth_for_python_gets_tokens_and_reads_the_errors() {
        let google = FakeGoogle::start().await.unwrap();
        let results = results(&google, "google_auth.py").await;
        assert_access_tokens(&results);
        let plain = claims(&results["identity"]["token"]);
        assert_eq!(plain["aud"], AUDIENCE);
        assert_eq!(plain["email"], Value::Null);
        let with_email = claims(&results["identity_with_email"]["token"]);
        assert_eq!(with_email["email"], google.service_account());
        let requests = google.token_requests();
        let is_for = |request: &&GoogleTokenRequest| matches!(request, GoogleTokenRequest::Identity { audience, .. } if audience == AUDIENCE);
        assert_eq!(requests.iter().filter(is_for).count(), 2, "{requests:?}");
        for (name, class, message) in [
            ("other_provider", "OAuthError", "invalid_target"),
            ("other_account", "RefreshError", "NOT_FOUND"),
        ] {
            let result = &results[name];
            assert_eq!(result["failed"], class, "{result}");
            assert!(
                result["message"].as_str().unwrap().contains(message),
                "{result}"
            );
        }
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn google_auth_library_for_node_gets_tokens_and_reads_the_errors() {
        let google = FakeGoogle::start().await.unwrap();
        let results = results(&google, "google-auth-library.mjs").await;
        assert_access_tokens(&results);
        let message = results["other_provider"]["message"].as_str().unwrap();
        assert!(message.contains("invalid_target"), "{message}");
    }
}
