//! A token file that is opened when its token is first needed.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::TokenSource;
use super::projected::ProjectedToken;
use crate::error::Error;
use crate::token::{Token, TokenFormat};

/// How long an attempt waits for the token in the file. The source that needs it tries again later.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// A token source: a [`ProjectedToken`] that is opened when its token is first needed, so that creating it requires no
/// runtime and does not wait.
///
/// Clones share the file.
#[derive(Clone)]
pub(crate) struct TokenFile(Arc<Inner>);

struct Inner {
    path: PathBuf,
    format: TokenFormat,
    /// The name of the JSON member that contains the token, or `None` if the file contains only the token.
    json_member: Option<String>,
    opened: OnceCell<ProjectedToken>,
}

impl TokenFile {
    /// Creates a source that reads JWTs from a file.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self::with_format(path, TokenFormat::Jwt)
    }

    /// Creates a source that reads tokens of a format from a file.
    pub(crate) fn with_format(path: impl Into<PathBuf>, format: TokenFormat) -> Self {
        Self::with_content(path, format, None)
    }

    /// Creates a source that reads tokens of a format from a file: its whole content, or a member of a JSON object.
    pub(crate) fn with_content(
        path: impl Into<PathBuf>,
        format: TokenFormat,
        json_member: Option<String>,
    ) -> Self {
        Self(Arc::new(Inner {
            path: path.into(),
            format,
            json_member,
            opened: OnceCell::new(),
        }))
    }

    async fn open(&self) -> Result<ProjectedToken, Error> {
        let builder = ProjectedToken::builder(&self.0.path)
            .startup_limit(OPEN_LIMIT)
            .json_member(self.0.json_member.clone());
        match self.0.format {
            TokenFormat::Jwt => builder.open().await,
            TokenFormat::Opaque => builder.allow_opaque().open().await,
        }
    }
}

#[async_trait]
impl TokenSource for TokenFile {
    fn current(&self) -> Result<Token, Error> {
        match self.0.opened.get() {
            Some(token) => token.current(),
            None => Err(Error::NotFetched {
                location: self.0.path.display().to_string(),
            }),
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        // Concurrent callers wait for one attempt to open the file. If it fails, the next one tries.
        let token = self.0.opened.get_or_try_init(|| self.open()).await?;
        token.refresh(rejected).await
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.0.path).finish()
    }
}
