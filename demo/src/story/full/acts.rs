//! The acts.

use std::time::Duration;

use http::StatusCode;

use super::stage::{ACCOUNT, Stage};
use crate::Error;
use crate::client::Path;
use crate::client::settings::Identity;
use crate::narrator::Who;

const NOBODY: &str = "serviceAccount:nobody@project.iam.gserviceaccount.com";

/// The platform's gate lets in nobody but its members.
pub(super) async fn gate(stage: &Stage<'_>) -> Result<(), Error> {
    stage.tell(
        Who::Server,
        "gate",
        "stands behind a gate that wants a Google token, as on Cloud Run",
    );
    let (gate, _file) = stage.gate().await?;
    let url = stage.serve(&stage.guard()?, Some(&gate)).await?;
    let stranger = stage.client(&url, Identity::None, "one").await?;
    let text = "GET /         gate: without a token          ";
    stage
        .ask(&stranger, Path::Open, 403, "gate_stranger", text)
        .await;
    let google = stage.client(&url, Identity::Google, "one").await?;
    let text = "GET /         gate: an account not among them";
    stage
        .ask(&google, Path::Open, 403, "gate_other_account", text)
        .await;
    Ok(())
}

/// The gate's policy is a file: members are in, and out again, without a restart.
pub(super) async fn policy(stage: &Stage<'_>) -> Result<(), Error> {
    let (gate, file) = stage.gate().await?;
    let url = stage.serve(&stage.guard()?, Some(&gate)).await?;
    let google = stage.client(&url, Identity::Google, "one").await?;
    let changed = file.changed();
    stage.write_policy(&format!("serviceAccount:{ACCOUNT}"))?;
    changed.await;
    let text = "GET /         gate: a member, once it is one ";
    stage
        .ask(&google, Path::Open, 200, "gate_member", text)
        .await;
    let changed = file.changed();
    stage.write_policy(NOBODY)?;
    changed.await;
    let text = "GET /         gate: a member no more         ";
    stage
        .ask(&google, Path::Open, 403, "gate_member_no_more", text)
        .await;
    Ok(())
}

/// The gate uses up the one token; with a token for each, both let the request through.
pub(super) async fn both_gates(stage: &Stage<'_>) -> Result<(), Error> {
    stage.write_policy(&format!("serviceAccount:{ACCOUNT}"))?;
    let (gate, _file) = stage.gate().await?;
    let url = stage.serve(&stage.guard()?, Some(&gate)).await?;
    let one = stage.client(&url, Identity::Google, "one").await?;
    let text = "GET /private  guarded twice, with one token  ";
    stage
        .ask(&one, Path::Private, 401, "guarded_twice_one_token", text)
        .await;
    let both = stage.client(&url, Identity::Both, "one").await?;
    let text = "GET /private  guarded twice, with both tokens";
    stage
        .ask(&both, Path::Private, 200, "guarded_twice_both_tokens", text)
        .await;
    Ok(())
}

/// One server, several audiences; a token for each.
pub(super) async fn audiences(stage: &Stage<'_>) -> Result<(), Error> {
    let url = stage.serve(&stage.guard()?, None).await?;
    for (file, event, text) in [
        (
            "one",
            "first_audience",
            "GET /private  a token for the first audience ",
        ),
        (
            "two",
            "second_audience",
            "GET /private  a token for the second one     ",
        ),
    ] {
        let client = stage.client(&url, Identity::Cluster, file).await?;
        stage.ask(&client, Path::Private, 200, event, text).await;
    }
    Ok(())
}

/// The issuer is away: who has its keys goes on, who has not says when to come back.
pub(super) async fn outage(stage: &Stage<'_>) -> Result<(), Error> {
    let (knows, knows_not) = (stage.guard()?, stage.guard()?);
    knows.ready().await?;
    stage.cluster.fail(StatusCode::SERVICE_UNAVAILABLE);
    stage.tell(
        Who::Issuer,
        "issuer_away",
        "is away: it answers nothing but 503",
    );
    let url = stage.serve(&knows, None).await?;
    let client = stage.client(&url, Identity::Cluster, "one").await?;
    let text = "GET /private  issuer away, its keys at hand  ";
    stage
        .ask(&client, Path::Private, 200, "issuer_away_keys_known", text)
        .await;
    let url = stage.serve(&knows_not, None).await?;
    let client = stage.client(&url, Identity::Cluster, "one").await?;
    let text = "GET /private  issuer away, no keys yet       ";
    stage
        .ask(&client, Path::Private, 503, "issuer_away_no_keys", text)
        .await;
    stage.cluster.recover();
    stage.tell(Who::Issuer, "issuer_back", "is back");
    // Asking goes on with pauses; each call waits for one attempt.
    for _ in 0..20 {
        if knows_not.ready().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let text = "GET /private  issuer back, keys fetched      ";
    stage
        .ask(&client, Path::Private, 200, "issuer_back", text)
        .await;
    Ok(())
}
