//! A token file that is opened when its token is first needed.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::TokenSource;
use super::projected::ProjectedToken;
use crate::error::Error;
use crate::token::{Token, TokenFormat};

/// How long an attempt waits for the token in the file. The source that needs it tries again later.
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// How long a caller waits for another caller's attempt. That one may not continue, if its runtime is not driven.
const SHARE_LIMIT: Duration = Duration::from_secs(3);

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
    opened: OnceLock<ProjectedToken>,
    /// The last failed attempt to open the file. Locked during an attempt.
    last_failure: Mutex<Option<Failure>>,
}

/// A failed attempt to open the file.
struct Failure {
    error: Error,
    ended: Instant,
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
            opened: OnceLock::new(),
            last_failure: Mutex::default(),
        }))
    }

    /// Returns the opened file. Concurrent callers share one attempt to open it, and its error.
    async fn opened(&self) -> Result<&ProjectedToken, Error> {
        if let Some(token) = self.0.opened.get() {
            return Ok(token);
        }
        let asked = Instant::now();
        let last_failure = timeout(SHARE_LIMIT, self.0.last_failure.lock()).await;
        if let Some(token) = self.0.opened.get() {
            return Ok(token);
        }
        if let Ok(Some(failure)) = last_failure.as_deref()
            && failure.ended > asked
        {
            return Err(failure.error.clone());
        }
        match self.open().await {
            Ok(token) => Ok(self.0.opened.get_or_init(|| token)),
            Err(error) => {
                if let Ok(mut last_failure) = last_failure {
                    *last_failure = Some(Failure {
                        error: error.clone(),
                        ended: Instant::now(),
                    });
                }
                Err(error)
            }
        }
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
        self.opened().await?.refresh(rejected).await
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenFile").field(&self.0.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "eyJhbGciOiJub25lIn0.e30.c2ln";

    #[tokio::test(start_paused = true)]
    async fn callers_that_wait_for_the_same_attempt_share_its_error() {
        let file = TokenFile::new("/nonexistent/token");
        let began = Instant::now();
        let callers: Vec<_> = (0..30)
            .map(|_| {
                let file = file.clone();
                tokio::spawn(async move { file.refresh(None).await })
            })
            .collect();
        for caller in callers {
            let error = caller.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("/nonexistent/token"), "{error}");
        }
        assert!(began.elapsed() < 2 * OPEN_LIMIT, "{:?}", began.elapsed());
        // A later caller makes an attempt.
        file.refresh(None).await.unwrap_err();
        assert!(began.elapsed() >= 2 * OPEN_LIMIT, "{:?}", began.elapsed());
    }

    #[test]
    fn an_attempt_on_a_runtime_that_is_not_driven_does_not_block_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let file = TokenFile::new(&path);
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let suspended = runtime();
        let attempt = file.clone();
        suspended.spawn(async move { attempt.refresh(None).await });
        // Starts the attempt, which waits for the file then.
        suspended.block_on(tokio::task::yield_now());
        let is_locked = file.0.last_failure.try_lock().is_err();
        assert!(is_locked, "the attempt has not started");
        std::fs::write(&path, TOKEN).unwrap();
        let token = runtime().block_on(async {
            let other = tokio::spawn(async move { file.refresh(None).await });
            tokio::task::yield_now().await;
            tokio::time::pause();
            tokio::time::advance(SHARE_LIMIT).await;
            tokio::time::resume();
            other.await.unwrap().unwrap()
        });
        assert_eq!(token.text(), TOKEN);
    }
}
