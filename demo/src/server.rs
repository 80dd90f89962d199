//! The server: an open path and guarded ones, behind a platform gate if one is configured.

mod check_policy;
pub mod command_line;
mod explain;
mod gate;
mod guard;
mod handshakes;
mod listener;
mod metrics;
mod request_body;
mod routes;
pub mod settings;
mod tls;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use self::check_policy::{PolicyValidity, check_policy};
pub use self::explain::{Admission, explain};
pub use self::gate::Gate;
pub(crate) use self::guard::google_issuer;
pub use self::listener::{Limits, listen};
use self::listener::{listen_on, listen_on_all_addresses};
pub use self::metrics::Metrics;
pub use self::routes::{OPEN_BODY, admin_routes, application_routes};
use self::settings::ServerSettings;
use crate::signals::Shutdown;
use crate::{Error, output};

/// How much longer than its drain and grace periods together the server may take to end.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(1);
/// The flag and the environment variable of the admin port.
const ADMIN_PORT: &str = "--admin-port (ADMIN_PORT)";
/// The largest number of connections that are served at a time on the admin port: a scraper and probes need only a few.
const MAX_ADMIN_CONNECTIONS: usize = 64;

/// Serves plain HTTP until `end` completes and the requests in flight are answered.
pub async fn serve(
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) {
    listener::serve(listener, None, routes, Limits::default(), end).await;
}

/// Runs `auth-server` until it is asked to end.
///
/// After the request to end, connections are accepted for the drain period. Then requests in flight are answered within the
/// grace period, and those that take longer are dropped.
///
/// # Errors
///
/// If the settings are invalid, or a port cannot be listened on.
pub async fn run(
    settings: ServerSettings,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> Result<(), Error> {
    // Until the time limit is set below, a signal ends the process at once: no request is in flight.
    let guard = guard::build(&settings).await?;
    guard::log_settings(&settings);
    if settings.audit && !tracing::enabled!(target: "oidc_guard::audit", tracing::Level::INFO) {
        output::warn_always(
            "--audit is set, but RUST_LOG hides the target oidc_guard::audit; add oidc_guard::audit=info to it",
        );
    }
    let log_caller = |caller: Option<&tower_oidc_guard::Identity>| {
        let subject = caller.map_or("anonymous", |caller| caller.subject());
        tracing::info!(subject, "request admitted");
    };
    let mut application = application_routes(&guard, log_caller);
    if let Some(gate) = Gate::from_settings(&settings.gate).await? {
        application = gate.protect(application);
    }
    let tls = match settings.tls.files() {
        Some((certificate, key)) => Some(tls::acceptor(certificate, key).await?),
        None => None,
    };
    let (listener, address) = bind("--port (PORT)", settings.address, settings.port)?;
    let rendered = metrics.clone();
    let admin = admin_routes(&guard, move || rendered.render());
    let limits = settings.limits.limits();
    let (routes, separate_admin) = match settings.admin_port {
        Some(port) => {
            let (listener, address) = bind(ADMIN_PORT, settings.address, port)?;
            let routes = routes::with_layers(application, Router::new());
            (routes, Some((listener, address, admin)))
        }
        None => (routes::with_layers(application, admin), None),
    };

    let drain = Duration::from_secs(settings.drain_seconds);
    let grace = Duration::from_secs(settings.grace_seconds);
    shutdown.set_time_limit(drain + grace + SHUTDOWN_MARGIN);
    let (drained_sender, drained) = oneshot::channel::<()>();
    let requested = shutdown.requested();
    let end = async move {
        requested.await;
        if !drain.is_zero() {
            tracing::info!(
                seconds = drain.as_secs(),
                "shutting down; still accepting connections for the drain period"
            );
            tokio::time::sleep(drain).await;
        }
        tracing::info!("shutting down; finishing the requests in flight");
        // The receiver is gone if the server has already ended.
        let _ = drained_sender.send(());
    };
    tokio::spawn(metrics.upkeep());
    if tls.is_some() {
        tracing::info!(%address, tls = true, "listening");
    } else {
        tracing::info!(%address, "listening");
    }
    if let Some((listener, address, admin)) = separate_admin {
        tracing::info!(%address, "serving /healthz, /readyz and /metrics");
        // These are served until the process ends, so that its shutdown can be observed.
        serve_admin(listener, admin, limits);
    }
    // The first request then does not have to wait for the keys. The server also starts if they cannot be fetched.
    guard.prefetch();
    let grace_period_over = async {
        if drained.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = listener::serve(listener, tls, routes, limits, end) => {}
        () = grace_period_over => {
            tracing::warn!("requests in flight were dropped at the end of the grace period");
        }
    }
    Ok(())
}

/// Serves the metrics of a program without a server at `/metrics`, over plain http on a separate port, until the process ends.
///
/// # Errors
///
/// [`Error::Listen`] if the port cannot be listened on.
pub(crate) fn serve_metrics(
    address: Option<IpAddr>,
    port: u16,
    metrics: Metrics,
) -> Result<(), Error> {
    let (listener, address) = bind(ADMIN_PORT, address, port)?;
    let rendered = metrics.clone();
    let routes = routes::metrics_route(move || rendered.render());
    tokio::spawn(metrics.upkeep());
    tracing::info!(%address, "serving /metrics");
    serve_admin(listener, routes, Limits::default());
    Ok(())
}

/// Serves the routes of an admin port, over plain http, until the process ends.
fn serve_admin(listener: TcpListener, routes: Router, limits: Limits) {
    let limits = Limits {
        connections: MAX_ADMIN_CONNECTIONS,
        ..limits
    };
    let routes = routes::with_limits(routes);
    let never = std::future::pending();
    tokio::spawn(listener::serve(listener, None, routes, limits, never));
}

/// Listens on a port, at the configured address or at all addresses. `flag` is the flag that sets the port.
fn bind(
    flag: &'static str,
    address: Option<IpAddr>,
    port: u16,
) -> Result<(TcpListener, SocketAddr), Error> {
    match address {
        Some(address) => listen_on(flag, SocketAddr::new(address, port)),
        None => listen_on_all_addresses(flag, port),
    }
}
