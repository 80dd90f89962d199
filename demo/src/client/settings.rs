//! The flags and environment variables of `auth-client`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{ArgAction, Args, ValueEnum};

use reqwest_wi_auth::{Ambient, AmbientSource};

use crate::arguments::{
    parse_interval, parse_path_item, parse_typed_item, parse_web_url, parse_web_url_item,
};
use crate::output::LogFormat;

/// The settings of the client.
#[derive(Debug, Args)]
pub struct ClientSettings {
    /// The URL of a service: https, or http on this machine. Separate several with commas. `URL=AUDIENCE` sets the
    /// audience of tokens that are requested for it (`google`, `both`, `ambient`), which is the URL by default.
    #[arg(
        long,
        env = "SERVICE_URL",
        value_name = "URL[=AUDIENCE]",
        value_delimiter = ',',
        required = true,
        value_parser = parse_typed_item::<Service>
    )]
    pub service_url: Vec<Service>,

    /// The file of the projected token. With several services, separate one file for each with commas, in the same order.
    #[arg(
        long,
        env = "TOKEN_PATH",
        value_name = "FILE",
        value_delimiter = ',',
        default_value = "/var/run/secrets/tokens/gke-sa",
        value_parser = parse_path_item
    )]
    pub token_path: Vec<PathBuf>,

    /// Which tokens are sent.
    #[arg(long, env = "IDENTITY", value_enum, ignore_case = true, default_value_t = ClientIdentity::Cluster)]
    pub identity: ClientIdentity,

    /// The host of the metadata server that provides Google's token. Default: that of the platform. Takes precedence over
    /// --google-credentials.
    #[arg(long, env = "METADATA_HOST", value_name = "HOST[:PORT]")]
    pub metadata_host: Option<String>,

    /// The credential configuration of Google's workload identity federation (`type: external_account`). If it is set, Google's
    /// token is exchanged for the token that it names, and is not requested from the metadata server.
    #[arg(long, env = "GOOGLE_APPLICATION_CREDENTIALS", value_name = "FILE")]
    pub google_credentials: Option<PathBuf>,

    /// The origin of a server that the credential configuration may name instead of Google's servers; for tests only. Separate several
    /// with commas.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        value_parser = parse_web_url_item
    )]
    pub allow_google_origin: Vec<String>,

    /// A source of the environment that `--identity ambient` does not use, such as `metadata-server`. Separate several with
    /// commas.
    #[arg(
        long,
        env = "AMBIENT_WITHOUT",
        value_name = "SOURCE",
        value_delimiter = ',',
        value_parser = parse_ambient_source
    )]
    pub ambient_without: Vec<AmbientSource>,

    /// A PEM file of CA certificates that are trusted in addition to the system's.
    #[arg(long, env = "CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// The pause between two polls, in seconds: at least 0.001.
    #[arg(long, env = "INTERVAL", value_name = "SECONDS", default_value = "5", value_parser = parse_interval)]
    pub interval: Duration,

    /// How long a request in flight may take after SIGTERM, in seconds. After that, it is dropped. By default, Kubernetes
    /// gives a pod 30 s to end.
    #[arg(
        long,
        env = "GRACE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=3600)
    )]
    pub grace_seconds: u64,

    /// Prints one JSON object per response, each on its own line.
    #[arg(long, env = "JSON", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// The format of the log on standard error.
    #[arg(long, env = "LOG_FORMAT", value_enum, ignore_case = true, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// A port for /metrics, over plain http; 0 for any free port. Default: the metrics are not served.
    #[arg(long, env = "ADMIN_PORT", value_name = "PORT")]
    pub admin_port: Option<u16>,

    /// The address of --admin-port. Default: all addresses, IPv6 and IPv4, or IPv4 only if the system has no IPv6.
    #[arg(long, env = "ADDRESS")]
    pub address: Option<IpAddr>,

    /// Requests each path once, and exits with 0 if the status of every response is 200.
    #[arg(long)]
    pub once: bool,
}

/// The identity as which the client calls: which tokens it sends, and in which headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClientIdentity {
    /// No token.
    None,
    /// The cluster's projected service account token, in `Authorization`.
    Cluster,
    /// Google's token, in `Authorization`: from the metadata server, or exchanged as --google-credentials says.
    Google,
    /// Google's token in `X-Serverless-Authorization`, for the platform's gate, and the cluster's token in
    /// `Authorization`, for the application.
    Both,
    /// The token of the one source that the environment has, in `Authorization`. An environment with several is an error.
    Ambient,
}

impl ClientIdentity {
    /// Returns the value as `--identity` accepts it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cluster => "cluster",
            Self::Google => "google",
            Self::Both => "both",
            Self::Ambient => "ambient",
        }
    }
}

