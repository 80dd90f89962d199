//! The settings of the choice of a source.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::super::TokenSource;
use super::super::azure::AzureWorkloadIdentity;
use super::super::environment::Environment;
use super::super::google::GoogleFederation;
use super::super::token_request::TokenRequest;
use super::{Ambient, AmbientSource, AmbientToken};
use crate::error::Error;

/// The default directory for projected tokens.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/tokens";
/// The directory of the token that Kubernetes mounts into pods.
const SERVICE_ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The file that contains the name of the machine's product.
const PRODUCT_NAME: &str = "/sys/class/dmi/id/product_name";

/// The settings of an [`Ambient`]. Created by [`Ambient::builder`].
///
/// If a setting is set twice, the last value is used; those that add something add to earlier ones.
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` or `open` is called"]
pub struct AmbientBuilder(Settings);

/// The settings of an [`Ambient`].
pub(super) struct Settings {
    pub(super) off: Vec<AmbientSource>,
    pub(super) fallback: Option<Arc<dyn TokenSource>>,
    pub(super) environment: Environment,
    pub(super) token_directory: PathBuf,
    pub(super) service_account_directory: PathBuf,
    pub(super) product_name: PathBuf,
    pub(super) google_origins: Vec<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) proxy: Proxy,
    pub(super) clients: Clients,
}

/// The clients that were created, since the sources of all audiences share them.
#[derive(Default)]
pub(super) struct Clients {
    pub(super) google: OnceLock<GoogleFederation>,
    pub(super) azure: OnceLock<AzureWorkloadIdentity>,
    pub(super) token_request: OnceLock<TokenRequest>,
}

/// The proxy of requests to Google, Azure and GitHub.
pub(super) enum Proxy {
    None,
    Url(String),
    FromEnvironment,
}

impl AmbientBuilder {
    pub(super) fn new() -> Self {
        Self(Settings {
            off: Vec::new(),
            fallback: None,
            environment: Environment::default(),
            token_directory: TOKEN_DIRECTORY.into(),
            service_account_directory: SERVICE_ACCOUNT_DIRECTORY.into(),
            product_name: PRODUCT_NAME.into(),
            google_origins: Vec::new(),
            ca_file: None,
            proxy: Proxy::None,
            clients: Clients::default(),
        })
    }

    /// Switches a source off: it is neither looked for nor used.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::{Ambient, AmbientSource};
    ///
    /// // Tokens of the cluster, not of Google, on GKE too.
    /// let ambient = Ambient::builder()
    ///     .without(AmbientSource::GoogleFederation)
    ///     .without(AmbientSource::MetadataServer)
    ///     .build();
    /// ```
    pub fn without(mut self, source: AmbientSource) -> Self {
        if !self.0.off.contains(&source) {
            self.0.off.push(source);
        }
        self
    }

    /// Sets the source that is used if there is no other one: for workstations. Default: none.
    ///
    /// It is used for every audience, whatever its tokens are for.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::{Ambient, CommandToken};
    ///
    /// let kubectl = CommandToken::new("kubectl")
    ///     .args(["create", "token", "gke-sa", "--namespace", "id-namespace"])
    ///     .args(["--audience", "https://auth-server.example"]);
    /// let ambient = Ambient::builder().fallback(kubectl).build();
    /// ```
    pub fn fallback(mut self, source: impl TokenSource) -> Self {
        self.0.fallback = Some(Arc::new(source));
        self
    }

    /// Sets the directory in which projected tokens are looked for. Default: `/var/run/secrets/tokens`.
    ///
    /// Files in subdirectories are not found.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::Ambient;
    ///
    /// let ambient = Ambient::builder().token_directory("/var/run/secrets/identity").build();
    /// ```
    pub fn token_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.token_directory = path.into();
        self
    }

    /// Adds a server that a credential configuration of Google may name, as
    /// [`GoogleFederationBuilder::allow_origin`](crate::GoogleFederationBuilder::allow_origin) does. Default: Google's servers
    /// only.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::Ambient;
    ///
    /// let ambient = Ambient::builder().allow_google_origin("https://sts.restricted.example").build();
    /// ```
    pub fn allow_google_origin(mut self, origin: impl Into<String>) -> Self {
        self.0.google_origins.push(origin.into());
        self
    }

    /// Sets a file with further CA certificates, in PEM, for requests to Google, Azure and GitHub. Default: those of the system.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::Ambient;
    ///
    /// let ambient = Ambient::builder().ca_file("/etc/ssl/company.pem").build();
    /// ```
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.0.ca_file = Some(path.into());
        self
    }

    /// Sets the proxy for requests to Google, Azure and GitHub. Default: none.
    ///
    /// Requests to the metadata server and to the API server of the cluster do not go through it.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::Ambient;
    ///
    /// let ambient = Ambient::builder().proxy("http://proxy.example:3128").build();
    /// ```
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.0.proxy = Proxy::Url(url.into());
        self
    }

    /// Uses the proxy in `HTTPS_PROXY` and `NO_PROXY` for requests to Google, Azure and GitHub. Default: none.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::Ambient;
    ///
    /// let ambient = Ambient::builder().proxy_from_environment().build();
    /// ```
    pub fn proxy_from_environment(mut self) -> Self {
        self.0.proxy = Proxy::FromEnvironment;
        self
    }

    /// Sets the function that returns the values of environment variables, for tests. Default: [`std::env::var`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use reqwest_wi_auth::{Ambient, AmbientSource, testing::FakeMetadataServer};
    ///
    /// let metadata = FakeMetadataServer::start().await?;
    /// let host = metadata.host().to_owned();
    /// let token = Ambient::builder()
    ///     .environment(move |name| (name == "GCE_METADATA_HOST").then(|| host.clone()))
    ///     .open("https://auth-server.example")
    ///     .await?;
    /// assert_eq!(token.health().source, Some(AmbientSource::MetadataServer));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn environment(
        mut self,
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.0.environment = Environment::new(variable);
        self
    }

    /// Sets the directory that contains the directories and files with fixed paths, in place of `/`, for tests: the directory for
    /// projected tokens, that of the service account, and the name of the machine's product. Paths in environment variables
    /// are not changed.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use reqwest_wi_auth::{Ambient, AmbientSource, testing::Kubelet};
    ///
    /// let root = tempfile::tempdir()?;
    /// let kubelet = Kubelet::new(root.path().join("var/run/secrets/tokens"))?;
    /// // {"aud":"a"}
    /// kubelet.write([("gke-sa", "eyJhbGciOiJub25lIn0.eyJhdWQiOiJhIn0.c2ln")])?;
    /// let ambient = Ambient::builder().environment(|_| None).root_directory(root.path()).build();
    /// assert_eq!(ambient.open("a").await?.health().source, Some(AmbientSource::ProjectedToken));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    #[cfg(feature = "testing")]
    pub fn root_directory(mut self, path: impl AsRef<std::path::Path>) -> Self {
        let below = |fixed: &str| path.as_ref().join(fixed.trim_start_matches('/'));
        self.0.token_directory = below(TOKEN_DIRECTORY);
        self.0.service_account_directory = below(SERVICE_ACCOUNT_DIRECTORY);
        self.0.product_name = below(PRODUCT_NAME);
        self
    }

    /// Returns the settings as a value that opens sources. Inspects nothing yet.
    pub fn build(self) -> Ambient {
        Ambient::new(self.0)
    }

    /// Opens a source of tokens for an audience, and waits for the first token, like [`Ambient::open`].
    ///
    /// # Errors
    ///
    /// Returns [`Error::Ambient`] if no source was chosen, and otherwise the errors of opening it.
    ///
    /// # Panics
    ///
    /// Panics if the timer or the I/O of the tokio runtime is not enabled.
    pub async fn open(self, audience: &str) -> Result<AmbientToken, Error> {
        self.build().open(audience).await
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("off", &self.off)
            .field("token_directory", &self.token_directory)
            .field("google_origins", &self.google_origins)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}
