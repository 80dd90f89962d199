//! The settings of a projected token.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::{EXPIRED_INTERVAL, Inner, Now, ProjectedToken};
use crate::error::Error;
use crate::token::Token;
use crate::token::jwt::Audiences;
use crate::watched_file::{ParseError, WatchedFile, WatchedFileBuilder};

/// Settings of a [`ProjectedToken`].
#[must_use]
pub struct ProjectedTokenBuilder {
    path: PathBuf,
    file: Box<dyn FnOnce(WatchedFileBuilder<Token>) -> WatchedFileBuilder<Token> + Send>,
    audience: Option<String>,
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
            audience: None,
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

    /// Sets how long a read of the file may take: see [`WatchedFileBuilder::read_limit`]. Default: 5 s.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::ProjectedToken};
    /// let token = ProjectedToken::builder("/run/token").read_limit(Duration::from_secs(30));
    /// ```
    pub fn read_limit(self, limit: Duration) -> Self {
        self.file(move |file| file.read_limit(limit))
    }

    /// Requires the token to be for this audience: one of its `aud` claim's values has to equal it. A token for others is
    /// an error, and does not replace the one in use. Default: the audience is not checked.
    ///
    /// ```
    /// # use reqwest_wi_auth::ProjectedToken;
    /// let token = ProjectedToken::builder("/run/token").audience("https://auth-server.example");
    /// ```
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
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

    /// Reads the file by this function, on a thread that may block: for tests. Default: regular files of up to 16 MB.
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

    /// Waits for the token and starts to follow its file: spawns a task on the current tokio runtime. Dropping the future
    /// before it is done leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Returns [`Error::File`], which names the path, if there is no valid token in time, or outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the runtime's timer is not enabled.
    pub async fn open(self) -> Result<ProjectedToken, Error> {
        let (opaque, now) = (self.opaque, self.now.clone());
        let audience = self.audience;
        let parse = move |bytes: &[u8]| {
            let (token, audiences) = match opaque {
                true => (
                    Token::opaque(bytes)?,
                    Token::with_audiences(bytes)
                        .map_or_else(|_| Vec::new(), |(_, audiences)| audiences),
                ),
                false => Token::with_audiences(bytes)?,
            };
            match &audience {
                Some(audience) if !audiences.contains(audience) => Err(format!(
                    "the token is for {}, expected the audience {audience:?}",
                    Audiences(&audiences)
                )
                .into()),
                _ => Ok(token),
            }
        };
        let rejected = Arc::<Mutex<Option<Token>>>::default();
        let file = WatchedFile::builder(self.path, parse)
            .renewal(renewal)
            .clock(move || now())
            .replacing(replaces(rejected.clone()));
        let file = (self.file)(file).open().await?;
        Ok(ProjectedToken(Arc::new(Inner {
            file,
            send_expired: self.send_expired,
            now: self.now,
            rejected,
            last_refresh: tokio::sync::Mutex::default(),
            last_read_on_the_spot: Mutex::default(),
        })))
    }
}

/// A token that expires earlier than the one in use is an old one, such as from a backup, and does not replace it unless a
/// server has rejected the one in use.
fn replaces(
    rejected: Arc<Mutex<Option<Token>>>,
) -> impl Fn(&Token, &Token) -> Result<(), ParseError> + Send + Sync + 'static {
    move |current, new| {
        let rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner);
        if new.expires_before(current) && rejected.as_ref() != Some(current) {
            return Err("the token expires earlier than the one in use".into());
        }
        Ok(())
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
