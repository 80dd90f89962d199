//! The settings of a TokenRequest.

use std::fmt;
use std::io::Read as _;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::account::{Pod, is_label, is_subdomain};
use super::{Binding, Settings, TokenRequest};
use crate::error::Error;
use crate::origins::PlainHttp;
use crate::source::TokenSource;
use crate::source::environment::Environment;
use crate::source::http::{Endpoint, HttpClient, HttpSettings};
use crate::source::token_file::TokenFile;

const HOST: &str = "KUBERNETES_SERVICE_HOST";
const PORT: &str = "KUBERNETES_SERVICE_PORT";
const POD_NAME: &str = "POD_NAME";
const POD_UID: &str = "POD_UID";

/// Where the kubelet mounts the token of a pod's service account, beside the CA certificate of the API server and the namespace.
const DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

const DEFAULT_EXPIRATION: Duration = Duration::from_secs(3600);

/// The shortest and the longest lifetime that the API server accepts in a request.
const EXPIRATION_LIMITS: (Duration, Duration) =
    (Duration::from_secs(600), Duration::from_secs(1 << 32));

/// The settings of a [`TokenRequest`]. Created by [`TokenRequest::builder`].
///
/// If a setting is set twice, the last value is used.
#[derive(Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct TokenRequestBuilder {
    environment: Environment,
    api_server: Option<String>,
    directory: PathBuf,
    credentials: Option<Arc<dyn TokenSource>>,
    ca_file: Option<PathBuf>,
    namespace: Option<String>,
    service_account: Option<String>,
    expiration: Duration,
    binding: RequestedBinding,
    http: HttpSettings,
    proxy: Option<String>,
}

/// The configured pod that tokens are bound to.
#[derive(Debug, Clone)]
enum RequestedBinding {
    Own,
    Pod { name: String, uid: Option<String> },
    None,
}

impl TokenRequestBuilder {
    pub(super) fn new() -> Self {
        Self {
            environment: Environment::default(),
            api_server: None,
            directory: PathBuf::from(DIRECTORY),
            credentials: None,
            ca_file: None,
            namespace: None,
            service_account: None,
            expiration: DEFAULT_EXPIRATION,
            binding: RequestedBinding::Own,
            http: HttpSettings::default(),
            proxy: None,
        }
    }

