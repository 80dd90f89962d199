//! `TokenExchange` at identity servers of other makers. The subject tokens are signed by an issuer of `tower_oidc_guard::testing`,
//! and the servers verify them with its keys. The guard verifies the exchanged tokens with the servers' keys.

use std::time::{Duration, SystemTime};

use reqwest_wi_auth::{
    AzureWorkloadIdentity, Error, FetchError, FetchedToken, Token, TokenExchange,
    TokenExchangeBuilder, TokenSource as _, TokenType,
};
use serde_json::Value;
use tower_oidc_guard::testing::{TestIssuer, TokenSpec};
use tower_oidc_guard::{Issuer, OidcGuard};

use super::program::IdentityServer;
use super::{AUDIENCE, CLIENT_ID, CLIENT_SECRET, assert_not_shown};
use crate::support::sources::Tokens;
use crate::support::wait_until;

const SUBJECT: &str = "system:serviceaccount:shop:orders";

/// An identity server, and the issuer of the subject tokens that it accepts.
struct Setup {
    issuer: TestIssuer,
    server: IdentityServer,
    token_endpoint: String,
    client_id: &'static str,
    client_secret: &'static str,
}

impl Setup {
    async fn start(script: &str) -> Self {
        Self::with_client(script, CLIENT_ID, CLIENT_SECRET).await
    }

    async fn with_client(
        script: &str,
        client_id: &'static str,
        client_secret: &'static str,
    ) -> Self {
        let issuer = TestIssuer::start().await.unwrap();
        let keys = discover(issuer.url(), "jwks_uri").await;
        let variables = [
            ("INTEROP_SUBJECT_ISSUER", issuer.url()),
            ("INTEROP_SUBJECT_KEYS", keys.as_str()),
            ("INTEROP_CLIENT_ID", client_id),
            ("INTEROP_CLIENT_SECRET", client_secret),
        ];
        let server = IdentityServer::start(script, &variables).await;
        let token_endpoint = discover(&server.url, "token_endpoint").await;
        Self {
            issuer,
            server,
            token_endpoint,
            client_id,
            client_secret,
        }
    }

    /// Returns a subject token that the server accepts.
    fn subject(&self) -> TokenSpec {
        let token = self.issuer.token().service_account("shop", "orders");
        token.audience(&self.server.url)
    }

    /// Returns the settings of an exchange, without a client.
    fn anonymous(&self, subject: &str) -> TokenExchangeBuilder {
        TokenExchange::builder(&self.token_endpoint, Tokens::one(subject)).audience(AUDIENCE)
    }

    fn with_basic(&self, subject: &str) -> TokenExchangeBuilder {
        self.anonymous(subject)
            .client_secret_basic(self.client_id, self.client_secret)
    }

    fn with_post(&self, subject: &str) -> TokenExchangeBuilder {
        self.anonymous(subject)
            .client_secret_post(self.client_id, self.client_secret)
    }

    /// Asserts that the exchange succeeds, and that the guard accepts its token with the keys of the server.
    async fn assert_exchanges(&self, exchange: TokenExchangeBuilder) {
        let source = exchange.build().unwrap().open().await.unwrap();
        self.assert_accepted(&source, SUBJECT).await;
    }

    /// Asserts that the guard accepts the token of a source, which expires in ten minutes at the latest.
    async fn assert_accepted(&self, source: &FetchedToken, subject: &str) {
        let expiry = source.health().expires_at.unwrap();
        let lifetime = expiry.duration_since(SystemTime::now()).unwrap();
        assert!(lifetime <= Duration::from_secs(600), "{lifetime:?}");
        let token = source.current().unwrap();
        let token = token.header().to_str().unwrap();
        let token = token.strip_prefix("Bearer ").unwrap();
        let identity = self.guard(AUDIENCE).verifier().verify(token).await.unwrap();
        assert_eq!(identity.issuer(), self.server.url);
        assert_eq!(identity.subject(), subject);
        let other = self.guard("https://stock.example");
        assert!(other.verifier().verify(token).await.is_err());
    }

    /// Returns a guard that accepts the tokens of the server for an audience.
    fn guard(&self, audience: &str) -> OidcGuard {
        let issuer = Issuer::oidc(&self.server.url)
            .audience(audience)
            .token_types(["JWT", "at+jwt"])
            .insecure_loopback_http();
        OidcGuard::builder()
            .issuer(issuer)
            .any_verified_caller()
            .build()
            .unwrap()
    }

