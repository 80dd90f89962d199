//! A web application that logs users in with openidconnect, and an API that is guarded by this crate, with one provider.
//!
//! Both use the same `CoreProviderMetadata`. The provider is a test issuer on loopback, so the steps of a login that a
//! browser performs are left out.
//!
//! ```sh
//! cargo run -p tower-oidc-guard --example openidconnect --features testing
//! ```

// The login flow verifies ID tokens with openidconnect's own keys; the guard does not use them.
#![allow(clippy::disallowed_types)]

use tower_oidc_guard::openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreIdToken, CoreProviderMetadata,
};
use tower_oidc_guard::openidconnect::{
    ClientId, CsrfToken, EmptyAdditionalClaims, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    RedirectUrl,
};
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Issuer, OidcGuard, TokenError, VerifyError};

const APPLICATION: &str = "web-application";
const API: &str = "https://api.example";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let provider = TestIssuer::start().await?;
    // openidconnect requires an authorization endpoint, and requests key sets as `application/json`.
    let authorize = format!("{}/authorize", provider.url());
    provider.set_discovery_member("authorization_endpoint", authorize.as_str());
    provider.ignore_accept();

    // Discovery, by openidconnect.
    let http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()?;
    let send = |request| send(http.clone(), request);
    let issuer = IssuerUrl::new(provider.url().to_owned())?;
    let metadata = CoreProviderMetadata::discover_async(issuer, &send).await?;

    // The login: the application sends the browser to this URL, and receives an ID token in the end.
    let client = CoreClient::from_provider_metadata(
        metadata.clone(),
        ClientId::new(APPLICATION.to_owned()),
        None,
    )
    .set_redirect_uri(RedirectUrl::new("https://app.example/callback".to_owned())?);
    let (url, _csrf_token, nonce) = client
        .authorize_url(
            CoreAuthenticationFlow::AuthorizationCode,
            CsrfToken::new_random,
            Nonce::new_random,
        )
        .url();
    assert!(url.as_str().starts_with(&authorize), "{url}");
    let id_token = provider
        .token()
        .google_account("1234", "user@example.com")
        .audience(APPLICATION)
        .claim("nonce", nonce.secret().as_str())
        .mint();
    let parsed: CoreIdToken = id_token.parse()?;
    let user = parsed.claims(&client.id_token_verifier(), &nonce)?;
    println!("logged in: {}", user.subject().as_str());

    // The API: its guard needs no discovery, and refreshes the keys.
    let guard = OidcGuard::builder()
        .issuer(
            Issuer::from_provider_metadata(&metadata)
                .audience(API)
                .insecure_loopback_http(),
        )
        .any_verified_caller()
        .build()?;
    provider.rotate_key()?;
    let access_token = provider
        .token()
        .google_account("1234", "user@example.com")
        .audience(API)
        .mint();
    let caller = guard.verifier().verify(access_token).await?;
    let claims = caller.id_token_claims::<EmptyAdditionalClaims>()?;
    assert_eq!(claims.subject(), user.subject());
    assert_eq!(claims.email(), user.email());
    println!("called the API: {}", caller.subject());

    // The ID token is for the application only.
    let refused = guard.verifier().verify(id_token).await.err();
    let expected = VerifyError::InvalidToken(TokenError::WrongAudience);
    assert_eq!(refused, Some(expected));
    println!("the ID token at the API: {expected}");
    Ok(())
}

/// Sends a request of openidconnect with reqwest.
async fn send(
    client: reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, reqwest::Error> {
    let response = client.execute(request.try_into()?).await?;
    let mut copy = HttpResponse::new(Vec::new());
    *copy.status_mut() = response.status();
    *copy.headers_mut() = response.headers().clone();
    *copy.body_mut() = response.bytes().await?.to_vec();
    Ok(copy)
}