    /// Sets the URL of the API server: https, or http if the host is on loopback. If it has a path, the paths of the API follow it.
    /// Default: the address in `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://kubernetes.default.svc")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn api_server(mut self, url: impl Into<String>) -> Self {
        self.api_server = Some(url.into());
        self
    }

    /// Sets the directory of the files `token`, `ca.crt` and `namespace`, for a volume that is mounted elsewhere. The last one may be
    /// missing. Default: `/var/run/secrets/kubernetes.io/serviceaccount`.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// // A projected volume with a token for the API server and the ConfigMap `kube-root-ca.crt`.
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://kubernetes.default.svc")
    ///     .service_account_directory("/var/run/secrets/api")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service_account_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directory = path.into();
        self
    }

    /// Sets the source of the program's own token, which is sent to the API server only. Default: the file `token` in the
    /// [directory](Self::service_account_directory).
    ///
    /// If it is not a token of a service account, [`namespace`](Self::namespace) and
    /// [`service_account`](Self::service_account) have to be set.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{CommandToken, TokenRequest};
    ///
    /// // Outside the cluster, with the command of a kubeconfig.
    /// let credentials = CommandToken::new("gke-gcloud-auth-plugin").allow_opaque();
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://203.0.113.7")
    ///     .credentials(credentials)
    ///     .ca_file("/etc/kubernetes/ca.crt")
    ///     .namespace("shop")
    ///     .service_account("orders")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn credentials(mut self, source: impl TokenSource) -> Self {
        self.credentials = Some(Arc::new(source));
        self
    }

    /// Trusts only the CA certificates in a PEM file, which is read for each request. Default: the file `ca.crt` in the
    /// [directory](Self::service_account_directory); the CA certificates of the system if both
    /// [`api_server`](Self::api_server) and [`credentials`](Self::credentials) are set.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://kubernetes.default.svc")
    ///     .ca_file("/etc/kubernetes/ca.crt")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Sets the namespace of the service account whose tokens are requested. Default: that of the program's own token, or else that
    /// in the file `namespace` in the [directory](Self::service_account_directory).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://kubernetes.default.svc")
    ///     .namespace("shop")
    ///     .service_account("orders")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// Sets the name of the service account whose tokens are requested. Default: that of the program's own token.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://kubernetes.default.svc")
    ///     .service_account("orders")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn service_account(mut self, name: impl Into<String>) -> Self {
        self.service_account = Some(name.into());
        self
    }

    /// Sets for how long tokens are requested to be valid: from 600 s to 2^32 s, in whole seconds. The API server may have a lower
    /// limit (`--service-account-max-token-expiration`) and then issues tokens that are valid for a shorter time. Default: 1 h.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let builder = TokenRequest::builder().api_server("https://kubernetes.default.svc");
    /// assert!(builder.clone().expiration(Duration::from_secs(599)).build().is_err());
    /// let api_server = builder.expiration(Duration::from_secs(600)).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn expiration(mut self, expiration: Duration) -> Self {
        self.expiration = expiration;
        self
    }

    /// Binds tokens to the pod of this name in the namespace of the service account, and of this uid, unless the uid is empty.
    /// Default: the program's own pod, see [`TokenRequest`](TokenRequest#the-token).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://kubernetes.default.svc")
    ///     .pod("orders-5d9f7c9b8-x2x7q", "148179e6-b9d5-4fa6-8584-2d106e542148")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn pod(mut self, name: impl Into<String>, uid: impl Into<String>) -> Self {
        self.binding = RequestedBinding::Pod {
            name: name.into(),
            uid: Some(uid.into()),
        };
        self
    }

    /// Binds tokens to no pod, so that they are valid until they expire, also after the pod was deleted. Default: they are bound to
    /// the program's own pod, see [`TokenRequest`](TokenRequest#the-token).
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://kubernetes.default.svc")
    ///     .without_pod()
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn without_pod(mut self) -> Self {
        self.binding = RequestedBinding::None;
        self
    }

    /// Sends requests through a proxy. Default: no proxy.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://203.0.113.7")
    ///     .proxy("http://proxy.example:3128")
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.proxy = Some(url.into());
        self
    }

    /// Sends requests through the proxy in the environment variables `HTTPS_PROXY` or `HTTP_PROXY`, except to hosts listed in
    /// `NO_PROXY`. Default: no proxy.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://203.0.113.7")
    ///     .proxy_from_environment()
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy_from_environment(mut self) -> Self {
        self.http.set_proxy_from_environment();
        self.proxy = None;
        self
    }

    /// Sets how long a request may take, including the connection and the body of the response. Default: 10 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .api_server("https://203.0.113.7")
    ///     .time_limit(Duration::from_secs(30))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.http.set_time_limit(limit);
        self
    }

    /// Reads environment variables with a function. Default: those of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// # fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::TokenRequest;
    ///
    /// let api_server = TokenRequest::builder()
    ///     .environment(|name| match name {
    ///         "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
    ///         "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
    ///         _ => None,
    ///     })
    ///     .build()?;
    /// assert!(format!("{api_server:?}").contains("https://[fd00::1]/"));
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn environment(
        self,
        variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.with_environment(Environment::new(variable))
    }

    /// Reads these environment variables.
    #[cfg_attr(not(feature = "testing"), allow(dead_code))]
    pub(crate) fn with_environment(mut self, environment: Environment) -> Self {
        self.environment = environment;
        self
    }

    /// Creates the client. Sends no request. The files may be missing until the first request.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Configuration`] if a setting or an environment variable is not valid, or the address of the API server is not
    /// known, and [`Error::InvalidOrigin`] if credentials cannot be sent to its URL.
    pub fn build(mut self) -> Result<TokenRequest, Error> {
        let api_server = self.endpoint()?;
        let is_https = api_server.url().scheme() == "https";
        let is_in_cluster = self.api_server.is_none() || self.credentials.is_none();
        let ca_file = self.ca_file.take().or_else(|| {
            let path = self.directory.join("ca.crt");
            (is_https && is_in_cluster).then_some(path)
        });
        if let Some(path) = ca_file {
            self.http.set_only_ca_file(path);
        }
        if let Some(proxy) = &self.proxy {
            self.http.set_proxy(proxy)?;
        }
        check_name("namespace", self.namespace.as_deref(), is_label)?;
        check_name(
            "service_account",
            self.service_account.as_deref(),
            is_subdomain,
        )?;
        let (shortest, longest) = EXPIRATION_LIMITS;
        if self.expiration < shortest || self.expiration > longest {
            return Err(Error::Configuration {
                location: "the setting `expiration`".to_owned(),
                reason: format!(
                    "found {:?}, expected {} s to {} s, which are the limits of the API server",
                    self.expiration,
                    shortest.as_secs(),
                    longest.as_secs()
                ),
            });
        }
        let binding = self.binding()?;
        let default_namespace = match self.namespace {
            Some(_) => None,
            None => read_namespace(&self.directory.join("namespace")),
        };
        let (credentials, credential): (Arc<dyn TokenSource>, String) = match self.credentials {
            Some(source) => (source, "the setting `credentials`".to_owned()),
            None => {
                let path = self.directory.join("token");
                let shown = path.display().to_string();
                (Arc::new(TokenFile::new(path)), shown)
            }
        };
        Ok(TokenRequest(Arc::new(Settings {
            api_server,
            http: HttpClient::new(self.http)?,
            credentials,
            credential: credential.into(),
            namespace: self.namespace,
            default_namespace,
            service_account: self.service_account,
            expiration: self.expiration,
            binding,
        })))
    }

    /// Returns the URL of the API server.
    fn endpoint(&self) -> Result<Endpoint, Error> {
        let Some(url) = &self.api_server else {
            let (host, port) = (self.environment.get(HOST), self.environment.get(PORT));
            return match (&host, &port) {
                (Some(host), Some(port)) => address(host, port),
                _ => None,
            }
            .ok_or_else(|| Error::Configuration {
                location: format!("{HOST} and {PORT}"),
                reason: format!(
                    "found {} and {}, expected the address of the API server, which Kubernetes sets in each pod; outside a pod, set the URL with `api_server`",
                    shown(host.as_deref()),
                    shown(port.as_deref())
                ),
            });
        };
        let endpoint = Endpoint::parse(url, PlainHttp::LoopbackOnly)?;
        if endpoint.url().query().is_some() || endpoint.url().fragment().is_some() {
            return Err(Error::Configuration {
                location: format!("the URL {endpoint} of the API server"),
                reason: "expected a URL without a query and a fragment".to_owned(),
            });
        }
        Ok(endpoint)
    }

    /// Returns the pod that tokens are bound to.
    fn binding(&self) -> Result<Binding, Error> {
        match &self.binding {
            RequestedBinding::None => Ok(Binding::None),
            RequestedBinding::Pod { name, uid } => {
                check_name("pod", Some(name), is_subdomain)?;
                let pod = Pod::new(name, uid.clone());
                Ok(pod.map_or(Binding::None, Binding::Pod))
            }
            RequestedBinding::Own => {
                let Some(name) = self.environment.get(POD_NAME) else {
                    return Ok(Binding::Own(None));
                };
                let pod = Pod::new(&name, self.environment.get(POD_UID));
                let pod = pod.ok_or_else(|| Error::Configuration {
                    location: POD_NAME.to_owned(),
                    reason: format!(
                        "found {name:?}, expected the name of this program's pod (`fieldRef: {{ fieldPath: metadata.name }}`)"
                    ),
                })?;
                Ok(Binding::Own(Some(pod)))
            }
        }
    }
}

