//! What all programs here share: their arguments, the page, and the service account that may read it.

use std::error::Error;
use std::net::Ipv4Addr;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

/// Whatever goes wrong ends the program.
pub type Anything<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// What the tokens are for.
pub const AUDIENCE: &str = "https://auth-server.example";
/// The namespace and the name of the tokens' service account.
pub const ACCOUNT: (&str, &str) = ("id-namespace", "gke-sa");
/// What both paths answer.
pub const PAGE: &str = "the same page of sixty-four bytes for all who are let in to read";

/// The arguments that every server takes.
pub struct Settings {
    /// Where to listen on loopback.
    pub port: u16,
    /// Who signs the tokens.
    pub issuer: String,
}

impl Settings {
    /// `<port> <issuer>`.
    pub fn from_arguments() -> Anything<Self> {
        let [port, issuer] = arguments("<port> <issuer>")?;
        let port = port.parse()?;
        Ok(Self { port, issuer })
    }

    /// The port, listened at.
    pub async fn listener(&self) -> Anything<TcpListener> {
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?)
    }

    /// Serves the page at `/`, and at `/private` what `guarded` makes of the page's route.
    pub async fn serve(&self, guarded: impl FnOnce(Router) -> Router) -> Anything {
        let app = guarded(Router::new().route("/private", get(page))).route("/", get(page));
        Ok(axum::serve(self.listener().await?, app).await?)
    }
}

/// So many arguments, or how to call the program.
pub fn arguments<const N: usize>(usage: &str) -> Anything<[String; N]> {
    let given: Vec<_> = std::env::args().skip(1).collect();
    given.try_into().map_err(|_| usage.into())
}

async fn page() -> &'static str {
    PAGE
}
