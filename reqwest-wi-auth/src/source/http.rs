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

pub(crate) use self::endpoint::Endpoint;
pub(crate) use self::form::form_body;
pub(crate) use self::redaction::Secrets;
pub(crate) use self::response::Response;
use crate::error::{Error, FetchError};
use crate::text::with_causes;

/// The content type of [`form_body`].
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_TIME_LIMIT: Duration = Duration::from_secs(10);

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
    Url(reqwest::Proxy),
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

    /// Sends requests through a proxy.
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
        self.proxy = Proxy::Url(proxy);
        Ok(())
    }

    /// Sends requests through the proxy in the environment variables `HTTPS_PROXY` or `HTTP_PROXY`, except to hosts listed in
    /// `NO_PROXY`.
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
    /// The client, unless it depends on a file, which may be replaced.
    client: Option<Client>,
}

impl HttpClient {
    /// Creates a client. The file of CA certificates may be missing until the first request.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Client`] if the HTTP client cannot be created.
    pub(crate) fn new(settings: HttpSettings) -> Result<Self, Error> {
        let client = match settings.ca_file {
            Some(_) => None,
            None => {
                let client = settings.builder().build();
                Some(client.map_err(|error| Error::Client(Arc::new(error)))?)
            }
        };
        Ok(Self { settings, client })
    }

    /// Returns how long a request takes at most, with a margin.
    pub(crate) fn limit(&self) -> Duration {
        self.settings.time_limit + Duration::from_secs(5)
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
        let client = match (&self.client, &self.settings.ca_file) {
            (Some(client), _) => client.clone(),
            (None, Some(path)) => self.client_with_ca(endpoint, path).await?,
            (None, None) => Client::new(),
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
        let path = path.to_owned();
        let pem = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        let pem = pem.map_err(|_| error("the runtime is shutting down".to_owned()))?;
        let pem = pem.map_err(|fault| error(with_causes(&fault)))?;
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

impl HttpSettings {
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
            Proxy::Url(proxy) => builder.proxy(proxy.clone()),
        }
    }
}