impl fmt::Debug for TokenRequestBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequestBuilder")
            .field("directory", &self.directory)
            .field("ca_file", &self.ca_file)
            .field("namespace", &self.namespace)
            .field("service_account", &self.service_account)
            .field("expiration", &self.expiration)
            .field("binding", &self.binding)
            .finish_non_exhaustive()
    }
}

/// Returns the URL of the API server, or `None` if `host` and `port` do not form an address.
fn address(host: &str, port: &str) -> Option<Endpoint> {
    let port: u16 = port.parse().ok()?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let host = match bare.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) if host.bytes().all(is_name) => host.to_owned(),
        Err(_) => return None,
    };
    Endpoint::parse(&format!("https://{host}:{port}/"), PlainHttp::LoopbackOnly).ok()
}

/// Describes the value of an environment variable.
fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| format!("{value:?}"))
}

/// Returns an error if a configured name is not valid.
fn check_name(setting: &str, name: Option<&str>, is_valid: fn(&str) -> bool) -> Result<(), Error> {
    match name {
        Some(name) if !is_valid(name) => Err(Error::Configuration {
            location: format!("the setting `{setting}`"),
            reason: format!(
                "found {name:?}, expected a name of lower case letters, digits and hyphens, as in Kubernetes"
            ),
        }),
        _ => Ok(()),
    }
}