/// Where Google's token is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GoogleSource {
    /// The metadata server, at a host other than the platform's if there is one.
    MetadataServer(Option<String>),
    /// Workload identity federation.
    Federation {
        /// The file of the credential configuration.
        credentials: PathBuf,
        /// The origins of servers that it may name instead of Google's servers.
        allowed_origins: Vec<String>,
    },
}

impl ClientSettings {
    /// Returns the choice among the sources that the environment has.
    pub(crate) fn ambient(&self) -> Ambient {
        let mut builder = Ambient::builder();
        for source in &self.ambient_without {
            builder = builder.without(*source);
        }
        for origin in &self.allow_google_origin {
            builder = builder.allow_google_origin(origin);
        }
        builder.build()
    }

    /// Returns where Google's token is from. A host of the metadata server is a setting of this program alone and has precedence,
    /// since `GOOGLE_APPLICATION_CREDENTIALS` may be set for all programs of a machine.
    pub(crate) fn google_source(&self) -> GoogleSource {
        match (&self.metadata_host, &self.google_credentials) {
            (None, Some(credentials)) => GoogleSource::Federation {
                credentials: credentials.clone(),
                allowed_origins: self.allow_google_origin.clone(),
            },
            (host, _) => GoogleSource::MetadataServer(host.clone()),
        }
    }
}

/// The sources that an environment can have.
const AMBIENT_SOURCES: [AmbientSource; 7] = [
    AmbientSource::TokenFile,
    AmbientSource::ProjectedToken,
    AmbientSource::GoogleFederation,
    AmbientSource::Azure,
    AmbientSource::GitHubActions,
    AmbientSource::MetadataServer,
    AmbientSource::TokenRequest,
];

/// Parses the name of a source that an environment can have.
fn parse_ambient_source(text: &str) -> Result<AmbientSource, String> {
    let known = AMBIENT_SOURCES
        .iter()
        .find(|source| source.to_string() == text.trim());
    known.copied().ok_or_else(|| {
        let names = AMBIENT_SOURCES.map(|source| source.to_string());
        format!("expected one of {}", names.join(", "))
    })
}

/// A service to request, and the audience of the token for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The URL, without a slash at its end.
    pub url: String,
    /// The audience.
    pub audience: String,
}

impl Service {
    /// Returns the host of the URL, with its port, for messages.
    pub(crate) fn host(&self) -> String {
        let url = reqwest::Url::parse(&self.url).ok();
        let host = url.and_then(|url| {
            let port = url.port_or_known_default()?;
            Some(format!("{}:{port}", url.host_str()?))
        });
        host.unwrap_or_else(|| self.url.clone())
    }
}

impl FromStr for Service {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (url, audience) = text.split_once('=').unwrap_or((text, text));
        let (url, audience) = (url.trim(), audience.trim());
        if url.is_empty() || audience.is_empty() {
            return Err("expected URL or URL=AUDIENCE");
        }
        let url = parse_web_url(url)?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            audience: audience.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;
    use clap::builder::Resettable;

    use super::*;

    #[test]
    fn a_host_of_the_metadata_server_precedes_a_credential_configuration() {
        let source = |more: &[&str]| {
            let arguments = [&["auth-client", "--service-url", "https://a.example"], more].concat();
            let command = ClientSettings::augment_args(clap::Command::new("auth-client"));
            // The environment of the test is not read.
            let command = command.mut_args(|arg| arg.env(Resettable::Reset));
            let matches = command.try_get_matches_from(arguments).unwrap();
            let settings = ClientSettings::from_arg_matches(&matches);
            settings.unwrap().google_source()
        };
        let host = || GoogleSource::MetadataServer(Some("a:1".to_owned()));
        assert_eq!(source(&[]), GoogleSource::MetadataServer(None));
        assert_eq!(source(&["--metadata-host", "a:1"]), host());
        let both = ["--metadata-host", "a:1", "--google-credentials", "/a"];
        assert_eq!(source(&both), host());
        let allowed = [
            "--google-credentials",
            "/a",
            "--allow-google-origin",
            "http://127.0.0.1:1",
        ];
        assert_eq!(
            source(&allowed),
            GoogleSource::Federation {
                credentials: PathBuf::from("/a"),
                allowed_origins: vec!["http://127.0.0.1:1".to_owned()],
            }
        );
    }

    #[test]
    fn the_audience_of_a_service_defaults_to_its_url() {
        let service = |text: &str| {
            text.parse::<Service>()
                .map(|service| (service.url, service.audience))
        };
        let (url, other) = ("https://a.example".to_owned(), "me".to_owned());
        assert_eq!(service("https://a.example"), Ok((url.clone(), url.clone())));
        assert_eq!(service("https://a.example/=me"), Ok((url, other)));
        assert!(service("https://a.example=").is_err());
    }
}
