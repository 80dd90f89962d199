//! A token in a file that the kubelet replaces.

mod builder;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

pub use self::builder::ProjectedTokenBuilder;
use super::{TokenHealth, TokenSource};
use crate::error::Error;
use crate::sync::{Handle, Mutex, MutexGuard};
use crate::token::Token;
use crate::watched_file::{Changes, ClockFn, WatchedFile};

/// How often the file is read at most because a server rejects the newest token.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// How often the file is read while the token has expired.
const EXPIRED_INTERVAL: Duration = Duration::from_secs(1);

/// A token source: the token file of a projected volume, which the kubelet replaces while the pod is running.
///
/// The file is a [`WatchedFile`]. In addition it is read at 80 % of the token's lifetime, at the time in its claim
/// `kubernetes.io.warnafter`, when it expires, and then every second until there is a newer one.
///
/// - An expired token is not sent, unless [`send_expired`](ProjectedTokenBuilder::send_expired) is set.
/// - A token that expires earlier than the current one does not replace it, unless a server has rejected the current one.
///
/// Clones share the same file and task.
///
/// # Runtimes
///
/// A task on the tokio runtime in which the source was opened keeps the token up to date. If that runtime ends, the next
/// use within another runtime starts the task there; see [`WatchedFile`](WatchedFile#runtimes).
///
/// If [`current`](TokenSource::current) is called outside a runtime and the token has expired, it reads the file itself,
/// at most once per second. That blocks for up to the [`read_limit`](ProjectedTokenBuilder::read_limit).
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
/// use reqwest_wi_auth::{BearerAuth, ProjectedToken};
///
/// let token = ProjectedToken::open("/var/run/secrets/tokens/gke-sa").await?;
/// let auth = BearerAuth::for_origin("https://auth-server.example", token)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ProjectedToken(Arc<Inner>);

struct Inner {
    file: WatchedFile<Token>,
    when_expired: WhenExpired,
    clock: ClockFn,
    rejected: Arc<RejectedToken>,
    /// The last refresh that found no newer token. Locked while the file is read for a refresh.
    last_refresh: tokio::sync::Mutex<Option<Refresh>>,
    /// When the file was last read outside a runtime.
    last_blocking_read: Mutex<Option<std::time::Instant>>,
}

/// Whether an expired token is sent while there is no newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WhenExpired {
    Fail,
    Send,
}

/// The last token that a server has rejected.
#[derive(Default)]
struct RejectedToken(Mutex<Option<Token>>);

/// A refresh that found no newer token than the rejected one.
struct Refresh {
    began: Instant,
    rejected: Option<Token>,
}

impl RejectedToken {
    fn set(&self, token: &Token) {
        *self.lock() = Some(token.clone());
    }

    fn equals(&self, token: &Token) -> bool {
        self.lock().as_ref() == Some(token)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProjectedToken {
    /// Opens a token file with the default settings of its [`builder`](Self::builder), and waits for the token.
    ///
    /// # Errors
    ///
    /// Returns [`Error::File`], which contains the path, if there is no valid token within 5 s, or outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the timer of the runtime is not enabled.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder(path).open().await
    }

    /// Returns a builder with the default settings.
    pub fn builder(path: impl Into<PathBuf>) -> ProjectedTokenBuilder {
        ProjectedTokenBuilder::new(path.into())
    }

    /// Returns the path of the file, made absolute.
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Returns the state of the token. Starts no task, and performs no I/O.
    pub fn health(&self) -> TokenHealth {
        let file = self.0.file.health();
        let (present, expires_at) = self
            .0
            .file
            .peek(|token| (self.is_sendable(token), token.expires_at()));
        TokenHealth {
            present,
            expires_at,
            last_rotation: Some(file.last_change),
            last_error: file.last_error.map(Error::File),
        }
    }

    /// Returns the file that contains the token, for its [health](WatchedFile::health), and to
    /// [read it now](WatchedFile::reread).
    pub fn file(&self) -> &WatchedFile<Token> {
        &self.0.file
    }

    /// Returns a receiver of new tokens from now on.
    pub fn subscribe(&self) -> Changes<Token> {
        self.0.file.subscribe()
    }

    /// Ends the task for all clones, and waits until it has ended, for up to 1 s. The last token is sent until it expires.
    pub async fn shutdown(&self) {
        self.0.file.shutdown().await;
    }

    /// Returns whether a token has not expired, or is sent all the same.
    fn is_sendable(&self, token: &Token) -> bool {
        self.0.when_expired == WhenExpired::Send || !token.is_expired((self.0.clock)())
    }

    /// Returns the newest token, or an error if it has expired.
    fn newest(&self) -> Result<Token, Error> {
        let token = self.0.file.with(Token::clone);
        match token.expires_at() {
            Some(expiry) if !self.is_sendable(&token) => Err(self.expired_error(expiry)),
            _ => Ok(token),
        }
    }

    /// Reads the file and blocks the current thread, for a caller outside a runtime that has found the token expired.
    /// Returns whether it did.
    ///
    /// There may be no task that reads the file, since its runtime may have ended, or may not be driven.
    fn read_outside_runtime(&self) -> bool {
        if Handle::try_current().is_ok() {
            return false;
        }
        let now = std::time::Instant::now();
        let mut last = self
            .0
            .last_blocking_read
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now - last < EXPIRED_INTERVAL) {
            return false;
        }
        *last = Some(now);
        drop(last);
        // An error is recorded as the last error of the file.
        let _ = self.0.file.reread_blocking();
        true
    }

    fn expired_error(&self, since: SystemTime) -> Error {
        let file = self.0.file.health();
        let state = match file.last_error {
            Some(error) => error.to_string(),
            None if file.running => "the file still contains the same token".to_owned(),
            None => {
                "the file is no longer read: the tokio runtime of its task has ended, or it was \
                     shut down"
                    .to_owned()
            }
        };
        Error::Expired {
            location: self.path().display().to_string(),
            since,
            state,
        }
    }
}

#[async_trait]
impl TokenSource for ProjectedToken {
    fn current(&self) -> Result<Token, Error> {
        match self.newest() {
            Err(_) if self.read_outside_runtime() => self.newest(),
            newest => newest,
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let is_newer = |newest: &Result<Token, Error>| {
            newest.as_ref().is_ok_and(|token| Some(token) != rejected)
        };
        let newest = self.newest();
        if is_newer(&newest) {
            return newest;
        }
        // Callers that wait for this lock use the result of the read of the caller that holds it.
        let mut last = self.0.last_refresh.lock().await;
        let newest = self.newest();
        let was_tried = last.as_ref().is_some_and(|last| {
            last.began.elapsed() < MIN_REFRESH_INTERVAL && last.rejected.as_ref() == rejected
        });
        if is_newer(&newest) || was_tried {
            return newest;
        }
        if let Some(rejected) = rejected {
            self.0.rejected.set(rejected);
        }
        let began = Instant::now();
        // An error is recorded as the last error of the file, which `newest` returns if there is no token.
        let _ = self.0.file.reread().await;
        let newest = self.newest();
        *last = (!is_newer(&newest)).then(|| Refresh {
            began,
            rejected: rejected.cloned(),
        });
        newest
    }
}

impl fmt::Debug for ProjectedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProjectedToken").field(&self.0.file).finish()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod fuzz;
