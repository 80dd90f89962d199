//! The HTTP client for requests that contain credentials, to servers that exchange or issue tokens.
//!
//! A request goes to the configured endpoint only: redirects are not followed, and no proxy is used unless one is chosen.

mod endpoint;
mod form;
mod redaction;
mod response;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, RequestBuilder};
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(crate) use self::endpoint::Endpoint;
pub(crate) use self::form::form_body;
pub(crate) use self::redaction::Secrets;
pub(crate) use self::response::Response;
use crate::error::{Error, FetchError};
use crate::text::with_causes;
use crate::watched_file::WatchedFile;

/// The content type of [`form_body`].
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(10);
/// The longest time limit that can be set.
const MAX_TIME_LIMIT: Duration = Duration::from_secs(3600);

/// The settings of an [`HttpClient`].
#[derive(Clone)]
pub(crate) struct HttpSettings {
    ca_file: Option<PathBuf>,
    trust: Trust,
    proxy: Proxy,
    time_limit: Duration,
}

/// Which CA certificates are trusted if there is a file of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Those of the file and those of the system.
    FileAndSystem,
    /// Those of the file.
    File,
}

#[derive(Clone)]
enum Proxy {
    None,
    /// That of the environment variables `HTTPS_PROXY` and so on.
    Environment,
    /// May contain a password.
    Url(Box<reqwest::Proxy>),
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            ca_file: None,
            trust: Trust::FileAndSystem,
            proxy: Proxy::None,
            time_limit: DEFAULT_TIME_LIMIT,
        }
    }
}

impl HttpSettings {
    /// Trusts the CA certificates in a PEM file, in addition to those of the system. The file is read for each request.
    pub(crate) fn set_ca_file(&mut self, path: PathBuf) {
        self.ca_file = Some(path);
        self.trust = Trust::FileAndSystem;
    }

    /// Trusts only the CA certificates in a PEM file. The file is read for each request.
    pub(crate) fn set_only_ca_file(&mut self, path: PathBuf) {
        self.ca_file = Some(path);
        self.trust = Trust::File;
    }

    /// Sends requests through a proxy, except those over plain http to loopback.
    ///
    /// # Errors
    ///
    /// Returns an error if the argument is not the URL of a proxy.
    pub(crate) fn set_proxy(&mut self, url: &str) -> Result<(), Error> {
        // The text of the error may contain the URL, and with it a password.
        let proxy = reqwest::Proxy::all(url).map_err(|_| Error::Configuration {
            location: "the URL of the proxy".to_owned(),
            reason: "expected a URL such as http://proxy.example:3128".to_owned(),
        })?;
        self.proxy = Proxy::Url(Box::new(proxy));
        Ok(())
    }

    /// Sends requests through the proxy in the environment variables `HTTPS_PROXY` or `HTTP_PROXY`, except to hosts listed in
    /// `NO_PROXY`, and over plain http to loopback.
    pub(crate) fn set_proxy_from_environment(&mut self) {
        self.proxy = Proxy::Environment;
    }

    /// Returns these settings without a proxy, for a server on the same machine or network.
    pub(crate) fn without_proxy(&self) -> Self {
        Self {
            proxy: Proxy::None,
            ..self.clone()
        }
    }

    /// Sets how long a request may take, including the connection and the body of the response.
    pub(crate) fn set_time_limit(&mut self, limit: Duration) {
        self.time_limit = limit;
    }
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("ca_file", &self.ca_file)
            .field("time_limit", &self.time_limit)
            .finish_non_exhaustive()
    }
}

/// An HTTP client for requests that contain credentials.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    settings: HttpSettings,
    client: Prepared,
}

#[derive(Debug, Clone)]
enum Prepared {
    Client(Client),
    /// The client depends on a file of CA certificates, which may be replaced, so it is created for each request.
    WithCaFile(PathBuf),
}

impl HttpClient {
    /// Creates a client. The file of CA certificates may be missing until the first request.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if the time limit is zero or longer than an hour, and [`Error::Client`] if the HTTP
    /// client cannot be created.
    pub(crate) fn new(settings: HttpSettings) -> Result<Self, Error> {
        if settings.time_limit.is_zero() || settings.time_limit > MAX_TIME_LIMIT {
            return Err(Error::Configuration {
                location: "the time limit of a request".to_owned(),
                reason: format!(
                    "found {:?}, expected more than 0 s and at most 1 h",
                    settings.time_limit
                ),
            });
        }
        let client = match &settings.ca_file {
            Some(path) => Prepared::WithCaFile(path.clone()),
            None => {
                let client = settings.builder().build();
                Prepared::Client(client.map_err(|error| Error::Client(Arc::new(error)))?)
            }
        };
        Ok(Self { settings, client })
    }

