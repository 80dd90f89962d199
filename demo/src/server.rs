//! The server: an open path and a guarded one, behind a gate if the settings ask for one.

mod gate;
mod listener;
mod metrics;
mod routes;
pub mod settings;
mod tls;
mod trust;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use self::gate::Gate;
pub use self::listener::{Limits, listen};
use self::listener::{listen_everywhere, listen_for};
pub use self::metrics::Metrics;
pub use self::routes::{OPEN, guarded, public};
use self::settings::ServerSettings;
pub(crate) use self::trust::google;
use crate::Error;
use crate::signals::Shutdown;

/// How much longer than its drain and grace periods together the server may take to end.
const MARGIN: Duration = Duration::from_secs(1);
/// So many connections are served at once at a port for operators: a scraper and probes need a few.
const ADMIN_CONNECTIONS: usize = 64;

/// Serves plain http until the future `end` completes and the requests in flight are answered.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) {
    listener::serve(listener, None, routes, Limits::default(), end).await;
}

/// Runs the program until it is asked to end.
///
/// Then connections are accepted for the drain period, and requests in flight are finished within the grace period. Those
/// that take longer are dropped.
///
/// # Errors
///
/// If the settings cannot work, or a port cannot be used.
pub async fn run(
    settings: ServerSettings,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    // Until `allow` below, a signal ends the process at once: no request is in flight.
    let guard = trust::guard(&settings).await?;
    let seen = |caller: Option<&tower_oidc_guard::Identity>| {
        let subject = caller.map_or("anonymous", |caller| caller.subject());
        tracing::info!(subject, "let in");
    };
    let mut routes = guarded(&guard, seen);
    if let Some(gate) = Gate::from_settings(&settings.gate).await? {
        routes = gate.before(routes);
    }
    let tls = match settings.tls.files() {
        Some((certificate, key)) => Some(tls::acceptor(certificate, key).await?),
        None => None,
    };
    let (listener, address) = open("--port (PORT)", &settings, settings.port)?;
    let rendered = metrics.clone();
    let operators = public(&guard, move || rendered.render());
    let limits = settings.limits.limits();
    let (routes, admin) = match settings.admin_port {
        Some(port) => {
            let (listener, address) = open("--admin-port (ADMIN_PORT)", &settings, port)?;
            let routes = routes::with_layers(routes, Router::new());
            (routes, Some((listener, address, operators)))
        }
        None => (routes::with_layers(routes, operators), None),
    };

    let drain = Duration::from_secs(settings.drain_seconds);
    let grace = Duration::from_secs(settings.grace_seconds);
    shutdown.allow(drain + grace + MARGIN);
    let (ending, ended) = oneshot::channel::<()>();
    let requested = shutdown.requested();
    let end = async move {
        requested.await;
        if !drain.is_zero() {
            tracing::info!("takes no more connections soon");
            tokio::time::sleep(drain).await;
        }
        tracing::info!("finishes what is under way");
        // Nobody waits where the server has ended by itself.
        let _ = ending.send(());
    };
    tokio::spawn(metrics.upkeep());
    match &tls {
        Some(_) => tracing::info!(%address, tls = true, "listening"),
        None => tracing::info!(%address, "listening"),
    }
    if let Some((listener, address, operators)) = admin {
        tracing::info!("health, readiness and metrics are served at {address}");
        let limits = Limits {
            connections: ADMIN_CONNECTIONS,
            ..limits
        };
        let operators = routes::with_limits(operators);
        // Serves until the process ends, so that operators can watch that, too.
        let forever = std::future::pending();
        tokio::spawn(listener::serve(listener, None, operators, limits, forever));
    }
    // The first request need not wait for the keys, and the server starts whether they can be fetched or not.
    guard.prefetch();
    let patience = async {
        if ended.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = listener::serve(listener, tls, routes, limits, end) => {}
        () = patience => {
            tracing::warn!("some requests were not done within the grace period and are dropped");
        }
    }
    Ok(())
}

/// Listens at a port, at the address of the settings.
fn open(
    flag: &'static str,
    settings: &ServerSettings,
    port: u16,
) -> Result<(TcpListener, SocketAddr), Error> {
    match settings.address {
        Some(address) => listen_for(flag, SocketAddr::new(address, port)),
        None => listen_everywhere(flag, port),
    }
}
