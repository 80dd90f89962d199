//! What can be said to the client, by flag or environment.

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Parser, ValueEnum};

/// Asks services for their open path and their guarded one, in turn, and logs the answers.
#[derive(Debug, Parser)]
#[command(name = "auth-client", version)]
pub struct ClientSettings {
    /// A service: https, or http on this machine; several with commas between them. `URL=AUDIENCE` names the audience of
    /// its tokens, where that is not the URL.
    #[arg(
        long,
        env = "SERVICE_URL",
        value_name = "URL[=AUDIENCE]",
        value_delimiter = ',',
        required = true
    )]
    pub service_url: Vec<Service>,

    /// The file of the projected token; with several services, one for each, in their order.
    #[arg(
        long,
        env = "TOKEN_PATH",
        value_name = "FILE",
        value_delimiter = ',',
        default_value = "/var/run/secrets/tokens/gke-sa"
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

    /// The pause between two rounds, in seconds.
    #[arg(long, env = "INTERVAL", value_name = "SECONDS", default_value_t = 5)]
    pub interval: u64,

    /// One line of JSON for each answer.
    #[arg(long, env = "JSON")]
    pub json: bool,

    /// Ask once; the exit code is 0 if all paths answer with 200.
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
        if url.is_empty() || audience.is_empty() {
            return Err("it has the form URL or URL=AUDIENCE");
        }
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
