//! Shared by the programs of the benchmarks: arguments, the response body, and the service account of the tokens.

use std::error::Error;
use std::net::Ipv4Addr;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

/// A result whose error ends the program.
pub type AnyResult<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// The audience of the tokens.
pub const AUDIENCE: &str = "https://auth-server.example";
/// The namespace and the name of the tokens' service account.
pub const ACCOUNT: (&str, &str) = ("id-namespace", "gke-sa");
/// The body of all responses.
pub const BODY: &str = "a response of exactly sixty-four bytes, the same for both paths.";

/// The arguments of every server.
pub struct Settings {
    /// The port on loopback to listen on.
    pub port: u16,
    /// The URL of the issuer.
    pub issuer: String,
}

impl Settings {
    /// Parses the arguments `<port> <issuer>`.
    pub fn from_arguments() -> AnyResult<Self> {
        let [port, issuer] = arguments("<port> <issuer>")?;
        let port = port.parse()?;
        Ok(Self { port, issuer })
    }

    /// Opens the port.
    pub async fn listener(&self) -> AnyResult<TcpListener> {
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?)
    }

    /// Serves the body at `/`, and at `/private` behind the guard that `add_guard` adds to the route.
    pub async fn serve(&self, add_guard: impl FnOnce(Router) -> Router) -> AnyResult {
        let guarded = add_guard(Router::new().route("/private", get(body)));
        let app = guarded.route("/", get(body));
        Ok(axum::serve(self.listener().await?, app).await?)
    }
}

/// Returns the URL of an issuer's keys, for guards that do not find it themselves.
pub fn jwks_uri(issuer: &str) -> String {
    format!("{issuer}/openid/v1/jwks")
}

/// Returns the program's arguments, or `usage` as the error if their number is not `N`.
pub fn arguments<const N: usize>(usage: &str) -> AnyResult<[String; N]> {
    let given: Vec<_> = std::env::args().skip(1).collect();
    given.try_into().map_err(|_| usage.into())
}

async fn body() -> &'static str {
    BODY
}
