//! The client's flags and environment variables.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{ArgAction, Parser, ValueEnum};

use crate::arguments::{interval, parsed_item, path_item, web_url};

/// Requests the open path and the guarded one of services, in turn, and prints the answers.
///
/// An environment variable that is empty counts as not set.
#[derive(Debug, Parser)]
#[command(name = "auth-client", version)]
pub struct ClientSettings {
    /// A service: https, or http on this machine. Several are separated by commas. `URL=AUDIENCE` names the audience of
    /// its tokens where that is not the URL.
    #[arg(
        long,
        env = "SERVICE_URL",
        value_name = "URL[=AUDIENCE]",
        value_delimiter = ',',
        required = true,
        value_parser = parsed_item::<Service>
    )]
    pub service_url: Vec<Service>,

    /// The file of the projected token. With several services, one for each, in their order, separated by commas.
    #[arg(
        long,
        env = "TOKEN_PATH",
        value_name = "FILE",
        value_delimiter = ',',
        default_value = "/var/run/secrets/tokens/gke-sa",
        value_parser = path_item
    )]
    pub token_path: Vec<PathBuf>,

    /// Whose tokens are sent.
    #[arg(long, env = "IDENTITY", value_enum, ignore_case = true, default_value_t = Identity::Cluster)]
    pub identity: Identity,

    /// The host of the metadata server, where it is not the platform's.
    #[arg(long, env = "METADATA_HOST", value_name = "HOST[:PORT]")]
    pub metadata_host: Option<String>,

    /// A file of CAs in PEM that are trusted beside the system's.
    #[arg(long, env = "CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,

    /// The pause between two rounds, in seconds: 0.001 at least.
    #[arg(long, env = "INTERVAL", value_name = "SECONDS", default_value = "5", value_parser = interval)]
    pub interval: Duration,

    /// How long a request in flight may take after SIGTERM, in seconds; then it is dropped. A pod has 30 s by default.
    #[arg(
        long,
        env = "GRACE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 5,
        value_parser = RangedU64ValueParser::<u64>::new().range(0..=3600)
    )]
    pub grace_seconds: u64,

    /// Prints one line of JSON for each answer.
    #[arg(long, env = "JSON", action = ArgAction::SetTrue, value_parser = BoolishValueParser::new())]
    pub json: bool,

    /// Sends one round of requests. The exit code is 0 if all paths answer with 200.
    #[arg(long)]
    pub once: bool,
}

/// Whose tokens are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Identity {
    /// Nobody's.
    None,
    /// The cluster's: the projected token, in `Authorization`.
    Cluster,
    /// Google's: the metadata server's token, in `Authorization`.
    Google,
    /// Google's in `X-Serverless-Authorization`, for the platform's gate, and the cluster's in `Authorization`, for the
    /// application.
    Both,
}

/// A service, and the audience of its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub url: String,
    /// What its tokens are for.
    pub audience: String,
}

impl FromStr for Service {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (url, audience) = text.split_once('=').unwrap_or((text, text));
        let (url, audience) = (url.trim(), audience.trim());
        if url.is_empty() || audience.is_empty() {
            return Err("expected URL or URL=AUDIENCE");
        }
        let url = web_url(url)?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            audience: audience.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_s_audience_is_its_url_unless_another_is_named() {
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
