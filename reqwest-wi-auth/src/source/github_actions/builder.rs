//! The settings of the client for ID tokens of GitHub Actions.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::{GitHubActions, REQUEST_TOKEN, REQUEST_URL};
use crate::error::Error;
use crate::origins::PlainHttp;
use crate::source::environment::{Environment, name_list};
use crate::source::http::{Endpoint, HttpClient, HttpSettings};
use crate::token::Token;

/// The domain of the hosts that issue tokens for github.com.
const ACTIONS_DOMAIN: &str = "actions.githubusercontent.com";

/// The settings of [`GitHubActions`]. Created by [`GitHubActions::builder`].
///
/// If a setting is set twice, the last value is used.
///
/// # Examples
///
/// Requests through a proxy, as in the network of a self-hosted runner:
///
/// ```
/// use reqwest_wi_auth::GitHubActions;
///
/// # fn main() -> Result<(), reqwest_wi_auth::Error> {
/// let github = GitHubActions::builder().proxy("http://proxy.example:3128")?;
/// # let github = github.request_url("https://github.example/idtoken").request_token("s3cr3t");
/// let github = github.build()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct GitHubActionsBuilder {
    request_url: Option<String>,
    request_token: Option<zeroize::Zeroizing<String>>,
    http: HttpSettings,
    environment: Environment,
}

impl GitHubActionsBuilder {
    pub(super) fn new() -> Self {
        Self {
            request_url: None,
            request_token: None,
            http: HttpSettings::default(),
            environment: Environment::default(),
        }
    }

    /// Sets the URL from which tokens are requested: https, or http for a host on loopback. Its host can be any. Default: the
    /// environment variable `ACTIONS_ID_TOKEN_REQUEST_URL`, whose host has to belong to GitHub; see
    /// [`GitHubActions::from_env`].
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::GitHubActions;
    ///
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// let github = GitHubActions::builder()
    ///     .request_url("https://runners.example/idtoken?api-version=2.0")
    ///     .request_token("s3cr3t")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn request_url(mut self, url: impl Into<String>) -> Self {
        self.request_url = Some(url.into());
        self
    }

    /// Sets the token that authenticates the requests. Default: the environment variable `ACTIONS_ID_TOKEN_REQUEST_TOKEN`.
    ///
    /// # Examples
    ///
    /// See [`request_url`](Self::request_url).
    pub fn request_token(mut self, token: impl Into<String>) -> Self {
        self.request_token = Some(zeroize::Zeroizing::new(token.into()));
        self
    }

    /// Trusts the CA certificates in a PEM file, in addition to those of the system. The file is read for each request.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::GitHubActions;
    ///
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// // GitHub Enterprise Server with a certificate of a private CA.
    /// let github = GitHubActions::builder().ca_file("/etc/ssl/private-ca.pem");
    /// # let github = github.request_url("https://github.example/idtoken").request_token("s3cr3t");
    /// let github = github.build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.http.set_ca_file(path.into());
        self
    }

    /// Sends requests through a proxy. Default: no proxy.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if the argument is not the URL of a proxy.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::GitHubActions;
    ///
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// let builder = GitHubActions::builder().proxy("http://proxy.example:3128")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy(mut self, url: &str) -> Result<Self, Error> {
        self.http.set_proxy(url)?;
        Ok(self)
    }

    /// Sends requests through the proxy in the environment variables `HTTPS_PROXY` or `HTTP_PROXY`, except to hosts listed in
    /// `NO_PROXY`. Default: no proxy.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::GitHubActions;
    ///
    /// let builder = GitHubActions::builder().proxy_from_environment();
    /// ```
    pub fn proxy_from_environment(mut self) -> Self {
        self.http.set_proxy_from_environment();
        self
    }

    /// Sets how long a request may take, including the connection and the body of the response. Default: 10 s.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::GitHubActions;
    ///
    /// let builder = GitHubActions::builder().time_limit(Duration::from_secs(30));
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.http.set_time_limit(limit);
        self
    }

    /// Sets the function that returns the values of environment variables, for tests. Default: the environment of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::GitHubActions;
    ///
    /// let error = GitHubActions::builder().environment(|_| None).build().unwrap_err();
    /// assert!(error.to_string().contains("id-token: write"));
    /// ```
    #[cfg(feature = "testing")]
    pub fn environment(
        self,
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with_environment(Environment::new(variable))
    }

    /// Sets the environment from which settings are read that are not set.
    pub(crate) fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Creates the client. Sends no request.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if a setting has no value, the URL is not https, the host of the URL in the environment does not
    /// belong to GitHub, or the request token contains anything other than visible ASCII characters, and [`Error::Client`] if the HTTP
    /// client cannot be created.
    pub fn build(self) -> Result<GitHubActions, Error> {
        let is_configured = self.request_url.is_some();
        let url = self
            .request_url
            .or_else(|| self.environment.get(REQUEST_URL));
        let from_env = || {
            self.environment
                .get(REQUEST_TOKEN)
                .map(zeroize::Zeroizing::new)
        };
        let token = self.request_token.or_else(from_env);
        let (Some(url), Some(token)) = (&url, &token) else {
            let missing = [
                (REQUEST_URL, url.is_none()),
                (REQUEST_TOKEN, token.is_none()),
            ];
            let missing = missing.iter().filter(|(_, is_missing)| *is_missing);
            let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
            return Err(missing_variables(&missing, &self.environment));
        };
        let endpoint = Endpoint::parse(url, PlainHttp::LoopbackOnly);
        let endpoint = endpoint.map_err(|error| Error::Configuration {
            location: format!("the request URL ({REQUEST_URL})"),
            reason: error.to_string(),
        })?;
        if !is_configured {
            check_host(&endpoint, &self.environment)?;
        }
        let request_token = Token::opaque(token.as_bytes());
        let request_token = request_token.map_err(|error| Error::Configuration {
            location: format!("the request token ({REQUEST_TOKEN})"),
            reason: error.to_string(),
        })?;
        Ok(GitHubActions {
            http: HttpClient::new(self.http)?,
            endpoint,
            request_token,
        })
    }
}

