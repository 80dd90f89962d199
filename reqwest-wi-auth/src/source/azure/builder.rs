//! The settings of the client for tokens of Microsoft Entra ID.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::AzureWorkloadIdentity;
use crate::error::Error;
use crate::origins::PlainHttp;
use crate::source::TokenSource;
use crate::source::environment::{Environment, name_list};
use crate::source::http::{Endpoint, HttpClient, HttpSettings};
use crate::source::token_file::TokenFile;

const CLIENT_ID: &str = "AZURE_CLIENT_ID";
const TENANT_ID: &str = "AZURE_TENANT_ID";
const TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const AUTHORITY_HOST: &str = "AZURE_AUTHORITY_HOST";

const DEFAULT_AUTHORITY: &str = "https://login.microsoftonline.com/";

/// Entra's hosts in all clouds, as the client libraries of Microsoft know them.
const ENTRA_HOSTS: [&str; 13] = [
    "login.microsoftonline.com",
    "login.microsoft.com",
    "login.windows.net",
    "sts.windows.net",
    "login-us.microsoftonline.com",
    "login.microsoftonline.us",
    "login.usgovcloudapi.net",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
    "login.microsoftonline.de",
    "login.sovcloud-identity.fr",
    "login.sovcloud-identity.de",
    "login.sovcloud-identity.sg",
];

/// The settings of [`AzureWorkloadIdentity`]. Created by [`AzureWorkloadIdentity::builder`].
///
/// If a setting is set twice, the last value is used.
///
/// # Examples
///
/// The identity of a job of GitHub Actions as an application of Entra:
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{AzureWorkloadIdentity, GitHubActions};
///
/// let github = GitHubActions::from_env()?;
/// let azure = AzureWorkloadIdentity::builder()
///     .client_id("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
///     .tenant_id("11111111-2222-3333-4444-555555555555")
///     .subject(github.start("api://AzureADTokenExchange"))
///     .build()?;
/// let token = azure.open("https://graph.microsoft.com").await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct AzureWorkloadIdentityBuilder {
    client_id: Option<String>,
    tenant_id: Option<String>,
    authority_host: Option<String>,
    subject: Option<Arc<dyn TokenSource>>,
    http: HttpSettings,
    environment: Environment,
}

impl AzureWorkloadIdentityBuilder {
    pub(super) fn new() -> Self {
        Self {
            client_id: None,
            tenant_id: None,
            authority_host: None,
            subject: None,
            http: HttpSettings::default(),
            environment: Environment::default(),
        }
    }

    /// Sets the client ID of the application or managed identity whose tokens are requested. Default: the environment variable
    /// `AZURE_CLIENT_ID`.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::{AzureWorkloadIdentity, ProjectedToken};
    ///
    /// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// let azure = AzureWorkloadIdentity::builder()
    ///     .client_id("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
    ///     .tenant_id("11111111-2222-3333-4444-555555555555")
    ///     .subject(ProjectedToken::open("/var/run/secrets/tokens/entra").await?)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// Sets the ID or a domain name of the tenant. Default: the environment variable `AZURE_TENANT_ID`.
    ///
    /// # Examples
    ///
    /// See [`client_id`](Self::client_id).
    pub fn tenant_id(mut self, tenant_id: impl Into<String>) -> Self {
        self.tenant_id = Some(tenant_id.into());
        self
    }

    /// Sets the source of the workload's token, which is the assertion of the requests. Its audience has to be that of the
    /// federated credential: `api://AzureADTokenExchange` by default. Default: the file in the environment variable
    /// `AZURE_FEDERATED_TOKEN_FILE`, which is followed like a [`ProjectedToken`](crate::ProjectedToken).
    ///
    /// # Examples
    ///
    /// See [`client_id`](Self::client_id).
    pub fn subject(mut self, subject: impl TokenSource) -> Self {
        self.subject = Some(Arc::new(subject));
        self
    }

