//! A deleted pod: its token is still valid by its signature, and only the API server knows that the pod is gone.

use std::time::Duration;

use reqwest_wi_auth::ProjectedToken;
use reqwest_wi_auth::testing::Kubelet;
use tokio::time::Instant;
use tower_oidc_guard::testing::FakeApiServer;
use tower_oidc_guard::{OidcGuard, Policy, TokenReview, WhenUnavailable};

use super::case;
use super::fixture::{Fixture, REQUEST_TIMEOUT};
use crate::Error;
use crate::client::{Client, Endpoint};
use crate::error::error_chain;
use crate::output::Component;

const AUDIENCE: &str = "https://auth-server.example";
const NAMESPACE: &str = "id-namespace";
const CLIENT: &str = "gke-sa";
const SERVER: &str = "auth-server";
/// How long a confirmation by the API server is used.
const TTL: Duration = Duration::from_secs(2);
/// How long a review may take after that.
const MARGIN: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// A server that has tokens confirmed by the API server refuses the token of a deleted pod within the time to live. One that does
/// not admits it until it expires.
pub(super) async fn deleted_pod_is_refused(fixture: &Fixture<'_>) -> Result<(), Error> {
    let failed = || Error::io("cannot start the cluster of the full scenario");
    let cluster = FakeApiServer::start().await.map_err(failed())?;
    let folder = tempfile::tempdir().map_err(failed())?;
    let volume = folder.path();
    let written = cluster.write_pod_volume(volume, NAMESPACE, SERVER);
    written.map_err(failed())?;
    cluster.grant_token_reviews(NAMESPACE, SERVER);
    let issuer = || Ok::<_, Error>(cluster.issuer(volume)?.audience(AUDIENCE));
    let guard = |issuer| {
        let policy = Policy::members([format!("system:serviceaccount:{NAMESPACE}:{CLIENT}")]);
        OidcGuard::builder().issuer(issuer).policy(policy).build()
    };
    let review = TokenReview::new(WhenUnavailable::Refuse).ttl(TTL);
    let reviewing = guard(issuer()?.token_review(review))?;
    let unaware = guard(issuer()?)?;

    let kubelet = Kubelet::new(volume.join("client")).map_err(failed())?;
    let token = cluster.token(NAMESPACE, CLIENT).audience(AUDIENCE).mint();
    kubelet.write([(CLIENT, token)]).map_err(failed())?;
    let token = ProjectedToken::open(kubelet.path(CLIENT)).await?;
    let client = |url: &str| {
        let http = reqwest::Client::builder().no_proxy();
        let http = http.timeout(REQUEST_TIMEOUT).build()?;
        Client::with_token(url, http, token.clone())
    };
    let reviewed = client(&fixture.serve(&reviewing, None)?)?;
    let unreviewed = client(&fixture.serve(&unaware, None)?)?;

    let text = format!(
        "has each token confirmed by the API server (TokenReview), again every {} s",
        TTL.as_secs()
    );
    fixture.print(Component::Server, "token_review", &text);
    let request = case(
        "pod_exists",
        Endpoint::Private,
        "token confirmed: its pod exists",
    );
    fixture.expect_status(&reviewed, request, 200).await;
    cluster.delete_pod(NAMESPACE, CLIENT);
    let text = "deleted the client's pod; its token is signed and valid for an hour";
    fixture.print(Component::Issuer, "pod_deleted", text);
    expect_refusal_within_ttl(fixture, &reviewed).await;
    let request = case(
        "pod_deleted_without_review",
        Endpoint::Private,
        "pod deleted, server without reviews",
    );
    fixture.expect_status(&unreviewed, request, 200).await;
    Ok(())
}

/// Sends requests until one is refused, which must be within the time to live. Until then, the last confirmation may be used.
async fn expect_refusal_within_ttl(fixture: &Fixture<'_>, client: &Client) {
    let confirmed = case(
        "pod_deleted_confirmation_in_use",
        Endpoint::Private,
        "pod deleted, confirmation in use",
    );
    let refused = case(
        "pod_deleted",
        Endpoint::Private,
        "pod deleted, token still signed",
    );
    let limit = Instant::now() + TTL + MARGIN;
    loop {
        match client.get(Endpoint::Private).await {
            Ok(response) if response.status == 401 => {
                fixture.report.record_expected(refused, "401");
                return;
            }
            Ok(response) if response.status == 200 && Instant::now() < limit => {
                fixture.report.record_expected(confirmed, "200");
            }
            Ok(response) => {
                let response = format!("{} {}", response.status, response.body);
                fixture.report.record_unexpected(refused, &response);
                return;
            }
            Err(error) => {
                let error = error_chain(&error);
                fixture.report.record_unexpected(refused, &error);
                return;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
