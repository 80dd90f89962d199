//! The token that a command prints: for laptops.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{TokenSource, unexpired};
use crate::error::Error;
use crate::token::Token;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Servers that reject every token have the command run no more often than this.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
const MAX_BYTES: u64 = 64 * 1024;

/// The token that a command prints on its standard output, kept until it expires.
///
/// The command is run without a shell, when a token is first needed and when the last one has expired
/// or was rejected, by one caller at a time. Its standard error is this process's. A token without
/// `exp` is kept until it is rejected.
///
/// ```
/// use reqwest_wi_auth::CommandToken;
///
/// let kubectl = CommandToken::new("kubectl")
///     .args(["create", "token", "gke-sa", "--namespace", "id-namespace"])
///     .args(["--audience", "https://auth-server.example"]);
/// let gcloud = CommandToken::new("gcloud").args(["auth", "print-identity-token"]);
/// ```
#[must_use]
pub struct CommandToken {
    program: OsString,
    arguments: Vec<OsString>,
    timeout: Duration,
    opaque: bool,
    cached: ArcSwapOption<Token>,
    /// Held while the command runs; when it was run last.
    run: Mutex<Option<Instant>>,
}

impl CommandToken {
    /// The output of this program, which is looked for in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            opaque: false,
            cached: ArcSwapOption::empty(),
            run: Mutex::new(None),
        }
    }

    /// Adds arguments, each handed on as it is.
    ///
    /// ```
    /// # use reqwest_wi_auth::CommandToken;
    /// let token = CommandToken::new("gcloud").args(["auth", "print-identity-token"]);
    /// ```
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(
            arguments
                .into_iter()
                .map(|argument| argument.as_ref().to_owned()),
        );
        self
    }

    /// How long the command may take before it is ended. Default: 30 s.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::CommandToken};
    /// let token = CommandToken::new("gcloud").timeout(Duration::from_secs(60));
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Takes tokens that are no JWTs too.
    ///
    /// ```
    /// # use reqwest_wi_auth::CommandToken;
    /// let token = CommandToken::new("gcloud").args(["auth", "print-access-token"]).allow_opaque();
    /// ```
    pub fn allow_opaque(mut self) -> Self {
        self.opaque = true;
        self
    }

    fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Command {
            program: self.name(),
            reason: reason.into(),
        }
    }

    async fn run(&self) -> Result<Token, Error> {
        let output = tokio::time::timeout(self.timeout, self.output()).await;
        let output =
            output.map_err(|_| self.failed(format!("it took over {:?}", self.timeout)))??;
        if self.opaque {
            Token::opaque(&*output)
        } else {
            Token::new(&*output)
        }
        .map_err(|error| self.failed(error.to_string()))
    }

    /// What it prints. It is killed when the future is dropped.
    async fn output(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let failed = |error: std::io::Error| self.failed(error.to_string());
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let mut output = Zeroizing::new(Vec::with_capacity(MAX_BYTES as usize));
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX_BYTES)
                .read_to_end(&mut output)
                .await
                .map_err(failed)?;
        }
        let status = child.wait().await.map_err(failed)?;
        if !status.success() {
            return Err(self.failed(format!("{status}; see what it says on standard error")));
        }
        Ok(output)
    }
}

#[async_trait]
impl TokenSource for CommandToken {
    fn current(&self) -> Result<Token, Error> {
        let origin = self.name();
        match &*self.cached.load() {
            Some(token) => unexpired(token, &origin, "the command is run at the next refresh"),
            None => Err(Error::NotFetched { origin }),
        }
    }

    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let mut last_run = self.run.lock().await;
        let current = self.current();
        let is_newer = current.as_ref().is_ok_and(|token| Some(token) != rejected);
        let is_recent = last_run.is_some_and(|last| last.elapsed() < MIN_INTERVAL);
        if is_newer || is_recent && current.is_ok() {
            return current;
        }
        *last_run = Some(Instant::now());
        let token = self.run().await?;
        self.cached.store(Some(token.clone().into()));
        self.current()
    }
}

impl fmt::Debug for CommandToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandToken")
            .field("program", &self.program)
            .finish_non_exhaustive()
    }
}
