//! Runs workload identity on one machine: an issuer, an emulated kubelet, a guarded server and a client, through rotations
//! of the client's token and of the issuer's signing key.
//!
//! 1. The [test issuer](TestIssuer) publishes its keys on loopback, and the [emulated kubelet](Kubelet) writes a projected
//!    volume with tokens that it replaces before they expire.
//! 2. The server admits requests without any leeway for clocks, so a client that does not follow its token fails.
//! 3. The client sends requests of several kinds, each with an expected response.
//! 4. With [`Scope::Full`], a Google identity, a platform gate, several audiences, a shadow policy, an issuer outage, a deleted
//!    pod, and a Google identity in exchange for a projected token follow.
//!
//! A [`Summary`] counts the requests, the observed rotations and the unexpected responses.

mod full;
mod report;
mod rotation;
mod traffic;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use reqwest_wi_auth::ProjectedToken;
use reqwest_wi_auth::testing::Kubelet;
use tokio::sync::oneshot;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Issuer, OidcGuard};

use self::report::Report;
pub use self::report::Summary;
use self::rotation::{OTHER_AUDIENCE_FILE, Rotator, TOKEN_FILE};
use self::traffic::Traffic;
use crate::output::{Component, EventLog};
use crate::{Error, server};

/// The audience of the server.
const AUDIENCE: &str = "https://auth-server.example";

/// The settings of the scenario.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long requests are sent while tokens and keys rotate. Five token rotations take 10 seconds.
    pub duration: Duration,
    /// Which parts run.
    pub scope: Scope,
    /// The server's port; 0 for any free port.
    pub port: u16,
}

/// Which parts of the scenario run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scope {
    /// Rotations of the token and of the issuer's key.
    Short,
    /// The rotations, then a Google identity, a platform gate, several audiences, a shadow policy, an issuer outage, a deleted
    /// pod, and a Google identity in exchange for a projected token.
    Full,
}

/// Runs the scenario until it is complete or `end` completes.
///
/// If `end` completes first, requests in flight are dropped, and the summary covers the responses until then.
///
/// # Errors
///
/// If a part of the scenario cannot be set up. Failed requests are counted in the summary instead.
pub async fn run(
    settings: Settings,
    events: Arc<EventLog>,
    end: impl Future<Output = ()>,
) -> Result<Summary, Error> {
    let report = Arc::new(Report::new(events.clone()));
    tokio::select! {
        completed = run_to_completion(&settings, &report, &events) => completed?,
        () = end => {}
    }
    Ok(report.summary())
}

async fn run_to_completion(
    settings: &Settings,
    report: &Arc<Report>,
    events: &EventLog,
) -> Result<(), Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.port));
    let (listener, address) = server::listen(address)?;
    let url = format!("http://{address}");

    let issuer = TestIssuer::start().await;
    let issuer = Arc::new(issuer.map_err(Error::io("cannot start the issuer"))?);
    let text = format!("publishes its keys at {}, signs with RS256", issuer.url());
    events.print(Component::Issuer, "issuer_started", &text);

    let folder = tempfile::tempdir().map_err(Error::io("cannot create a temporary directory"))?;
    let kubelet = Kubelet::new(folder.path().join("tokens"))
        .map_err(Error::io("cannot create the directory of the volume"))?;
    let guard = guard(issuer.url())?;
    let mut rotator = Rotator::new(issuer.clone(), &kubelet, report, events);
    rotator.write_first_tokens()?;

    let text = format!("listens on {url}: / is open, /private requires a token for {AUDIENCE}");
    events.print(Component::Server, "server_started", &text);
    let admitted = report.clone();
    let routes = server::application_routes(&guard, move |caller| {
        if let Some(caller) = caller {
            admitted.record_caller(caller);
        }
    });
    let (finish, finished) = oneshot::channel::<()>();
    let server = tokio::spawn(server::serve(listener, routes, async {
        // An error means that the sender was dropped, which ends the server, too.
        let _ = finished.await;
    }));

    let token = ProjectedToken::open(kubelet.path(TOKEN_FILE)).await?;
    let other = ProjectedToken::open(kubelet.path(OTHER_AUDIENCE_FILE)).await?;
    let traffic = Traffic::start(&url, token, other, report.clone())?;
    tokio::select! {
        () = tokio::time::sleep(settings.duration) => {}
        rotated = rotator.rotate() => rotated?,
    }
    traffic.stop().await;
    if settings.scope == Scope::Full {
        full::run(report, events).await?;
    }
    let _ = finish.send(());
    // The server returns no error, and its panic has been printed if there was one.
    let _ = server.await;
    Ok(())
}

/// Builds the server's guard, without any leeway: a client that does not follow its token's rotation fails.
fn guard(issuer: &str) -> Result<OidcGuard, Error> {
    let issuer = Issuer::kubernetes(issuer)
        .audience(AUDIENCE)
        .leeway(Duration::ZERO)
        // Jitter spreads the fetches of several replicas, and there is only one here.
        .unknown_key_jitter(Duration::ZERO)
        .insecure_loopback_http();
    Ok(OidcGuard::builder()
        .issuer(issuer)
        .any_verified_caller()
        .build()?)
}
