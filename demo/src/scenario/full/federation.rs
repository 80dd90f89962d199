//! A Google identity outside of Google Cloud: Google's Security Token Service verifies a projected token with the keys of the
//! cluster's issuer, and IAM Credentials then issues an identity token of a service account (workload identity federation).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use reqwest_wi_auth::testing::{FakeGoogle, GoogleFault, GoogleTokenRequest, HttpFault, Kubelet};
use reqwest_wi_auth::{Ambient, FetchedToken, TokenSource as _};
use tokio::time::{Instant, timeout};
use tower_oidc_guard::OidcGuard;

use super::case;
use super::fixture::{Fixture, GATE_AUDIENCE, http_client};
use crate::Error;
use crate::client::settings::{ClientIdentity, GoogleSource};
use crate::client::tokens::TokenSettings;
use crate::client::{Client, Endpoint};
use crate::error::error_chain;
use crate::output::Component;

const TOKEN_FILE: &str = "token";
const CREDENTIALS_FILE: &str = "credential-configuration.json";
/// The lifetime of federated tokens, which is so short that each renewal of the identity is another exchange.
const FEDERATED_LIFETIME: Duration = Duration::from_secs(5);
/// How long a step may take, on machines that are slow.
const STEP_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(100);
/// The role that lets the cluster's service account request tokens of the Google service account.
const ROLE: &str = "roles/iam.workloadIdentityUser";

/// Google's servers, and the volume with the token that they exchange.
struct Cloud {
    google: FakeGoogle,
    kubelet: Kubelet,
    credentials: PathBuf,
    /// The IDs of the projected tokens that the Security Token Service has verified.
    exchanged: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

impl Cloud {
    async fn start(fixture: &Fixture<'_>) -> Result<Self, Error> {
        let failed = || Error::io("cannot start Google's servers of the full scenario");
        let google = FakeGoogle::start().await.map_err(failed())?;
        let provider = OidcGuard::builder()
            .issuer(fixture.cluster_issuer_for(&google.subject_audience()))
            .any_verified_caller()
            .build()?;
        let exchanged = Arc::<Mutex<Vec<String>>>::default();
        let verified = exchanged.clone();
        google.set_subject_fn(move |token| {
            let (provider, verified) = (provider.clone(), verified.clone());
            async move {
                let identity = provider.verifier().verify(token).await;
                let identity = identity.map_err(|error| error.to_string())?;
                lock(&verified).extend(identity.token_id().map(str::to_owned));
                Ok(())
            }
        });
        google.set_issuer(fixture.cluster.url());
        google.set_federated_lifetime(FEDERATED_LIFETIME);
        let account = fixture.google_account(google.service_account());
        google.set_token_fn(move |request| match request {
            GoogleTokenRequest::Identity { audience, .. } => {
                account.clone().audience(audience).mint()
            }
            _ => "this scenario requests no access token".to_owned(),
        });
        let folder = tempfile::tempdir().map_err(failed())?;
        let kubelet = Kubelet::new(folder.path().join("volume")).map_err(failed())?;
        let credentials = folder.path().join(CREDENTIALS_FILE);
        let configuration = google.credential_configuration(kubelet.path(TOKEN_FILE));
        std::fs::write(&credentials, configuration).map_err(failed())?;
        Ok(Self {
            google,
            kubelet,
            credentials,
            exchanged,
            _folder: folder,
        })
    }

    /// Replaces the projected token for the provider.
    fn write_token(&self, fixture: &Fixture<'_>, id: &str) -> Result<(), Error> {
        let token = fixture.cluster.token();
        let token = token.service_account("id-namespace", "gke-sa").token_id(id);
        let token = token.audience(self.google.subject_audience()).mint();
        let written = self.kubelet.write([(TOKEN_FILE, token)]);
        written.map_err(Error::io("cannot write the volume"))
    }

    /// Creates a client that sends Google's token. Also returns the token's source.
    async fn client(
        &self,
        fixture: &Fixture<'_>,
        url: &str,
        identity: ClientIdentity,
    ) -> Result<(Client, Option<FetchedToken>), Error> {
        let tokens = TokenSettings {
            projected_path: Some(fixture.token_path("one")),
            google: GoogleSource::Federation {
                credentials: self.credentials.clone(),
                allowed_origins: vec![self.google.url().to_owned()],
            },
            ambient: Ambient::builder().build(),
            audience: GATE_AUDIENCE.to_owned(),
        };
        let (client, sources) = tokens.client(url, http_client(), identity).await?;
        Ok((client, sources.google.map(|(_, token)| token)))
    }

