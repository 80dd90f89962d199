//! A token file that the kubelet rotates.

mod builder;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

pub use self::builder::ProjectedTokenBuilder;
use super::TokenSource;
use crate::error::Error;
use crate::health::TokenHealth;
use crate::token::Token;
use crate::watched_file::{Changes, WatchedFile};

/// Servers that reject every token have the file read no more often than this.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// While only an expired token is there, a new one is looked for this often.
const EXPIRED_INTERVAL: Duration = Duration::from_secs(1);

type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The token of a projected volume: a file that the kubelet replaces while the pod runs.
///
/// The file is followed as [`WatchedFile`] says, and is read besides at 80 % of the token's life, when
/// Kubernetes would warn (`kubernetes.io.warnafter`), and once it has expired. A token that has expired
/// is not sent. Clones are handles to the same file; the work ends with the last of them.
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::ProjectedToken;
///
/// let token = ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ProjectedToken(Arc<Inner>);

struct Inner {
    file: WatchedFile<Token>,
    send_expired: bool,
    now: Now,
    last_refresh: Mutex<Option<Instant>>,
}

impl ProjectedToken {
    /// Opens a token file with the default settings: see [`builder`](Self::builder). Spawns one task on
    /// the current tokio runtime.
    ///
    /// # Errors
    ///
    /// [`Error::File`], which names the path, if there is no token within 5 s.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder(path).open().await
    }

    /// Starts the settings of a token file.
    pub fn builder(path: impl Into<PathBuf>) -> ProjectedTokenBuilder {
        ProjectedTokenBuilder::new(path.into())
    }

    /// The file's path, made absolute.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// How the token fares.
    pub fn health(&self) -> TokenHealth {
        let file = self.0.file.health();
        TokenHealth {
            present: self.current().is_ok(),
            expires_at: self.0.file.with(Token::expires_at),
            last_rotation: Some(file.last_change),
            last_error: file.last_error.map(Error::File),
        }
    }

    /// The file behind it: how the following goes, and a read now.
    pub fn file(&self) -> &WatchedFile<Token> {
        &self.0.file
    }

    /// Tells of new tokens from now on.
    pub fn subscribe(&self) -> Changes<Token> {
        self.0.file.subscribe()
    }

    /// Ends the following for all clones, and waits until it has ended.
    pub async fn shutdown(&self) {
        self.0.file.shutdown().await;
    }

    /// Whether the file may be read for a request's sake now.
    fn may_refresh(&self) -> bool {
        let now = Instant::now();
        let mut last = self
            .0
            .last_refresh
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|last| now - last >= MIN_REFRESH_INTERVAL);
        if may {
            *last = Some(now);
        }
        may
    }

    fn expired(&self, since: SystemTime) -> Error {
        let state = match self.0.file.health().last_error {
            Some(error) => error.to_string(),
            None => "the file still holds the same token".to_owned(),
        };
        Error::Expired {
            origin: self.path().display().to_string(),
            since,
            state,
        }
    }
}

#[async_trait]
impl TokenSource for ProjectedToken {
    fn current(&self) -> Result<Token, Error> {
        let token = self.0.file.with(Token::clone);
        match token.expires_at() {
            Some(expiry) if !self.0.send_expired && expiry <= (self.0.now)() => {
                Err(self.expired(expiry))
            }
            _ => Ok(token),
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let current = self.current();
        let is_newer = current.as_ref().is_ok_and(|token| Some(token) != rejected);
        if is_newer || !self.may_refresh() {
            return current;
        }
        // What was wrong is told by `current`, where it matters.
        let _ = self.0.file.reread().await;
        self.current()
    }
}

impl fmt::Debug for ProjectedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProjectedToken").field(&self.0.file).finish()
    }
}
