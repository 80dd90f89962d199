//! The whole story on one machine: an issuer, an emulated kubelet, a guarded server and a client, through
//! rotations of the token and of the issuer's key.

mod full;
mod ledger;
mod rotation;
mod traffic;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest_wi_auth::ProjectedToken;
use reqwest_wi_auth::testing::Kubelet;
use tokio::sync::oneshot;
use tower_oidc_guard::testing::TestIssuer;
use tower_oidc_guard::{Issuer, OidcGuard};

use self::ledger::Ledger;
pub use self::ledger::Summary;
use self::rotation::{OTHER_AUDIENCE_FILE, Rotations, TOKEN_FILE};
use self::traffic::Traffic;
use crate::narrator::{Narrator, Who};
use crate::{Error, server};

/// The server's audience.
const AUDIENCE: &str = "https://auth-server.example";

/// What can be chosen of the story.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long requests are sent. Five rotations take ten seconds.
    pub duration: Duration,
    /// Whether the rest is told, too: Google's identity, the platform's gate, several audiences, an issuer that goes
    /// away.
    pub full: bool,
    /// The server's port; 0 for one of the system's choice.
    pub port: u16,
}

/// Plays the story until its time is over or `end` completes.
///
/// If `end` completes first, requests in flight are dropped and the summary counts what was answered until then.
///
/// # Errors
///
/// If something cannot be set up. What goes wrong later is counted in the summary.
pub async fn play(
    settings: Settings,
    narrator: Arc<Narrator>,
    end: impl Future<Output = ()>,
) -> Result<Summary, Error> {
    let ledger = Arc::new(Ledger::new(narrator.clone()));
    tokio::select! {
        played = play_to_the_end(&settings, &ledger, &narrator) => played?,
        () = end => {}
    }
    Ok(ledger.summary())
}

async fn play_to_the_end(
    settings: &Settings,
    ledger: &Arc<Ledger>,
    narrator: &Narrator,
) -> Result<(), Error> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.port));
    let (listener, address) = server::listen(address)?;
    let url = format!("http://{address}");

    let issuer = TestIssuer::start().await;
    let issuer = Arc::new(issuer.map_err(Error::io("the issuer cannot be started"))?);
    let text = format!("serves its keys at {} and signs with RS256", issuer.url());
    narrator.tell(Who::Issuer, "issuer_started", &text);

    let folder = tempfile::tempdir().map_err(Error::io("no temporary folder can be made"))?;
    let kubelet = Kubelet::new(folder.path().join("tokens"))
        .map_err(Error::io("the volume's folder cannot be made"))?;
    let guard = guard(issuer.url())?;
    let mut rotations = Rotations::new(issuer.clone(), &kubelet, ledger, narrator);
    rotations.begin()?;

    let text = format!("listens at {url}: / is open, /private wants a token for {AUDIENCE}");
    narrator.tell(Who::Server, "server_started", &text);
    let seen = ledger.clone();
    let routes = server::guarded(&guard, move |caller| {
        if let Some(caller) = caller {
            seen.caller(caller);
        }
    });
    let (finish, finished) = oneshot::channel::<()>();
    let server = tokio::spawn(server::serve(listener, routes, async {
        // Done, or nobody is left to say so.
        let _ = finished.await;
    }));

    let token = ProjectedToken::open(kubelet.path(TOKEN_FILE)).await?;
    let other = ProjectedToken::open(kubelet.path(OTHER_AUDIENCE_FILE)).await?;
    let traffic = Traffic::start(&url, token, other, ledger.clone())?;
    tokio::select! {
        () = tokio::time::sleep(settings.duration) => {}
        rotated = rotations.go_on() => rotated?,
    }
    traffic.stop().await;
    if settings.full {
        full::play(ledger, narrator).await?;
    }
    let _ = finish.send(());
    // The server ends without an error, and a panic of it has been reported.
    let _ = server.await;
    Ok(())
}

/// A leeway of nothing: a client that does not follow the rotation fails.
fn guard(issuer: &str) -> Result<OidcGuard, Error> {
    let issuer = Issuer::kubernetes(issuer)
        .audience(AUDIENCE)
        .leeway(Duration::ZERO)
        .unknown_key_jitter(Duration::ZERO) // the only replica there is
        .insecure_loopback_http();
    Ok(OidcGuard::builder()
        .issuer(issuer)
        .any_verified_caller()
        .build()?)
}
