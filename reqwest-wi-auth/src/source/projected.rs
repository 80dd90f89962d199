//! A token file that the kubelet rotates.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio::time::Instant;

use super::TokenSource;
use crate::error::Error;
use crate::token::Token;
use crate::watched_file::{Changes, FileHealth, WatchedFile, WatchedFileBuilder};

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

    /// How the following of the file goes.
    pub fn health(&self) -> FileHealth {
        self.0.file.health()
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
        let state = match self.health().last_error {
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

/// Settings of a [`ProjectedToken`].
#[must_use]
pub struct ProjectedTokenBuilder {
    path: PathBuf,
    file: Box<dyn FnOnce(WatchedFileBuilder<Token>) -> WatchedFileBuilder<Token> + Send>,
    opaque: bool,
    send_expired: bool,
    now: Now,
}

impl ProjectedTokenBuilder {
    fn new(path: PathBuf) -> Self {
        let now = Arc::new(SystemTime::now);
        Self {
            path,
            file: Box::new(|file| file),
            opaque: false,
            send_expired: false,
            now,
        }
    }

    fn file(
        mut self,
        set: impl FnOnce(WatchedFileBuilder<Token>) -> WatchedFileBuilder<Token> + Send + 'static,
    ) -> Self {
        let before = self.file;
        self.file = Box::new(|file| set(before(file)));
        self
    }

    /// How long [`open`](Self::open) waits for the token. Default: 5 s.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::ProjectedToken};
    /// let token = ProjectedToken::builder("/run/token").startup_limit(Duration::from_secs(30));
    /// ```
    pub fn startup_limit(self, limit: Duration) -> Self {
        self.file(move |file| file.startup_limit(limit))
    }

    /// Takes tokens that are no JWTs too. They have no expiry, so the file's changes are all there is.
    /// Default: a JWT is asked for, since anything else is a mistake on Kubernetes.
    ///
    /// ```
    /// # use reqwest_wi_auth::ProjectedToken;
    /// let token = ProjectedToken::builder("/run/token").allow_opaque();
    /// ```
    pub fn allow_opaque(mut self) -> Self {
        self.opaque = true;
        self
    }

    /// Sends a token that has expired while there is no other: for a machine whose clock is wrong. The
    /// server will hardly take it. Default: the request fails with [`Error::Expired`].
    ///
    /// ```
    /// # use reqwest_wi_auth::ProjectedToken;
    /// let token = ProjectedToken::builder("/run/token").send_expired();
    /// ```
    pub fn send_expired(mut self) -> Self {
        self.send_expired = true;
        self
    }

    /// Reads the file by this function instead of [`std::fs::read`]: for tests.
    ///
    /// ```
    /// # use reqwest_wi_auth::ProjectedToken;
    /// let token = ProjectedToken::builder("/run/token").reader(|path| std::fs::read(path));
    /// ```
    pub fn reader(
        self,
        read: impl Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.file(|file| file.reader(read))
    }

    /// Takes the time of day from here instead of from the system: for tests.
    ///
    /// ```
    /// # use {std::time::SystemTime, reqwest_wi_auth::ProjectedToken};
    /// let token = ProjectedToken::builder("/run/token").clock(|| SystemTime::UNIX_EPOCH);
    /// ```
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    /// Waits for the token and starts to follow its file: spawns one task on the current tokio runtime.
    /// Dropping the future before it is done leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`Error::File`], which names the path, if there is no token in time.
    pub async fn open(self) -> Result<ProjectedToken, Error> {
        let (opaque, now) = (self.opaque, self.now.clone());
        let parse = move |bytes: &[u8]| match opaque {
            true => Ok(Token::opaque(bytes)?),
            false => Ok(Token::new(bytes)?),
        };
        let file = WatchedFile::builder(self.path, parse)
            .renewal(renewal)
            .clock(move || now());
        let file = (self.file)(file).open().await?;
        Ok(ProjectedToken(Arc::new(Inner {
            file,
            send_expired: self.send_expired,
            now: self.now,
            last_refresh: Mutex::default(),
        })))
    }
}

fn renewal(token: &Token, now: SystemTime) -> Option<SystemTime> {
    if token.is_expired(now) {
        return now.checked_add(EXPIRED_INTERVAL);
    }
    token.renewal_after(now)
}

impl fmt::Debug for ProjectedTokenBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectedTokenBuilder")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