    /// Sets the URL of Entra in the tenant's cloud: https, or http for a host on loopback. Default: the environment variable
    /// `AZURE_AUTHORITY_HOST`, or `https://login.microsoftonline.com/` if it is not set.
    ///
    /// The host in this setting can be any. The one in the variable has to belong to Entra in a public or sovereign cloud, or to be
    /// on loopback, since the server gets the workload's token.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::AzureWorkloadIdentity;
    ///
    /// let builder = AzureWorkloadIdentity::builder().authority_host("https://login.microsoftonline.us/");
    /// ```
    pub fn authority_host(mut self, url: impl Into<String>) -> Self {
        self.authority_host = Some(url.into());
        self
    }

    /// Trusts the CA certificates in a PEM file, in addition to those of the system. The file is read for each request.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::AzureWorkloadIdentity;
    ///
    /// let builder = AzureWorkloadIdentity::builder().ca_file("/etc/ssl/private-ca.pem");
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
    /// use reqwest_wi_auth::AzureWorkloadIdentity;
    ///
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// let builder = AzureWorkloadIdentity::builder().proxy("http://proxy.example:3128")?;
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
    /// use reqwest_wi_auth::AzureWorkloadIdentity;
    ///
    /// let builder = AzureWorkloadIdentity::builder().proxy_from_environment();
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
    /// use reqwest_wi_auth::AzureWorkloadIdentity;
    ///
    /// let builder = AzureWorkloadIdentity::builder().time_limit(Duration::from_secs(30));
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
    /// use reqwest_wi_auth::AzureWorkloadIdentity;
    ///
    /// let error = AzureWorkloadIdentity::builder().environment(|_| None).build().unwrap_err();
    /// assert!(error.to_string().contains("AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE are not set"));
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

    /// Creates the client. Sends no request, and reads no file yet.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if a setting has no value or one that cannot be used, and [`Error::Client`] if the HTTP
    /// client cannot be created.
    pub fn build(self) -> Result<AzureWorkloadIdentity, Error> {
        let environment = &self.environment;
        let value = |setting: Option<String>, variable| {
            let setting = setting.map(|value| value.trim().to_owned());
            let setting = setting.filter(|value| !value.is_empty());
            setting.or_else(|| environment.get(variable))
        };
        let client_id = value(self.client_id, CLIENT_ID);
        let tenant_id = value(self.tenant_id, TENANT_ID);
        let from_file = || {
            let file = TokenFile::new(environment.get(TOKEN_FILE)?);
            Some(Arc::new(file) as Arc<dyn TokenSource>)
        };
        let subject = self.subject.or_else(from_file);
        let (Some(client_id), Some(tenant_id), Some(subject)) = (&client_id, &tenant_id, &subject)
        else {
            let settings = [
                (CLIENT_ID, client_id.is_none()),
                (TENANT_ID, tenant_id.is_none()),
                (TOKEN_FILE, subject.is_none()),
            ];
            let missing = settings.iter().filter(|(_, is_missing)| *is_missing);
            let missing: Vec<_> = missing.map(|(name, _)| *name).collect();
            return Err(missing_variables(&missing));
        };
        // An empty setting is like none.
        let is_configured = self
            .authority_host
            .as_deref()
            .is_some_and(|host| !host.trim().is_empty());
        let authority = value(self.authority_host, AUTHORITY_HOST);
        let authority = authority.as_deref().unwrap_or(DEFAULT_AUTHORITY);
        let endpoint = token_endpoint(authority, tenant_id)?;
        if !is_configured {
            check_host(&endpoint)?;
        }
        Ok(AzureWorkloadIdentity {
            http: HttpClient::new(self.http)?,
            endpoint,
            client_id: client_id.clone(),
            subject: subject.clone(),
        })
    }
}

impl fmt::Debug for AzureWorkloadIdentityBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureWorkloadIdentityBuilder")
            .field("client_id", &self.client_id)
            .field("tenant_id", &self.tenant_id)
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}

