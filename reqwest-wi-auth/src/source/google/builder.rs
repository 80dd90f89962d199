//! The settings of a federation with Google.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::config::{
    ClientCredentials, ContentFormat, CredentialConfig, CredentialSource, LIFETIMES,
    SubjectTokenType, quoted,
};
use super::endpoints::{DEFAULT_UNIVERSE, Service, TrustedUrls, is_universe};
use super::federated::{Exchange, SharedToken, workforce_options};
use super::service_account::{Email, ServiceAccount, is_account};
use super::subject_url::SubjectUrl;
use super::{GoogleFederation, Inner};
use crate::error::Error;
use crate::source::TokenSource;
use crate::source::http::{HttpClient, HttpSettings};
use crate::source::token_file::TokenFile;
use crate::watched_file::{ClockFn, WatchedFile};

/// The environment variable with the path of the credential configuration.
pub(crate) const CREDENTIALS_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// The settings of a [`GoogleFederation`]. Created by [`GoogleFederation::builder`], or from a credential configuration by
/// [`from_file`](Self::from_file), [`from_env`](Self::from_env) or [`from_json`](Self::from_json).
///
/// If a setting is set twice, the last value is used, in place of the one in the configuration. Errors of settings are
/// returned by [`build`](Self::build).
#[must_use = "a builder does nothing until `build` is called"]
pub struct GoogleFederationBuilder {
    /// Name of the settings in errors: the path of the configuration, or a description.
    location: String,
    audience: String,
    subject: Subject,
    subject_token_type: Result<SubjectTokenType, String>,
    token_url: Option<String>,
    impersonation_url: Option<String>,
    service_account: Option<String>,
    token_lifetime: Option<Duration>,
    /// The universe that the configuration names.
    configured_universe: Option<String>,
    universe_domain: Option<String>,
    quota_project: Option<String>,
    workforce_pool_user_project: Option<String>,
    client: Option<ClientCredentials>,
    email: Email,
    trusted: TrustedUrls,
    http: HttpSettings,
    clock: ClockFn,
    /// The first error of a setting.
    error: Option<Error>,
}

/// The source of the subject token.
enum Subject {
    Source(Arc<dyn TokenSource>),
    Configured(CredentialSource),
}

impl GoogleFederationBuilder {
    pub(super) fn new(provider: String, subject: Arc<dyn TokenSource>) -> Self {
        let name = provider
            .strip_prefix("https:")
            .unwrap_or(&provider)
            .trim_start_matches("//iam.googleapis.com/")
            .trim_start_matches('/');
        let is_short = name.starts_with("projects/") || name.starts_with("locations/");
        let audience = if is_short {
            format!("//iam.googleapis.com/{name}")
        } else {
            provider
        };
        Self::with_defaults(
            "the configuration of GoogleFederation".to_owned(),
            audience,
            Subject::Source(subject),
        )
    }

    fn with_defaults(location: String, audience: String, subject: Subject) -> Self {
        Self {
            location,
            audience,
            subject,
            subject_token_type: Ok(SubjectTokenType::Jwt),
            token_url: None,
            impersonation_url: None,
            service_account: None,
            token_lifetime: None,
            configured_universe: None,
            universe_domain: None,
            quota_project: None,
            workforce_pool_user_project: None,
            client: None,
            email: Email::Included,
            trusted: TrustedUrls::default(),
            http: HttpSettings::default(),
            clock: Arc::new(SystemTime::now),
            error: None,
        }
    }

