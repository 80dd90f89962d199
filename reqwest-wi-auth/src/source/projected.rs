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

/// A server that rejects the newest token causes a read of the file no more often than this.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);
/// While the token has expired, the file is read this often.
const EXPIRED_INTERVAL: Duration = Duration::from_secs(1);

type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The token of a projected volume: a file that the kubelet replaces while the pod runs.
///
/// The file is followed as described for [`WatchedFile`], on one tokio runtime after another, and is read besides at 80 % of
/// the token's life, when Kubernetes would warn (`kubernetes.io.warnafter`), and once it has expired. A token that has
/// expired is not sent. A token that expires earlier than the one in use does not replace it, unless a server has rejected
/// the one in use. Clones are handles to the same file; the following ends with the last of them.
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
    /// The last token that a server has rejected.
    rejected: Arc<Mutex<Option<Token>>>,
    /// Held while the file is read for a request. The last read that brought nothing new, and for which token.
    last_refresh: tokio::sync::Mutex<Option<(Instant, Option<Token>)>>,
    last_read_on_the_spot: Mutex<Option<std::time::Instant>>,
}

impl ProjectedToken {
    /// Opens a token file with the default settings: see [`builder`](Self::builder). Spawns a task on the current tokio
    /// runtime.
    ///
    /// # Errors
    ///
    /// Returns [`Error::File`], which names the path, if there is no valid token within 5 s, or outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the runtime's timer is not enabled.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder(path).open().await
    }

    /// Returns a builder with the default settings.
    pub fn builder(path: impl Into<PathBuf>) -> ProjectedTokenBuilder {
        ProjectedTokenBuilder::new(path.into())
    }

    /// Returns the file's path, made absolute.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Returns the state of the token.
    pub fn health(&self) -> TokenHealth {
        let file = self.0.file.health();
        TokenHealth {
            present: self.newest().is_ok(),
            expires_at: self.0.file.with(Token::expires_at),
            last_rotation: Some(file.last_change),
            last_error: file.last_error.map(Error::File),
        }
    }

    /// Returns the file that holds the token: for the state of the following, and for a read now.
    pub fn file(&self) -> &WatchedFile<Token> {
        &self.0.file
    }

    /// Returns a receiver of new tokens from now on.
    pub fn subscribe(&self) -> Changes<Token> {
        self.0.file.subscribe()
    }

    /// Ends the following for all clones, and waits until it has ended.
    pub async fn shutdown(&self) {
        self.0.file.shutdown().await;
    }

    /// Returns the newest token that was read, unless it has expired.
    fn newest(&self) -> Result<Token, Error> {
        let token = self.0.file.with(Token::clone);
        match token.expires_at() {
            Some(expiry) if !self.0.send_expired && expiry <= (self.0.now)() => {
                Err(self.expired(expiry))
            }
            _ => Ok(token),
        }
    }

    /// Reads the file in place, for a caller outside a runtime that has found the token expired. Nobody else may read it:
    /// the runtime of the task may have ended, or not be driven.
    fn read_on_the_spot(&self) -> bool {
        if tokio::runtime::Handle::try_current().is_ok() {
            return false;
        }
        let now = std::time::Instant::now();
        let mut last = self
            .0
            .last_read_on_the_spot
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now - last < EXPIRED_INTERVAL) {
            return false;
        }
        *last = Some(now);
        drop(last);
        // The error is kept as the file's last error.
        let _ = self.0.file.reread_blocking();
        true
    }

    fn expired(&self, since: SystemTime) -> Error {
        let file = self.0.file.health();
        let state = match file.last_error {
            Some(error) => error.to_string(),
            None if file.following => "the file still holds the same token".to_owned(),
            None => {
                "the file has not been read since the tokio runtime that followed it ended, or \
                     since it was shut down"
                    .to_owned()
            }
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
        match self.newest() {
            Err(_) if self.read_on_the_spot() => self.newest(),
            newest => newest,
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let newer = |newest: &Result<Token, Error>| {
            newest.as_ref().is_ok_and(|token| Some(token) != rejected)
        };
        let newest = self.newest();
        if newer(&newest) {
            return newest;
        }
        // Whoever waits here meanwhile gets what this read brings.
        let mut last = self.0.last_refresh.lock().await;
        let newest = self.newest();
        let was_in_vain = last.as_ref().is_some_and(|(began, token)| {
            began.elapsed() < MIN_REFRESH_INTERVAL && token.as_ref() == rejected
        });
        if newer(&newest) || was_in_vain {
            return newest;
        }
        if let Some(rejected) = rejected {
            let mut last_rejected = self
                .0
                .rejected
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *last_rejected = Some(rejected.clone());
        }
        let began = Instant::now();
        // The error is kept as the file's last error, which `newest` reports if there is no token.
        let _ = self.0.file.reread().await;
        let newest = self.newest();
        *last = match newer(&newest) {
            true => None,
            false => Some((began, rejected.cloned())),
        };
        newest
    }
}

impl fmt::Debug for ProjectedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProjectedToken").field(&self.0.file).finish()
    }
}