    /// Asserts that the server rejects the exchange with an error code and a description, that the error contains advice, and
    /// that it contains no credential.
    async fn assert_rejected(
        &self,
        exchange: TokenExchangeBuilder,
        subject: &str,
        [code, description, advice]: [&str; 3],
    ) {
        let source = exchange.build().unwrap().start();
        let mut error = None;
        wait_until("an exchange has failed", || {
            error = source.health().last_error;
            error.is_some()
        })
        .await;
        assert!(source.current().is_err());
        let error = error.unwrap();
        let text = error.to_string();
        println!("{text}");
        let Error::Fetch(FetchError::OAuth {
            error,
            description: found,
            ..
        }) = error
        else {
            panic!("{text}");
        };
        assert_eq!(error, code, "{text}");
        let found = found.unwrap_or_default();
        assert!(found.contains(description), "{text}");
        assert!(text.contains(&*found) && text.contains(advice), "{text}");
        assert!(text.contains(&self.token_endpoint), "{text}");
        assert_not_shown(&text, subject);
        assert_not_shown(&text, self.client_secret);
    }
}

/// Returns a member of the discovery document of an issuer.
async fn discover(issuer: &str, member: &str) -> String {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{issuer}/.well-known/openid-configuration");
    let response = http.get(url).send().await.unwrap();
    let document: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
    document[member].as_str().unwrap().to_owned()
}

fn two_hours_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(7200)
}

mod oidc_provider {
    use super::*;

    const SCRIPT: &str = "oidc-provider.mjs";

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn exchanges_a_token_for_a_client_with_a_secret_by_basic_authentication() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        setup.assert_exchanges(setup.with_basic(&subject)).await;
        let scoped = setup.with_basic(&subject).scope("orders.read orders.write");
        setup.assert_exchanges(scoped).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn exchanges_a_token_for_a_client_with_a_secret_as_a_parameter() {
        let setup = Setup::start(SCRIPT).await;
        let exchange = setup.anonymous(&setup.subject().mint());
        let exchange = exchange.client_secret_post("post", CLIENT_SECRET);
        setup.assert_exchanges(exchange).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn exchanges_a_token_for_a_client_with_an_assertion() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        let assertion = |client: &str| {
            let token = setup
                .issuer
                .token()
                .claim("iss", client)
                .claim("sub", client);
            token.audience(&setup.server.url).mint()
        };
        let first = assertion("assertion");
        let exchange = || setup.anonymous(&subject).client_id("assertion");
        setup
            .assert_exchanges(exchange().client_assertion(Tokens::one(&first)))
            .await;
        // The server accepts each assertion once, so the exchange is repeated with another one.
        let replaced = Tokens::two(&first, &assertion("assertion"));
        setup
            .assert_exchanges(exchange().client_assertion(replaced))
            .await;
        let other = setup
            .issuer
            .token()
            .claim("iss", "assertion")
            .claim("sub", "assertion");
        let other = other.audience("https://other.example").mint();
        let exchange = exchange().client_assertion(Tokens::one(&other));
        let expected = [
            "invalid_client",
            "client authentication failed",
            "sent the client \"assertion\" and a client assertion",
        ];
        setup.assert_rejected(exchange, &other, expected).await;
    }