    /// Returns how long a request takes at most, with a margin: the file of CA certificates is read first.
    pub(crate) fn limit(&self) -> Duration {
        2 * self.settings.time_limit + Duration::from_secs(5)
    }

    /// Sends a request to an endpoint, and returns the response, whatever its status is. `build` creates the request.
    /// `secrets` are the credentials in the request, which are removed from texts of the response.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no response within the time limit, or its body is larger than 64 KiB.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        secrets: Secrets,
        build: impl FnOnce(&Client) -> RequestBuilder + Send,
    ) -> Result<Response, FetchError> {
        // Plain http to loopback is private only as long as it stays on this machine.
        let is_direct = endpoint.is_plain_loopback() && self.settings.has_proxy();
        let client = match &self.client {
            _ if is_direct => {
                let client = self.settings.without_proxy().builder().build();
                client.map_err(|error| self.request_error(endpoint, error))?
            }
            Prepared::Client(client) => client.clone(),
            Prepared::WithCaFile(path) => self.client_with_ca(endpoint, path).await?,
        };
        let response = build(&client).send().await;
        let error = |error| self.request_error(endpoint, error);
        Response::read(endpoint, response.map_err(error)?, secrets, error).await
    }

    async fn client_with_ca(&self, endpoint: &Endpoint, path: &Path) -> Result<Client, FetchError> {
        let error = |reason: String| FetchError::CaFile {
            endpoint: endpoint.to_string(),
            path: path.to_owned(),
            reason,
        };
        let unusable = |fault: reqwest::Error| error(with_causes(&fault));
        let limit = self.settings.time_limit;
        let Ok(pem) = timeout(limit, read_file(path.to_owned())).await else {
            return Err(error(format!("the file was not read within {limit:?}")));
        };
        let pem = pem.map_err(error)?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(unusable)?;
        if certificates.is_empty() {
            return Err(error("it does not contain a certificate".to_owned()));
        }
        let builder = self.settings.builder();
        let builder = match self.settings.trust {
            Trust::FileAndSystem => builder.tls_certs_merge(certificates),
            Trust::File => builder.tls_certs_only(certificates),
        };
        builder.build().map_err(unusable)
    }

    fn request_error(&self, endpoint: &Endpoint, error: reqwest::Error) -> FetchError {
        let is_connect = error.is_connect();
        let endpoint = endpoint.to_string();
        // The URL is removed from the message, since it is that of the endpoint.
        let source = Arc::new(error.without_url());
        if is_connect {
            return FetchError::Unreachable { endpoint, source };
        }
        FetchError::NoResponse {
            endpoint,
            limit: self.settings.time_limit,
            source,
        }
    }
}

/// Reads a regular file on a separate thread, so that neither the runtime nor its end waits for a read that blocks.
async fn read_file(path: PathBuf) -> Result<Vec<u8>, String> {
    let (sender, receiver) = oneshot::channel();
    let read = move || {
        let content = WatchedFile::read_once(&path, |bytes| Ok(bytes.to_vec()));
        // The receiver is gone if the time limit has passed.
        let _ = sender.send(content.map_err(|error| with_causes(&error)));
    };
    let thread = std::thread::Builder::new().name("ca-file".to_owned());
    thread.spawn(read).map_err(|error| error.to_string())?;
    let closed = |_| "the thread that read the file has ended".to_owned();
    receiver.await.map_err(closed)?
}

impl HttpSettings {
    fn has_proxy(&self) -> bool {
        !matches!(self.proxy, Proxy::None)
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(self.time_limit))
            .timeout(self.time_limit)
            // A connection does not outlive the runtime of the task that opened it.
            .pool_max_idle_per_host(0);
        match &self.proxy {
            Proxy::None => builder.no_proxy(),
            Proxy::Environment => builder,
            Proxy::Url(proxy) => builder.proxy(reqwest::Proxy::clone(proxy)),
        }
    }
}