    /// Reads a credential configuration from a file, once. Blocks the current thread.
    ///
    /// The file has the format that `gcloud iam workload-identity-pools create-cred-config` writes: `type` is
    /// `external_account`, and `credential_source` names a file, or a URL that [`allow_origin`](Self::allow_origin) allows.
    /// Unknown members are ignored.
    ///
    /// # Errors
    ///
    /// Returns [`Error::File`] if the file cannot be read, and [`Error::Configuration`] if it is another kind of credential, or
    /// its source is an executable, a certificate or AWS.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_file("/etc/google/credential-configuration.json")?
    ///     .proxy_from_environment()
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let json = WatchedFile::read_once(path, |bytes| Ok(Zeroizing::new(bytes.to_vec())))?;
        Self::parse(path.display().to_string(), &json)
    }

    /// Reads a credential configuration from the file in the environment variable `GOOGLE_APPLICATION_CREDENTIALS`, once.
    /// Blocks the current thread.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if the variable is not set or empty, and the errors of [`from_file`](Self::from_file).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.without_email().build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_env() -> Result<Self, Error> {
        let path = std::env::var_os(CREDENTIALS_VARIABLE).filter(|path| !path.is_empty());
        match path {
            Some(path) => Self::from_file(PathBuf::from(path)),
            None => Err(Error::Configuration {
                location: format!("the environment variable {CREDENTIALS_VARIABLE}"),
                reason: "it is not set or empty; set it to the path of a credential configuration, which `gcloud iam \
                         workload-identity-pools create-cred-config` creates"
                    .to_owned(),
            }),
        }
    }

    /// Parses a credential configuration.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if it is another kind of credential, or its source is an executable, a certificate or
    /// AWS.
    ///
    /// # Examples
    ///
    /// ```
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let error = GoogleFederationBuilder::from_json(br#"{"type": "service_account"}"#).unwrap_err();
    /// assert!(error.to_string().contains(r#"its `type` is "service_account", expected "external_account""#));
    /// ```
    pub fn from_json(json: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::parse("the credential configuration".to_owned(), json.as_ref())
    }

    fn parse(location: String, json: &[u8]) -> Result<Self, Error> {
        let config = match CredentialConfig::parse(json) {
            Ok(config) => config,
            Err(reason) => return Err(Error::Configuration { location, reason }),
        };
        let subject = Subject::Configured(config.source);
        Ok(Self {
            subject_token_type: Ok(config.subject_token_type),
            token_url: config.token_url,
            impersonation_url: config.impersonation_url,
            token_lifetime: config.token_lifetime,
            configured_universe: config.universe_domain,
            quota_project: config.quota_project,
            workforce_pool_user_project: config.workforce_pool_user_project,
            client: config.client,
            ..Self::with_defaults(location, config.audience, subject)
        })
    }

    /// Sets the email address or the unique ID of the service account whose tokens are requested. Identity tokens require
    /// one. Default: that of the configuration, or none.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{GoogleFederation, ProjectedToken};
    ///
    /// let subject = ProjectedToken::open("/var/run/secrets/tokens/google").await?;
    /// let provider = "projects/123456789012/locations/global/workloadIdentityPools/clusters/providers/kind";
    /// let federation = GoogleFederation::builder(provider, subject)
    ///     .service_account("orders@project.iam.gserviceaccount.com")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service_account(mut self, email: impl Into<String>) -> Self {
        self.service_account = Some(email.into());
        self.impersonation_url = None;
        self
    }

    /// Sets the URL of the access tokens of the service account, which ends in `:generateAccessToken`; that of identity tokens
    /// is derived from it. Default: that of the configuration, or of the [`service_account`](Self::service_account).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{CommandToken, GoogleFederation};
    ///
    /// let provider = "projects/123456789012/locations/global/workloadIdentityPools/clusters/providers/kind";
    /// let federation = GoogleFederation::builder(provider, CommandToken::new("get-token"))
    ///     .service_account_impersonation_url(
    ///         "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken",
    ///     )
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service_account_impersonation_url(mut self, url: impl Into<String>) -> Self {
        self.impersonation_url = Some(url.into());
        self.service_account = None;
        self
    }

    /// Sets the URL of the Security Token Service. Default: that of the configuration, or `https://sts.googleapis.com/v1/token`.
    ///
    /// # Examples
    ///
    /// A regional endpoint:
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{CommandToken, GoogleFederation};
    ///
    /// let provider = "projects/123456789012/locations/global/workloadIdentityPools/clusters/providers/kind";
    /// let federation = GoogleFederation::builder(provider, CommandToken::new("get-token"))
    ///     .token_url("https://sts.us-central1.rep.googleapis.com/v1/token")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_url(mut self, url: impl Into<String>) -> Self {
        self.token_url = Some(url.into());
        self
    }

    /// Sets the type of the subject tokens: `urn:ietf:params:oauth:token-type:jwt`, `…:id_token` or `…:saml2`. Default: that of
    /// the configuration, or `…:jwt`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{CommandToken, GoogleFederation};
    ///
    /// let provider = "projects/123456789012/locations/global/workloadIdentityPools/people/providers/saml";
    /// let federation = GoogleFederation::builder(provider, CommandToken::new("get-saml-response").allow_opaque())
    ///     .subject_token_type("urn:ietf:params:oauth:token-type:saml2")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn subject_token_type(mut self, uri: &str) -> Self {
        self.subject_token_type = SubjectTokenType::parse(uri);
        self
    }

    /// Sets the lifetime of access tokens of the service account, from 600 s to 12 h; more than 1 h requires an exception in
    /// the policy of the organization. Identity tokens always live 1 h. Default: that of the configuration, or 1 h.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.token_lifetime(Duration::from_secs(900)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = Some(lifetime);
        self
    }

    /// Sets the project whose quota the requests for tokens of the service account use (`x-goog-user-project`). Default: that of
    /// the configuration, or none.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.quota_project("billing-project").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn quota_project(mut self, project: impl Into<String>) -> Self {
        self.quota_project = Some(project.into());
        self
    }

    /// Requests identity tokens without the claims `email` and `email_verified`. Default: with them.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.without_email().build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn without_email(mut self) -> Self {
        self.email = Email::Omitted;
        self
    }

    /// Trusts the services of another universe, such as a sovereign cloud, whose domain replaces `googleapis.com`. Default: only
    /// Google Cloud's own.
    ///
    /// A configuration that names another universe than Google Cloud's can be used only with this setting: anyone who can write
    /// the configuration could otherwise name a domain that is not Google's. A configuration that names none uses this one.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.universe_domain("apis-sovereign.example").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn universe_domain(mut self, domain: impl Into<String>) -> Self {
        let domain = domain.into();
        if is_universe(&domain) {
            self.trusted.allow_universe(&domain);
            self.universe_domain = Some(domain);
        } else {
            let reason = format!("it is {}, expected a domain in lower case", quoted(&domain));
            self.set_error(Error::Configuration {
                location: "the universe domain".to_owned(),
                reason,
            });
        }
        self
    }

    /// Allows the URLs of the configuration to be at an origin that is not Google's: scheme, host and port, such as
    /// `https://sts.internal.example` or `http://169.254.169.254`. Repeatable. Default: `token_url` and
    /// `service_account_impersonation_url` have to be at Google's services, over https, and `credential_source.url` is not
    /// allowed.
    ///
    /// Anyone who can write the configuration can then let this process send the subject token, the federated token, and
    /// requests with headers, to this origin.
    ///
    /// # Examples
    ///
    /// A subject token from the metadata server of Azure:
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.allow_origin("http://169.254.169.254").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_origin(mut self, origin: &str) -> Self {
        if let Err(error) = self.trusted.allow_origin(origin) {
            self.set_error(error);
        }
        self
    }

    /// Trusts the CA certificates in a PEM file, in addition to those of the system. The file is read for each request, so it
    /// can be replaced.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.ca_file("/etc/proxy/ca.pem").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.http.set_ca_file(path.into());
        self
    }

    /// Sends the requests through a proxy. Default: no proxy. Requests for a subject token at `credential_source.url` never go
    /// through a proxy.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.proxy("http://proxy.example:3128").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy(mut self, url: &str) -> Self {
        if let Err(error) = self.http.set_proxy(url) {
            self.set_error(error);
        }
        self
    }

    /// Sends the requests through the proxy in the environment variables `HTTPS_PROXY` or `HTTP_PROXY`, except to hosts listed
    /// in `NO_PROXY`. Default: no proxy.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.proxy_from_environment().build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy_from_environment(mut self) -> Self {
        self.http.set_proxy_from_environment();
        self
    }

    /// Sets how long each request may take, including the connection. Default: 10 s.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.time_limit(Duration::from_secs(3)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.http.set_time_limit(limit);
        self
    }

    /// Sets the function that returns the current time, for tests. Default: [`SystemTime::now`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use std::time::SystemTime;
    ///
    /// use reqwest_wi_auth::GoogleFederationBuilder;
    ///
    /// let federation = GoogleFederationBuilder::from_env()?.clock(|| SystemTime::UNIX_EPOCH).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Checks the settings. Sends no request, and does not read the subject token.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if a setting or a member of the configuration cannot be used, such as a URL that is not
    /// Google's; [`Error::InvalidOrigin`] for an argument of [`allow_origin`](Self::allow_origin) that is not an origin; and
    /// [`Error::Client`] if the HTTP client cannot be created.
    pub fn build(mut self) -> Result<GoogleFederation, Error> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let location = std::mem::take(&mut self.location);
        let http = HttpClient::new(self.http.clone())?;
        // The server is usually a metadata server on the same machine.
        let subject_http = HttpClient::new(self.http.without_proxy())?;
        let checked = self.check(&location, http, subject_http);
        checked.map_err(|reason| Error::Configuration { location, reason })
    }

    fn check(
        self,
        location: &str,
        http: HttpClient,
        subject_http: HttpClient,
    ) -> Result<GoogleFederation, String> {
        if self.audience.is_empty() {
            return Err("it has no provider: its `audience` is empty".to_owned());
        }
        let universe = self.configured_universe.or(self.universe_domain);
        let universe = universe.as_deref().unwrap_or(DEFAULT_UNIVERSE);
        if !self.trusted.has_universe(universe) {
            return Err(format!(
                "its `universe_domain` is {}, which is not {DEFAULT_UNIVERSE:?}; correct it, or if this universe is meant, \
                 allow it with `universe_domain`",
                quoted(universe)
            ));
        }
        let subject_token_type = self.subject_token_type?;
        let token_url = self
            .token_url
            .unwrap_or_else(|| format!("https://sts.{universe}/v1/token"));
        let token_endpoint =
            self.trusted
                .check_service("token_url", &token_url, Service::SecurityTokens)?;
        let impersonation_url = match (self.impersonation_url, self.service_account) {
            (Some(url), _) => Some(url),
            (None, Some(email)) if is_account(&email) => {
                let path = ServiceAccount::path(&email);
                Some(format!("https://iamcredentials.{universe}{path}"))
            }
            (None, Some(email)) => {
                return Err(format!(
                    "its service account is {}, expected an email address",
                    quoted(&email)
                ));
            }
            (None, None) => None,
        };
        if let Some(lifetime) = self.token_lifetime
            && !LIFETIMES.contains(&lifetime.as_secs())
        {
            return Err(format!(
                "its token lifetime is {lifetime:?}, expected {} to {} s",
                LIFETIMES.start(),
                LIFETIMES.end()
            ));
        }
        let service_account = match impersonation_url {
            None => None,
            Some(url) => {
                let member = "service_account_impersonation_url";
                let endpoint = self
                    .trusted
                    .check_service(member, &url, Service::IamCredentials)?;
                let quota_project = self.quota_project.as_deref();
                Some(ServiceAccount::new(
                    endpoint,
                    quota_project,
                    self.token_lifetime,
                    &self.audience,
                )?)
            }
        };
        let format = subject_token_type.format();
        let subject: Arc<dyn TokenSource> = match self.subject {
            Subject::Source(source) => source,
            Subject::Configured(CredentialSource::File { path, content }) => {
                let json_member = match content {
                    ContentFormat::Text => None,
                    ContentFormat::Json { field } => Some(field),
                };
                Arc::new(TokenFile::with_content(path, format, json_member))
            }
            Subject::Configured(CredentialSource::Url {
                url,
                headers,
                content,
            }) => Arc::new(SubjectUrl {
                http: subject_http,
                endpoint: self.trusted.check_source(&url)?,
                headers,
                content,
                format,
            }),
        };
        let options = workforce_options(
            &self.audience,
            self.workforce_pool_user_project.as_deref(),
            self.client.as_ref(),
        )?;
        Ok(GoogleFederation(Arc::new(Inner {
            location: location.to_owned(),
            http,
            exchange: Exchange {
                endpoint: token_endpoint,
                subject,
                subject_token_type,
                audience: self.audience,
                client: self.client,
                options,
            },
            service_account,
            email: self.email,
            federated: SharedToken::new(self.clock.clone()),
            clock: self.clock,
        })))
    }

    fn set_error(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }
}

impl fmt::Debug for GoogleFederationBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoogleFederationBuilder")
            .field("location", &self.location)
            .field("audience", &self.audience)
            .field("http", &self.http)
            .finish_non_exhaustive()
    }
}
