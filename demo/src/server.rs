//! The server: an open path and a guarded one, behind a gate if that is asked for.

mod gate;
mod routes;
pub mod settings;
mod tls;
mod trust;

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use tokio::net::TcpListener;

pub use self::gate::Gate;
pub use self::routes::{OPEN, guarded, public};
use self::settings::ServerSettings;
use self::tls::TlsListener;
pub(crate) use self::trust::google;
use crate::Error;

/// Listens at an address; says which one it has become.
///
/// # Errors
///
/// [`Error::Listen`] where that is not possible.
pub async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Serves until the future `end` is done and the requests in flight are answered.
///
/// # Errors
///
/// [`Error::Io`] if no connections can be taken any more.
pub async fn serve<L: Listener<Addr = SocketAddr>>(
    listener: L,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let server = axum::serve(listener, routes).with_graceful_shutdown(end);
    server.await.map_err(Error::io("the server ended"))
}

/// Runs the program until `end` is done, and then for as long as requests in flight take, within the grace period.
///
/// # Errors
///
/// What is wrong with the settings, or with the port.
pub async fn run(
    settings: ServerSettings,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    end: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let guard = trust::guard(&settings).await?;
    let seen = |caller: &tower_oidc_guard::Identity| {
        tracing::info!(subject = caller.subject(), "let in");
    };
    let mut routes = guarded(&guard, seen);
    if let Some(gate) = Gate::from_settings(&settings.gate).await? {
        routes = gate.before(routes);
    }
    let routes = routes.merge(public(&guard, metrics));
    let routes = routes::with_layers(routes);

    let (listener, address) = listen(settings.socket()).await?;
    let drain = Duration::from_secs(settings.drain_seconds);
    let grace = Duration::from_secs(settings.grace_seconds);
    let (ending, ended) = tokio::sync::oneshot::channel::<()>();
    let end = async move {
        end.await;
        if !drain.is_zero() {
            tracing::info!("takes no more connections soon");
            tokio::time::sleep(drain).await;
        }
        tracing::info!("finishes what is under way");
        // Nobody waits where the server has ended by itself.
        let _ = ending.send(());
    };
    // Asks for the keys now, so that the first request need not wait; without them the server starts all the same.
    let ask = || drop(guard.health());
    let server = async {
        match settings.tls.files() {
            Some((certificate, key)) => {
                let listener = TlsListener::start(listener, address, certificate, key).await?;
                tracing::info!(%address, tls = true, "listening");
                ask();
                serve(listener, routes, end).await
            }
            None => {
                tracing::info!(%address, "listening");
                ask();
                serve(listener, routes, end).await
            }
        }
    };
    let patience = async {
        if ended.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        served = server => served,
        () = patience => {
            tracing::warn!("some requests were not done within the grace period");
            Ok(())
        }
    }
}
