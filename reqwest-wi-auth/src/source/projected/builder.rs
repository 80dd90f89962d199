//! The settings of a projected token.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{EXPIRED_INTERVAL, Inner, ProjectedToken, RejectedToken, WhenExpired};
use crate::error::Error;
#[cfg(feature = "federation")]
use crate::source::json_member::find_member;
use crate::sync::Mutex;
use crate::telemetry;
use crate::token::jwt::Audiences;
use crate::token::{Token, TokenFormat};
use crate::watched_file::{
    ClockFn, DEFAULT_READ_LIMIT, DEFAULT_STARTUP_LIMIT, ParseError, ReadFn, WatchedFile,
};

/// The settings of a [`ProjectedToken`]. Created by [`ProjectedToken::builder`].
///
/// If a setting is set twice, the last value is used.
#[must_use = "a builder does nothing until `open` is called"]
pub struct ProjectedTokenBuilder {
    path: PathBuf,
    startup_limit: Duration,
    read_limit: Duration,
    audience: Option<String>,
    format: TokenFormat,
    /// The name of the JSON member that contains the token, or `None` if the file contains only the token.
    #[cfg(feature = "federation")]
    json_member: Option<String>,
    when_expired: WhenExpired,
    /// `None` for the default of [`WatchedFile`].
    read: Option<ReadFn>,
    clock: ClockFn,
}

impl ProjectedTokenBuilder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            startup_limit: DEFAULT_STARTUP_LIMIT,
            read_limit: DEFAULT_READ_LIMIT,
            audience: None,
            format: TokenFormat::Jwt,
            #[cfg(feature = "federation")]
            json_member: None,
            when_expired: WhenExpired::Fail,
            read: None,
            clock: Arc::new(SystemTime::now),
        }
    }

    /// Sets how long [`open`](Self::open) waits for the token. Default: 5 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::ProjectedToken;
    ///
    /// let error = ProjectedToken::builder("/nonexistent/token")
    ///     .startup_limit(Duration::from_millis(10))
    ///     .open()
    ///     .await
    ///     .unwrap_err();
    /// assert!(error.to_string().contains("/nonexistent/token had no valid content within 10ms"));
    /// # }
    /// ```
    pub fn startup_limit(mut self, limit: Duration) -> Self {
        self.startup_limit = limit;
        self
    }

    /// Sets how long one read of the file may take. Default: 5 s.
    ///
    /// A read that takes longer is an error, and the token in use stays in use. See
    /// [`WatchedFileBuilder::read_limit`](crate::WatchedFileBuilder::read_limit).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), reqwest_wi_auth::Error> {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::ProjectedToken;
    ///
    /// let token = ProjectedToken::builder("/mnt/nfs/token")
    ///     .read_limit(Duration::from_secs(30))
    ///     .startup_limit(Duration::from_secs(60))
    ///     .open()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_limit(mut self, limit: Duration) -> Self {
        self.read_limit = limit;
        self
    }

    /// Requires the token to be issued for an audience: one of the values of its `aud` claim has to equal it. Default: the
    /// audience is not checked.
    ///
    /// A token for other audiences is an error, and does not replace the one in use.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("token");
    /// # std::fs::write(&path, "eyJhbGciOiJub25lIn0.e30.c2ln")?;
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::ProjectedToken;
    ///
    /// // The token in this file has no audience.
    /// let error = ProjectedToken::builder(path)
    ///     .audience("https://auth-server.example")
    ///     .startup_limit(Duration::ZERO)
    ///     .open()
    ///     .await
    ///     .unwrap_err();
    /// assert!(error.to_string().contains("expected the audience \"https://auth-server.example\""));
    /// # Ok(())
    /// # }
    /// ```
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audience = Some(audience.into());
        self
    }

    /// Accepts tokens that are not JWTs. Default: anything other than a JWT is an error, since it is a mistake on
    /// Kubernetes.
    ///
    /// The expiry of such a token is not known, so it is replaced only when the file changes.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("token");
    /// use reqwest_wi_auth::{ProjectedToken, TokenSource as _};
    ///
    /// std::fs::write(&path, "s3cr3t\n")?;
    /// let token = ProjectedToken::builder(path).allow_opaque().open().await?;
    /// assert_eq!(token.current()?.header(), "Bearer s3cr3t");
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_opaque(mut self) -> Self {
        self.format = TokenFormat::Opaque;
        self
    }

    /// Sets the name of the JSON member that contains the token. Default: the file contains only the token.
    #[cfg(feature = "federation")]
    pub(crate) fn json_member(mut self, name: Option<String>) -> Self {
        self.json_member = name;
        self
    }

    /// Sends an expired token while there is no newer one, for machines whose clock is wrong. Default: the request fails
    /// with [`Error::Expired`].
    ///
    /// A server whose clock is right rejects such a token.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("token");
    /// # std::fs::write(&path, "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln")?;
    /// use reqwest_wi_auth::{Error, ProjectedToken, TokenSource as _};
    ///
    /// // The token in this file expired in 1970.
    /// let token = ProjectedToken::open(&path).await?;
    /// assert!(matches!(token.current(), Err(Error::Expired { .. })));
    ///
    /// let token = ProjectedToken::builder(&path).send_expired().open().await?;
    /// assert!(token.current().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn send_expired(mut self) -> Self {
        self.when_expired = WhenExpired::Send;
        self
    }

    /// Sets the function that reads the file, for tests of read errors. It runs on a thread that may block. Default: a
    /// function that reads regular files of up to 16 MiB.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use reqwest_wi_auth::{ProjectedToken, TokenSource as _};
    ///
    /// let token = ProjectedToken::builder("/any/path")
    ///     .reader(|_| Ok("eyJhbGciOiJub25lIn0.e30.c2ln".into()))
    ///     .open()
    ///     .await?;
    /// assert_eq!(token.current()?.header(), "Bearer eyJhbGciOiJub25lIn0.e30.c2ln");
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn reader(
        mut self,
        read: impl Fn(&std::path::Path) -> std::io::Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.read = Some(Arc::new(read));
        self
    }

    /// Sets the function that returns the current time, for tests. Default: [`SystemTime::now`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("token");
    /// # std::fs::write(&path, "eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln")?;
    /// use std::time::SystemTime;
    ///
    /// use reqwest_wi_auth::{ProjectedToken, TokenSource as _};
    ///
    /// // The token in this file expired in 1970, one second after the epoch.
    /// let token = ProjectedToken::builder(path).clock(|| SystemTime::UNIX_EPOCH).open().await?;
    /// assert!(token.current().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "testing")]
    pub fn clock(mut self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Waits for the token, and spawns a task on the current tokio runtime that keeps it up to date. See
    /// [Runtimes](ProjectedToken#runtimes) for what happens when that runtime ends.
    ///
    /// A file that is missing or does not contain a valid token is read again when the operating system reports a change,
    /// and after delays of 5 ms to 5 s. Dropping the future leaves no task or watch behind.
    ///
    /// # Errors
    ///
    /// Returns [`Error::File`], which contains the path, if there is no valid token within the
    /// [`startup_limit`](Self::startup_limit), or outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics if the timer of the runtime is not enabled.
    pub async fn open(self) -> Result<ProjectedToken, Error> {
        let (format, audience) = (self.format, self.audience);
        #[cfg(feature = "federation")]
        let json_member = self.json_member;
        let parse = move |bytes: &[u8]| {
            #[cfg(feature = "federation")]
            if let Some(name) = &json_member {
                let token = find_member(bytes, name)?;
                return parse(token.as_bytes(), format, audience.as_deref());
            }
            parse(bytes, format, audience.as_deref())
        };
        let rejected = Arc::<RejectedToken>::default();
        let is_rejected = rejected.clone();
        let label = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let label = label.display().to_string();
        // The task calls this for the token in use before each pause, so the recorded times are those of the current token.
        let reread_at = move |token: &Token, now| {
            telemetry::token_in_use(&label, token);
            reread_at(token, now)
        };
        let mut file = WatchedFile::builder(self.path, parse)
            .startup_limit(self.startup_limit)
            .read_limit(self.read_limit)
            .reread_at(reread_at)
            .check_replacement(move |current, new| check_replacement(current, new, &is_rejected))
            .with_clock(self.clock.clone());
        if let Some(read) = self.read {
            file = file.with_reader(read);
        }
        Ok(ProjectedToken(Arc::new(Inner {
            file: file.open().await?,
            when_expired: self.when_expired,
            clock: self.clock,
            rejected,
            last_refresh: tokio::sync::Mutex::default(),
            last_blocking_read: Mutex::default(),
        })))
    }
}

