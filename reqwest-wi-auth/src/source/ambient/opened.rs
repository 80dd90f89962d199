//! The source that was chosen.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::azure::AzureWorkloadIdentity;
use super::super::fetched::FetchedToken;
use super::super::github_actions::GitHubActions;
use super::super::google::GoogleFederation;
use super::super::metadata::MetadataServer;
use super::super::projected::ProjectedToken;
use super::super::token_request::TokenRequest;
use super::super::{TokenHealth, TokenSource};
use crate::error::Error;

/// How long a request waits for the token of a file that has not been opened yet.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// A source that can be opened.
pub(super) enum Candidate {
    File(PathBuf),
    Google(GoogleFederation),
    Azure(AzureWorkloadIdentity),
    GitHubActions(GitHubActions),
    Metadata(MetadataServer),
    TokenRequest(TokenRequest),
    Fallback(Arc<dyn TokenSource>),
}

/// Whether opening a source waits for its first token. A token file is always awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    FirstToken,
    No,
}

/// A source that was opened.
pub(super) enum Opened {
    File(ProjectedToken),
    Fetched(FetchedToken),
    Fallback(Arc<dyn TokenSource>),
}

impl Candidate {
    /// Opens the source.
    pub(super) async fn open(self, audience: &str, wait: Wait) -> Result<Opened, Error> {
        let fetched = match (self, wait) {
            (Self::File(path), wait) => {
                let mut file = ProjectedToken::builder(path).audience(audience);
                if wait == Wait::No {
                    file = file.startup_limit(REQUEST_LIMIT);
                }
                return Ok(Opened::File(file.open().await?));
            }
            (Self::Fallback(source), wait) => {
                if wait == Wait::FirstToken && source.current().is_err() {
                    source.refresh(None).await?;
                }
                return Ok(Opened::Fallback(source));
            }
            (Self::Google(source), Wait::FirstToken) => source.open(audience).await?,
            (Self::Google(source), Wait::No) => source.start(audience),
            (Self::Azure(source), Wait::FirstToken) => source.open(audience).await?,
            (Self::Azure(source), Wait::No) => source.start(audience),
            (Self::GitHubActions(source), Wait::FirstToken) => source.open(audience).await?,
            (Self::GitHubActions(source), Wait::No) => source.start(audience),
            (Self::Metadata(source), Wait::FirstToken) => source.open(audience).await?,
            (Self::Metadata(source), Wait::No) => source.start(audience),
            (Self::TokenRequest(source), Wait::FirstToken) => source.open(audience).await?,
            (Self::TokenRequest(source), Wait::No) => source.start(audience),
        };
        Ok(Opened::Fetched(fetched))
    }
}

impl Opened {
    pub(super) fn as_source(&self) -> &dyn TokenSource {
        match self {
            Self::File(source) => source,
            Self::Fetched(source) => source,
            Self::Fallback(source) => &**source,
        }
    }

    pub(super) fn health(&self) -> TokenHealth {
        match self {
            Self::File(source) => source.health(),
            Self::Fetched(source) => source.health(),
            Self::Fallback(source) => {
                let current = source.current();
                TokenHealth {
                    present: current.is_ok(),
                    expires_at: current.as_ref().ok().and_then(|token| token.expires_at()),
                    last_rotation: None,
                    last_error: current.err(),
                }
            }
        }
    }

    pub(super) async fn shutdown(&self) {
        match self {
            Self::File(source) => source.shutdown().await,
            Self::Fetched(source) => source.shutdown().await,
            Self::Fallback(_) => {}
        }
    }
}