impl fmt::Debug for GitHubActionsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitHubActionsBuilder")
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}

fn missing_variables(missing: &[&str], environment: &Environment) -> Error {
    let is_job = environment.get("GITHUB_ACTIONS").as_deref() == Some("true");
    let where_it_runs = if is_job {
        "this process runs in a job of GitHub Actions, which lacks a permission"
    } else {
        "this process may not run in a job of GitHub Actions (GITHUB_ACTIONS is not `true`)"
    };
    let verb = if missing.len() == 1 { "is" } else { "are" };
    Error::Configuration {
        location: "the environment of GitHub Actions".to_owned(),
        reason: format!(
            "{} {verb} not set; {where_it_runs}; the runner sets both variables in a job with `permissions: id-token: write`, which \
             is not granted to pull requests from forks",
            name_list(missing)
        ),
    }
}

/// Returns an error if the host does not belong to GitHub. A step of the job could set the variable for later steps, and receive the
/// request token.
fn check_host(endpoint: &Endpoint, environment: &Environment) -> Result<(), Error> {
    let url = endpoint.url();
    let host = url.host_str().unwrap_or_default();
    let server = environment.get("GITHUB_SERVER_URL");
    let server = server.and_then(|server| reqwest::Url::parse(&server).ok());
    let server = server.as_ref().and_then(reqwest::Url::host_str);
    let is_in = |domain: &str| {
        host.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Plain http is accepted for a host on loopback only.
    let is_loopback = url.scheme() == "http";
    if is_loopback || is_in(ACTIONS_DOMAIN) || server.is_some_and(is_in) {
        return Ok(());
    }
    let server = server.map(|server| format!(", {server} (GITHUB_SERVER_URL)"));
    Err(Error::Configuration {
        location: REQUEST_URL.to_owned(),
        reason: format!(
            "found the host {host:?}, expected one in {ACTIONS_DOMAIN}{}; if the URL is right, set it with \
             `GitHubActionsBuilder::request_url`",
            server.unwrap_or_default()
        ),
    })
}
