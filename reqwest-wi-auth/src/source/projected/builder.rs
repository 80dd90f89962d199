//! The settings of a projected token.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::{EXPIRED_INTERVAL, Inner, Now, ProjectedToken};
use crate::error::Error;
use crate::token::Token;
use crate::watched_file::{WatchedFile, WatchedFileBuilder};

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
    pub(super) fn new(path: PathBuf) -> Self {
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
