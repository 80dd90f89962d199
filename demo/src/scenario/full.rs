//! The second part of the full scenario: a Google identity, a platform gate, several audiences, a shadow policy, an issuer
//! outage, a deleted pod, and a Google identity in exchange for a projected token.

mod federation;
mod fixture;
mod revocation;
mod shadow;

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use self::fixture::{ACCOUNT, Fixture, NOBODY};
use super::report::{Report, RequestCase};
use crate::Error;
use crate::client::Endpoint;
use crate::client::settings::ClientIdentity;
use crate::output::{Component, EventLog};

/// Runs each step in turn. Unexpected responses are counted in the report.
pub(super) async fn run(report: &Arc<Report>, events: &EventLog) -> Result<(), Error> {
    let fixture = Fixture::start(report, events).await?;
    gate_rejects_other_callers(&fixture).await?;
    gate_follows_its_policy(&fixture).await?;
    gate_and_guard_each_require_a_token(&fixture).await?;
    server_accepts_several_audiences(&fixture).await?;
    shadow::promotion(&fixture).await?;
    issuer_outage(&fixture).await?;
    revocation::deleted_pod_is_refused(&fixture).await?;
    federation::projected_token_becomes_google_identity(&fixture).await
}

fn case(name: &'static str, endpoint: Endpoint, description: &'static str) -> RequestCase {
    RequestCase {
        name,
        endpoint,
        description,
    }
}

/// The gate rejects requests without a token, and accounts that its policy does not name.
async fn gate_rejects_other_callers(fixture: &Fixture<'_>) -> Result<(), Error> {
    let text = "runs behind a gate that requires a Google token, as on Cloud Run";
    fixture.print(Component::Server, "gate", text);
    let (gate, _policy) = fixture.gate().await?;
    let url = fixture.serve(&fixture.guard()?, Some(&gate))?;
    let anonymous = fixture.client(&url, ClientIdentity::None, "one").await?;
    let request = case(
        "gate_without_token",
        Endpoint::Open,
        "gate: without a token",
    );
    fixture.expect_status(&anonymous, request, 403).await;
    let google = fixture.client(&url, ClientIdentity::Google, "one").await?;
    let request = case(
        "gate_other_account",
        Endpoint::Open,
        "gate: account not in the policy",
    );
    fixture.expect_status(&google, request, 403).await;
    Ok(())
}

/// The gate follows its policy file: a member is admitted once it is added and rejected once it is removed, without a
/// restart.
async fn gate_follows_its_policy(fixture: &Fixture<'_>) -> Result<(), Error> {
    let (gate, policy) = fixture.gate().await?;
    let url = fixture.serve(&fixture.guard()?, Some(&gate))?;
    let google = fixture.client(&url, ClientIdentity::Google, "one").await?;
    let changed = policy.changed();
    fixture.write_volume(ACCOUNT)?;
    changed.await;
    let request = case(
        "gate_member",
        Endpoint::Open,
        "gate: account added to the policy",
    );
    fixture.expect_status(&google, request, 200).await;
    let changed = policy.changed();
    fixture.write_volume(NOBODY)?;
    changed.await;
    let request = case(
        "gate_member_removed",
        Endpoint::Open,
        "gate: account removed from the policy",
    );
    fixture.expect_status(&google, request, 403).await;
    Ok(())
}

/// The gate removes the signature of the token that it has checked, so the application's guard requires another one.
async fn gate_and_guard_each_require_a_token(fixture: &Fixture<'_>) -> Result<(), Error> {
    fixture.write_volume(ACCOUNT)?;
    let (gate, _policy) = fixture.gate().await?;
    let url = fixture.serve(&fixture.guard()?, Some(&gate))?;
    let google = fixture.client(&url, ClientIdentity::Google, "one").await?;
    let request = case(
        "gate_and_guard_one_token",
        Endpoint::Private,
        "gate and guard: one token",
    );
    fixture.expect_status(&google, request, 401).await;
    let both = fixture.client(&url, ClientIdentity::Both, "one").await?;
    let request = case(
        "gate_and_guard_both_tokens",
        Endpoint::Private,
        "gate and guard: a token for each",
    );
    fixture.expect_status(&both, request, 200).await;
    Ok(())
}

/// A server accepts tokens for each of its audiences.
async fn server_accepts_several_audiences(fixture: &Fixture<'_>) -> Result<(), Error> {
    let url = fixture.serve(&fixture.guard()?, None)?;
    for (file, name, description) in [
        ("one", "first_audience", "token for the first audience"),
        ("two", "second_audience", "token for the second audience"),
    ] {
        let client = fixture.client(&url, ClientIdentity::Cluster, file).await?;
        let request = case(name, Endpoint::Private, description);
        fixture.expect_status(&client, request, 200).await;
    }
    Ok(())
}

/// While the issuer is down, a guard that has its keys continues to admit requests, and one that has none responds with
/// 503. The latter fetches the keys once the issuer is up again.
async fn issuer_outage(fixture: &Fixture<'_>) -> Result<(), Error> {
    let (with_keys, without_keys) = (fixture.guard()?, fixture.guard()?);
    with_keys.ready().await?;
    fixture.cluster.fail(StatusCode::SERVICE_UNAVAILABLE);
    let text = "is down: responds to each request with 503";
    fixture.print(Component::Issuer, "issuer_away", text);
    let url = fixture.serve(&with_keys, None)?;
    let client = fixture.client(&url, ClientIdentity::Cluster, "one").await?;
    let request = case(
        "issuer_away_keys_known",
        Endpoint::Private,
        "issuer down, keys already fetched",
    );
    fixture.expect_status(&client, request, 200).await;
    let url = fixture.serve(&without_keys, None)?;
    let client = fixture.client(&url, ClientIdentity::Cluster, "one").await?;
    let request = case(
        "issuer_away_no_keys",
        Endpoint::Private,
        "issuer down, no keys yet",
    );
    fixture.expect_status(&client, request, 503).await;
    fixture.cluster.recover();
    fixture.print(Component::Issuer, "issuer_back", "is up again");
    // The guard retries with pauses, and each call waits for one attempt.
    for _ in 0..20 {
        if without_keys.ready().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let request = case(
        "issuer_back",
        Endpoint::Private,
        "issuer up again, keys fetched",
    );
    fixture.expect_status(&client, request, 200).await;
    Ok(())
}