/// Reads the name of a namespace from a file. Returns `None` if there is none in it.
fn read_namespace(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    // One byte more than a name can have, and a line break.
    file.take(65).read_to_string(&mut text).ok()?;
    let name = text.trim();
    is_label(name).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_api_server_may_be_ipv6() {
        for (host, port, expected) in [
            ("10.96.0.1", "443", Some("https://10.96.0.1/")),
            ("fd00::1", "6443", Some("https://[fd00::1]:6443/")),
            ("[fd00::1]", "443", Some("https://[fd00::1]/")),
            ("::ffff:10.96.0.1", "443", Some("https://[::ffff:a60:1]/")),
            ("api.internal", "443", Some("https://api.internal/")),
            ("10.96.0.1", "tcp", None),
            ("10.96.0.1", "tcp://10.96.0.1:443", None),
            ("10.96.0.1", "70000", None),
            ("10.96.0.1", "", None),
            ("evil.example/x", "443", None),
            ("user@evil.example", "443", None),
            ("evil.example?x", "443", None),
            ("evil.example#", "443", None),
            ("fd00::1%eth0", "443", None),
            ("fd00:::1", "443", None),
            ("[fd00::1", "443", None),
        ] {
            let endpoint = address(host, port);
            let url = endpoint.as_ref().map(|endpoint| endpoint.url().as_str());
            assert_eq!(url, expected, "{host} {port}");
        }
    }

    #[test]
    fn settings_that_are_not_valid_are_rejected() {
        let builder = || TokenRequest::builder().api_server("https://kubernetes.default.svc");
        let seconds = Duration::from_secs;
        for (builder, expected) in [
            (builder().namespace("a/b"), "namespace"),
            (builder().namespace(""), "namespace"),
            (builder().service_account("../x"), "service_account"),
            (builder().service_account("A"), "service_account"),
            (builder().pod("a b", "1"), "`pod`"),
            (builder().pod("", ""), "`pod`"),
            (builder().expiration(seconds(599)), "599s"),
            (builder().expiration(seconds((1 << 32) + 1)), "600 s to"),
            (builder().api_server("https://a.example/?x=1"), "query"),
            (builder().api_server("http://a.example"), "https"),
            (
                builder().api_server("https://u:p@a.example"),
                "user information",
            ),
            (builder().proxy("no url ://"), "proxy"),
        ] {
            let error = builder.build().unwrap_err();
            assert!(!error.is_transient(), "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn outside_a_pod_the_error_names_the_variables() {
        for (host, port) in [
            (None, None),
            (Some("10.96.0.1"), None),
            (Some("a/b"), Some("443")),
        ] {
            let variables = Environment::new(move |name| {
                let value = match name {
                    HOST => host,
                    PORT => port,
                    _ => None,
                };
                value.map(str::to_owned)
            });
            let builder = TokenRequest::builder().with_environment(variables);
            let text = builder.build().unwrap_err().to_string();
            assert!(text.contains(HOST) && text.contains(PORT), "{text}");
            assert!(text.contains(&shown(host)), "{text}");
        }
    }

    #[test]
    fn a_pod_name_that_is_not_valid_is_rejected() {
        let variables = Environment::new(|name| (name == POD_NAME).then(|| "$(NAME)".to_owned()));
        let builder = TokenRequest::builder().api_server("https://kubernetes.default.svc");
        let error = builder.with_environment(variables).build().unwrap_err();
        assert!(
            error.to_string().starts_with("POD_NAME cannot be used"),
            "{error}"
        );
    }
}