fn missing_variables(missing: &[&str]) -> Error {
    let verb = if missing.len() == 1 { "is" } else { "are" };
    Error::Configuration {
        location: "the environment of Azure workload identity".to_owned(),
        reason: format!(
            "{} {verb} not set; Azure's webhook sets the variables in pods with the label `azure.workload.identity/use: \"true\"` \
             whose service account has the annotation `azure.workload.identity/client-id`; elsewhere, set them or use \
             `AzureWorkloadIdentity::builder`",
            name_list(missing)
        ),
    }
}

/// Returns the token endpoint of a tenant.
fn token_endpoint(authority: &str, tenant_id: &str) -> Result<Endpoint, Error> {
    // The ID becomes a segment of the URL.
    let is_tenant = tenant_id.contains(|c: char| c.is_ascii_alphanumeric())
        && tenant_id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    if !is_tenant {
        return Err(Error::Configuration {
            location: format!("the tenant ID ({TENANT_ID})"),
            reason: format!("found {tenant_id:?}, expected an ID or a domain name"),
        });
    }
    let with_scheme = if authority.contains("://") {
        authority.to_owned()
    } else {
        format!("https://{authority}")
    };
    let authority = Endpoint::parse(&with_scheme, PlainHttp::LoopbackOnly);
    let authority = authority.map_err(|error| Error::Configuration {
        location: format!("the authority host ({AUTHORITY_HOST})"),
        reason: error.to_string(),
    })?;
    let path = authority.url().path().trim_end_matches('/');
    Ok(authority.with_path(&format!("{path}/{tenant_id}/oauth2/v2.0/token")))
}

/// Returns an error if the host does not belong to Entra.
fn check_host(endpoint: &Endpoint) -> Result<(), Error> {
    let host = endpoint.url().host_str().unwrap_or_default();
    // Plain http is accepted for a host on loopback only.
    let is_loopback = endpoint.url().scheme() == "http";
    // Such as that of a region.
    let is_regional = host.ends_with(".login.microsoft.com");
    if is_loopback || is_regional || ENTRA_HOSTS.contains(&host) {
        return Ok(());
    }
    Err(Error::Configuration {
        location: AUTHORITY_HOST.to_owned(),
        reason: format!(
            "found the host {host:?}, expected one that belongs to Entra, such as login.microsoftonline.com; if it is right, set it with \
             `AzureWorkloadIdentityBuilder::authority_host`"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_endpoint_is_below_the_authority_host() {
        let endpoint =
            |authority| token_endpoint(authority, "contoso.example").map(|url| url.to_string());
        for (authority, expected) in [
            (
                "https://login.microsoftonline.com/",
                "https://login.microsoftonline.com",
            ),
            (
                "https://login.microsoftonline.us",
                "https://login.microsoftonline.us",
            ),
            (
                "login.partner.microsoftonline.cn",
                "https://login.partner.microsoftonline.cn",
            ),
            ("https://login.example/base/", "https://login.example/base"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ] {
            let expected = format!("{expected}/contoso.example/oauth2/v2.0/token");
            assert_eq!(endpoint(authority).unwrap(), expected);
        }
        for authority in [
            "http://login.microsoftonline.com",
            "https://user:s3cr3t@login.example",
            "ftp://login.example",
            "https://",
        ] {
            let error = endpoint(authority).unwrap_err().to_string();
            assert!(
                error.contains(AUTHORITY_HOST) && !error.contains("s3cr3t"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_tenant_is_one_segment_of_the_url() {
        for tenant in ["..", "a/b", "a?b", "a%2fb", "a b", "ä", "-"] {
            let error = token_endpoint(DEFAULT_AUTHORITY, tenant)
                .unwrap_err()
                .to_string();
            assert!(error.contains(TENANT_ID), "{error}");
        }
    }
}