    fn has_exchanged(&self, id: &str) -> bool {
        lock(&self.exchanged)
            .iter()
            .any(|exchanged| exchanged == id)
    }
}

/// A client in a cluster outside of Google Cloud passes the gate with the identity of a Google service account. It follows the
/// rotation of the projected token, requests continue while the Security Token Service is down, and a missing role is logged with
/// the command that grants it.
pub(super) async fn projected_token_becomes_google_identity(
    fixture: &Fixture<'_>,
) -> Result<(), Error> {
    let cloud = Cloud::start(fixture).await?;
    cloud.write_token(fixture, "provider-token-0")?;
    let text = "wrote a token whose audience is a provider of a workload identity pool";
    fixture.print(Component::Kubelet, "provider_token_written", text);
    let account = cloud.google.service_account();
    fixture.write_volume(account)?;
    let (gate, _policy) = fixture.gate().await?;
    let url = fixture.serve(&fixture.guard()?, Some(&gate))?;

    let (client, token) = cloud.client(fixture, &url, ClientIdentity::Google).await?;
    let Some(token) = token else {
        return Ok(());
    };
    let text = format!(
        "verified it with the cluster's keys, and exchanged it for an identity of {account}"
    );
    fixture.print(Component::Google, "token_exchanged", &text);
    let request = case(
        "federated",
        Endpoint::Open,
        "gate: projected token exchanged",
    );
    fixture.expect_status(&client, request, 200).await;
    let (both, _) = cloud.client(fixture, &url, ClientIdentity::Both).await?;
    let request = case(
        "federated_and_projected",
        Endpoint::Private,
        "gate and guard: exchanged, projected",
    );
    fixture.expect_status(&both, request, 200).await;
    drop(both);

    follows_rotation(fixture, &cloud, &client, &token).await?;
    outlasts_outage(fixture, &cloud, &client, &token).await;
    names_the_missing_role(fixture, &cloud, &client, &token).await;
    Ok(())
}

/// The next exchange after a rotation of the projected token is one of the new token.
async fn follows_rotation(
    fixture: &Fixture<'_>,
    cloud: &Cloud,
    client: &Client,
    token: &FetchedToken,
) -> Result<(), Error> {
    let id = "provider-token-1";
    cloud.write_token(fixture, id)?;
    fixture.print(
        Component::Kubelet,
        "provider_token_rotated",
        "replaced the token for the provider",
    );
    let request = case(
        "federated_after_rotation",
        Endpoint::Open,
        "gate: new projected token exchanged",
    );
    if renew_until(token, || cloud.has_exchanged(id)).await {
        fixture.print(
            Component::Google,
            "new_token_exchanged",
            "verified and exchanged the new token",
        );
        fixture.expect_status(client, request, 200).await;
    } else {
        fixture.record_unexpected(request, "the new token was not exchanged");
    }
    Ok(())
}

/// Requests continue with the current identity token while the Security Token Service is down.
async fn outlasts_outage(
    fixture: &Fixture<'_>,
    cloud: &Cloud,
    client: &Client,
    token: &FetchedToken,
) {
    let down = HttpFault::Status(StatusCode::SERVICE_UNAVAILABLE);
    cloud
        .google
        .set_fault(Some(GoogleFault::SecurityTokens(down)));
    let text = "the Security Token Service is down: responds with 503";
    fixture.print(Component::Google, "sts_away", text);
    let request = case(
        "federated_sts_away",
        Endpoint::Open,
        "gate: token service down",
    );
    if renew_until(token, || token.health().last_error.is_some()).await {
        fixture.expect_status(client, request, 200).await;
    } else {
        fixture.record_unexpected(request, "no renewal failed");
    }
    cloud.google.set_fault(None);
    let request = case(
        "federated_sts_back",
        Endpoint::Open,
        "gate: token service up again",
    );
    if renew_until(token, || token.health().last_error.is_none()).await {
        fixture.expect_status(client, request, 200).await;
    } else {
        fixture.record_unexpected(request, "the token was not renewed");
    }
}

/// If the role on the service account is missing, the error that the client logs contains the command that grants it.
async fn names_the_missing_role(
    fixture: &Fixture<'_>,
    cloud: &Cloud,
    client: &Client,
    token: &FetchedToken,
) {
    cloud.google.set_fault(Some(GoogleFault::PermissionDenied));
    let text = format!("refuses further identity tokens with 403, as without {ROLE}");
    fixture.print(Component::Google, "role_missing", &text);
    let request = case(
        "federated_role_missing",
        Endpoint::Open,
        "gate: role on the account missing",
    );
    let error = || token.health().last_error.map(|error| error_chain(&error));
    if !renew_until(token, || error().is_some()).await {
        fixture.record_unexpected(request, "no renewal failed");
        return;
    }
    fixture.expect_status(client, request, 200).await;
    let error = error().unwrap_or_default();
    let command = error
        .split('`')
        .find(|part| part.contains("add-iam-policy-binding"));
    match command.filter(|command| {
        command.contains(ROLE) && command.contains(cloud.google.service_account())
    }) {
        Some(command) => {
            let text = format!("logs what to do: {command}");
            fixture.print(Component::Client, "role_named", &text);
        }
        None => fixture.record_unexpected(
            request,
            &format!("the error does not name the role: {error}"),
        ),
    }
    cloud.google.set_fault(None);
    let request = case(
        "federated_role_granted",
        Endpoint::Open,
        "gate: role on the account granted",
    );
    if renew_until(token, || token.health().last_error.is_none()).await {
        fixture.expect_status(client, request, 200).await;
    } else {
        fixture.record_unexpected(request, "the token was not renewed");
    }
}

/// Renews the identity token until a condition holds. Returns whether it did within the limit of a step.
///
/// Identity tokens live for an hour, and a renewal is due after 75 % of it or once a server has rejected the token. Here, each
/// renewal is requested as after a rejection.
async fn renew_until(token: &FetchedToken, condition: impl Fn() -> bool) -> bool {
    let limit = Instant::now() + STEP_LIMIT;
    while !condition() {
        if Instant::now() >= limit {
            return false;
        }
        let rejected = token.current().ok();
        // The renewal continues after that time. Only its effect matters, and what it returns is also in the state of the token.
        let _ = timeout(PAUSE, token.refresh(rejected.as_ref())).await;
        tokio::time::sleep(PAUSE).await;
    }
    true
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