/// Parses the content of the file, and checks the audience of the token.
fn parse(bytes: &[u8], format: TokenFormat, audience: Option<&str>) -> Result<Token, ParseError> {
    let token = Token::parse(bytes, format)?;
    let Some(expected) = audience else {
        return Ok(token);
    };
    // A token that is not a JWT has no audience.
    let audiences = Token::parse_jwt(bytes).map_or_else(|_| Vec::new(), |(_, audiences)| audiences);
    if audiences.iter().any(|found| found == expected) {
        return Ok(token);
    }
    let found = Audiences(&audiences);
    Err(format!("the token is for {found}, expected the audience {expected:?}").into())
}

/// Returns an error if a new token expires earlier than the current one, so that it is an old token, for example from a
/// backup. Accepts it if a server has rejected the current one.
fn check_replacement(
    current: &Token,
    new: &Token,
    rejected: &RejectedToken,
) -> Result<(), ParseError> {
    if new.expires_before(current) && !rejected.equals(current) {
        return Err("the token expires earlier than the one in use".into());
    }
    Ok(())
}

/// Returns when the file has to be read again because of the token.
fn reread_at(token: &Token, now: SystemTime) -> Option<SystemTime> {
    if token.is_expired(now) {
        return now.checked_add(EXPIRED_INTERVAL);
    }
    token.next_renewal(now)
}

impl fmt::Debug for ProjectedTokenBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectedTokenBuilder")
            .field("path", &self.path)
            .field("startup_limit", &self.startup_limit)
            .field("read_limit", &self.read_limit)
            .field("audience", &self.audience)
            .field("format", &self.format)
            .field("when_expired", &self.when_expired)
            .finish_non_exhaustive()
    }
}