    /// Its token endpoint has the path of that of Microsoft Entra ID.
    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn issues_a_token_for_an_assertion_of_azure_workload_identity() {
        let setup = Setup::start(SCRIPT).await;
        let token = |audience: &str| {
            let token = setup.issuer.token().claim("iss", "assertion");
            let token = token.claim("sub", "assertion").audience(audience);
            Tokens::one(&token.mint())
        };
        let azure = |subject| {
            AzureWorkloadIdentity::builder()
                .authority_host(&setup.server.url)
                .tenant_id("tenant.example")
                .client_id("assertion")
                .subject(subject)
                .build()
                .unwrap()
        };
        let source = azure(token(&setup.server.url));
        let source = source.open(AUDIENCE).await.unwrap();
        setup.assert_accepted(&source, "assertion").await;
        let rejected = azure(token("https://other.example")).open(AUDIENCE).await;
        let error = rejected.unwrap_err().to_string();
        assert!(error.contains("invalid_client"), "{error}");
        assert!(error.contains("client authentication failed"), "{error}");
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn exchanges_a_token_for_a_client_that_does_not_authenticate() {
        let setup = Setup::start(SCRIPT).await;
        let exchange = setup.anonymous(&setup.subject().mint()).client_id("public");
        setup.assert_exchanges(exchange).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn exchanges_a_token_for_a_resource() {
        let setup = Setup::start(SCRIPT).await;
        let subject = Tokens::one(&setup.subject().mint());
        let exchange = TokenExchange::builder(&setup.token_endpoint, subject)
            .resource(AUDIENCE)
            .requested_token_type(TokenType::AccessToken)
            .client_secret_basic(CLIENT_ID, CLIENT_SECRET);
        setup.assert_exchanges(exchange).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn issues_a_token_of_another_type_than_requested_which_is_an_error() {
        let setup = Setup::start(SCRIPT).await;
        let exchange = setup.with_basic(&setup.subject().mint());
        let exchange = exchange.requested_token_type(TokenType::IdToken);
        let error = exchange.build().unwrap().start().refresh(None).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("token-type:access_token"), "{error}");
        assert!(error.contains("expected the requested"), "{error}");
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn accepts_a_token_that_replaces_a_rejected_one() {
        let setup = Setup::start(SCRIPT).await;
        let expired = setup.subject().issued_at(two_hours_ago()).mint();
        setup.issuer.rotate_key().unwrap();
        let subjects = Tokens::two(&expired, &setup.subject().mint());
        let exchange = TokenExchange::builder(&setup.token_endpoint, subjects)
            .audience(AUDIENCE)
            .client_secret_basic(CLIENT_ID, CLIENT_SECRET);
        setup.assert_exchanges(exchange).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_a_subject_token_for_another_audience() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup
            .issuer
            .token()
            .audience("https://other.example")
            .mint();
        let expected = [
            "invalid_request",
            "unexpected \"aud\" claim value",
            "sent a JWT for the audience \"https://other.example\"",
        ];
        setup
            .assert_rejected(setup.with_basic(&subject), &subject, expected)
            .await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_an_expired_subject_token() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().issued_at(two_hours_ago()).mint();
        let expected = [
            "invalid_request",
            "\"exp\" claim timestamp check failed",
            "",
        ];
        setup
            .assert_rejected(setup.with_basic(&subject), &subject, expected)
            .await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_a_subject_token_with_an_invalid_signature() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().bad_signature().mint();
        let expected = ["invalid_request", "signature verification failed", ""];
        setup
            .assert_rejected(setup.with_basic(&subject), &subject, expected)
            .await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_a_wrong_client_secret() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        let secret = "wr0ng:%+ é";
        let exchange = setup.anonymous(&subject).client_secret_post("post", secret);
        let expected = [
            "invalid_client",
            "client authentication failed",
            "sent the client \"post\" and its secret as a parameter",
        ];
        setup.assert_rejected(exchange, secret, expected).await;
        let secret = "wr0ng:%+ secret";
        let exchange = setup
            .anonymous(&subject)
            .client_secret_basic(CLIENT_ID, secret);
        let expected = [
            "invalid_client",
            "client authentication failed",
            "and its secret by HTTP Basic authentication",
        ];
        setup.assert_rejected(exchange, secret, expected).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_a_client_that_may_not_exchange_tokens() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        let exchange = setup.anonymous(&subject);
        let exchange = exchange.client_secret_basic("without-exchange", CLIENT_SECRET);
        let description = "requested grant type is not allowed for this client";
        let expected = ["invalid_request", description, ""];
        setup.assert_rejected(exchange, &subject, expected).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_an_unknown_scope() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        let exchange = setup.with_basic(&subject).scope("orders.delete");
        let expected = [
            "invalid_scope",
            "requested scope is not known",
            "check the scope; sent \"orders.delete\"",
        ];
        setup.assert_rejected(exchange, &subject, expected).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_an_unknown_target() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        let exchange = TokenExchange::builder(&setup.token_endpoint, Tokens::one(&subject))
            .audience("https://unknown.example")
            .client_secret_basic(CLIENT_ID, CLIENT_SECRET);
        let expected = [
            "invalid_target",
            "the audience or resource is not known",
            "sent audience [\"https://unknown.example\"]",
        ];
        setup.assert_rejected(exchange, &subject, expected).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn has_no_token_endpoint_at_another_path() {
        let mut setup = Setup::start(SCRIPT).await;
        setup.token_endpoint = format!("{}/oauth/token", setup.server.url);
        let exchange = setup.with_basic(&setup.subject().mint());
        let error = exchange.build().unwrap().start().refresh(None).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("404 Not Found"), "{error}");
        assert!(
            error.contains("check the URL of the token endpoint"),
            "{error}"
        );
    }
}

mod ts_oauth2_server {
    use super::*;

    const SCRIPT: &str = "ts-oauth2-server.mjs";

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn exchanges_a_token_for_a_client_with_a_secret_as_a_parameter() {
        let setup = Setup::with_client(SCRIPT, "orders:%+ é", "s3:%+ é&=cr3t").await;
        let subject = setup.subject().mint();
        setup.assert_exchanges(setup.with_post(&subject)).await;
        let scoped = setup.with_post(&subject).scope("orders.read");
        setup.assert_exchanges(scoped).await;
    }

    /// It does not decode the credentials (RFC 6749, section 2.3.1), so they may only contain characters that are not encoded.
    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn accepts_a_secret_by_basic_authentication_if_it_needs_no_encoding() {
        let plain = Setup::with_client(SCRIPT, "orders-client", "s3cr3t_.-0123456789").await;
        let subject = plain.subject().mint();
        plain.assert_exchanges(plain.with_basic(&subject)).await;
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        let expected = [
            "invalid_client",
            "Client authentication failed",
            "some servers do not decode them, use `client_secret_post` there",
        ];
        setup
            .assert_rejected(setup.with_basic(&subject), &subject, expected)
            .await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn accepts_a_token_that_replaces_a_rejected_one() {
        let setup = Setup::start(SCRIPT).await;
        let expired = setup.subject().issued_at(two_hours_ago()).mint();
        setup.issuer.rotate_key().unwrap();
        let subjects = Tokens::two(&expired, &setup.subject().mint());
        let exchange = TokenExchange::builder(&setup.token_endpoint, subjects)
            .audience(AUDIENCE)
            .client_secret_post(CLIENT_ID, CLIENT_SECRET);
        setup.assert_exchanges(exchange).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_a_subject_token_for_another_audience() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup
            .issuer
            .token()
            .audience("https://other.example")
            .mint();
        let expected = [
            "invalid_grant",
            "unexpected \"aud\" claim value",
            "sent a JWT for the audience \"https://other.example\"",
        ];
        setup
            .assert_rejected(setup.with_post(&subject), &subject, expected)
            .await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_an_expired_subject_token() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().issued_at(two_hours_ago()).mint();
        let expected = ["invalid_grant", "\"exp\" claim timestamp check failed", ""];
        setup
            .assert_rejected(setup.with_post(&subject), &subject, expected)
            .await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_a_wrong_client_secret() {
        let setup = Setup::start(SCRIPT).await;
        let secret = "wr0ng:%+ é";
        let exchange = setup.anonymous(&setup.subject().mint());
        let exchange = exchange.client_secret_post(CLIENT_ID, secret);
        let expected = [
            "invalid_client",
            "Client has been revoked or is invalid.",
            "and its secret as a parameter",
        ];
        setup.assert_rejected(exchange, secret, expected).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_an_unknown_scope() {
        let setup = Setup::start(SCRIPT).await;
        let subject = setup.subject().mint();
        let exchange = setup.with_post(&subject).scope("orders.delete");
        let expected = [
            "invalid_scope",
            "Check the `orders.delete` scope(s)",
            "check the scope; sent \"orders.delete\"",
        ];
        setup.assert_rejected(exchange, &subject, expected).await;
    }

    #[tokio::test]
    #[ignore = "needs programs of other makers; demo/interop/run.sh"]
    async fn rejects_an_opaque_subject_token() {
        let setup = Setup::start(SCRIPT).await;
        let opaque = "0paque-subject-t0ken";
        let subject = reqwest_wi_auth::FixedToken::new(Token::opaque(opaque).unwrap());
        let exchange = TokenExchange::builder(&setup.token_endpoint, subject)
            .audience(AUDIENCE)
            .client_secret_post(CLIENT_ID, CLIENT_SECRET);
        let expected = [
            "invalid_grant",
            "Invalid Compact JWS",
            "sent a token that is not a JWT",
        ];
        setup.assert_rejected(exchange, opaque, expected).await;
    }
}
