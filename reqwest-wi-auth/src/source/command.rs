//! A token that a command prints, for workstations.

mod credential;
mod process;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use self::process::Invocation;
use super::{TokenSource, unexpired};
use crate::backoff::Backoff;
use crate::error::Error;
use crate::telemetry;
use crate::token::{Token, TokenFormat};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// How often the command is run at most because a server rejects its tokens.
const MIN_INTERVAL: Duration = Duration::from_secs(5);

/// How long the command is not run after failures.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// A token source: a command that prints a token, which is kept until it expires. For workstations.
///
/// The command runs when a token is first needed, when the current token has expired, and when a server has rejected the
/// current token; in that last case at most every 5 s. Concurrent requests share one run. If the command fails, all of them
/// get its error,
/// and it is not run again for 1 s, doubling up to 60 s with each further failure. A failure is logged as a warning, and at
/// debug level while the error stays the same.
///
/// # Output
///
/// The command prints one of the following, of at most 64 KiB, to its standard output:
///
/// - a JWT, which is kept until its `exp`
/// - a token of any format, if [`allow_opaque`](Self::allow_opaque) is set, which is kept until a server rejects it
/// - an `ExecCredential` of Kubernetes as JSON (`client.authentication.k8s.io/v1` or `v1beta1`) with a token of any format
///   in `status.token`, which is kept until `status.expirationTimestamp`, or the `exp` of the token if that is earlier
///
/// # Process
///
/// The command runs without a shell. It inherits the environment and standard error of this process; `KUBERNETES_EXEC_INFO`
/// is not set. Its standard input is empty. On Unix it runs in a separate process group, which is killed (on other systems,
/// only the process) if the command takes longer than the
/// [`timeout`](Self::timeout), prints too much, or the tokio runtime that started it ends.
///
/// # Examples
///
/// ```
/// use reqwest_wi_auth::CommandToken;
///
/// let kubectl = CommandToken::new("kubectl")
///     .args(["create", "token", "gke-sa", "--namespace", "id-namespace"])
///     .args(["--audience", "https://auth-server.example"]);
/// let gcloud = CommandToken::new("gcloud").args(["auth", "print-identity-token"]);
/// ```
#[must_use = "runs no command until it is used as a token source"]
pub struct CommandToken {
    invocation: Invocation,
    format: TokenFormat,
    cached: Arc<ArcSwapOption<Token>>,
    state: Arc<Mutex<State>>,
}

/// Receives the result of a run.
type RunResult = watch::Receiver<Option<Result<Token, Error>>>;

#[derive(Default)]
struct State {
    running: Option<RunResult>,
    last_run: Option<Instant>,
    /// The number of failed runs since the last successful one.
    failures: u32,
    /// The error of the last run if it failed, and until when the command is not run again.
    failed: Option<(Error, Instant)>,
}

/// Whether the command has to be run for a refresh.
enum Decision {
    /// The command is running.
    AwaitRun(RunResult),
    /// The command need not be run, or must not be run again yet.
    Return(Result<Token, Error>),
}

impl CommandToken {
    /// Creates a source that runs a program, which is looked up in `PATH` if it contains no slash.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            invocation: Invocation {
                program: program.as_ref().to_owned(),
                arguments: Vec::new(),
                timeout: DEFAULT_TIMEOUT,
            },
            format: TokenFormat::Jwt,
            cached: Arc::default(),
            state: Arc::default(),
        }
    }

    /// Adds arguments. They are passed as they are, without interpretation by a shell.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{CommandToken, TokenSource as _};
    ///
    /// let source = CommandToken::new("echo").args(["eyJhbGciOiJub25lIn0.e30.c2ln"]);
    /// assert_eq!(source.refresh(None).await?.header(), "Bearer eyJhbGciOiJub25lIn0.e30.c2ln");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter();
        self.invocation
            .arguments
            .extend(arguments.map(|argument| OsString::from(argument.as_ref())));
        self
    }

    /// Sets how long the command may run. After that, its process group is killed. Default: 30 s.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use std::time::Duration;
    ///
    /// use reqwest_wi_auth::{CommandToken, TokenSource as _};
    ///
    /// let source = CommandToken::new("sleep").args(["60"]).timeout(Duration::from_millis(10));
    /// let error = source.refresh(None).await.unwrap_err();
    /// assert!(error.to_string().contains("took more than 10ms"));
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.invocation.timeout = timeout;
        self
    }

    /// Accepts tokens that are not JWTs. Default: anything other than a JWT is an error, since it is often an error
    /// message, or not the intended kind of token.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), reqwest_wi_auth::Error> {
    /// use reqwest_wi_auth::{CommandToken, TokenSource as _};
    ///
    /// let source = CommandToken::new("echo").args(["s3cr3t"]).allow_opaque();
    /// assert_eq!(source.refresh(None).await?.header(), "Bearer s3cr3t");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn allow_opaque(mut self) -> Self {
        self.format = TokenFormat::Opaque;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Starts a run of the command if one is required and none is going on.
    ///
    /// The run continues if its callers stop waiting, so that callers with short timeouts do not prevent it from
    /// completing.
    fn decide(&self, rejected: Option<&Token>) -> Decision {
        let mut state = self.state();
        if let Some(running) = &state.running {
            return Decision::AwaitRun(running.clone());
        }
        let current = self.current();
        let is_newer = current.as_ref().is_ok_and(|token| Some(token) != rejected);
        let is_recent = state
            .last_run
            .is_some_and(|last| last.elapsed() < MIN_INTERVAL);
        if is_newer || is_recent && current.is_ok() {
            return Decision::Return(current);
        }
        if let Some((error, until)) = &state.failed
            && Instant::now() < *until
        {
            return Decision::Return(current.map_err(|_| error.clone()));
        }
        state.last_run = Some(Instant::now());
        let (sender, result) = watch::channel(None);
        state.running = Some(result.clone());
        drop(state);
        let run = Run {
            invocation: self.invocation.clone(),
            format: self.format,
            cached: self.cached.clone(),
            state: self.state.clone(),
            result: sender,
        };
        tokio::spawn(run.run());
        Decision::AwaitRun(result)
    }
}

/// A run of the command, on the runtime of the caller that needed it first.
struct Run {
    invocation: Invocation,
    format: TokenFormat,
    cached: Arc<ArcSwapOption<Token>>,
    state: Arc<Mutex<State>>,
    result: watch::Sender<Option<Result<Token, Error>>>,
}

impl Run {
    async fn run(self) {
        let output = self.invocation.output().await;
        let token = output.and_then(|output| {
            let token = credential::parse(&output, self.format);
            token.map_err(|reason| self.invocation.error(reason))
        });
        let mut state = lock(&self.state);
        let before = state.failed.take().map(|(before, _)| before);
        match &token {
            Ok(token) => {
                self.cached.store(Some(Arc::new(token.clone())));
                state.failures = 0;
            }
            Err(error) => {
                state.failures = state.failures.saturating_add(1);
                let until = Instant::now() + BACKOFF.delay(state.failures);
                state.failed = Some((error.clone(), until));
            }
        }
        drop(state);
        if let Err(error) = &token {
            let program = self.invocation.name();
            if before.is_some_and(|before| before.to_string() == error.to_string()) {
                telemetry::command_still_failed(&program, error);
            } else {
                telemetry::command_failed(&program, error);
            }
        }
        self.result.send_replace(Some(token));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        lock(&self.state).running = None;
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl TokenSource for CommandToken {
    fn current(&self) -> Result<Token, Error> {
        let location = self.invocation.name();
        match &*self.cached.load() {
            Some(token) => unexpired(
                token,
                SystemTime::now(),
                &location,
                "the next refresh runs the command",
            ),
            None => Err(Error::NotFetched { location }),
        }
    }

    /// # Panics
    ///
    /// Panics outside a tokio runtime if the command has to be run.
    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let mut result = match self.decide(rejected) {
            Decision::AwaitRun(result) => result,
            Decision::Return(result) => return result,
        };
        let ended = result.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|result| result.clone());
        match ended {
            // If the command has printed an expired token, this is an error.
            Some(Ok(_)) => self.current(),
            Some(Err(error)) => self.current().map_err(|_| error),
            None => Err(self
                .invocation
                .error("the tokio runtime that started it has ended")),
        }
    }
}

impl fmt::Debug for CommandToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandToken")
            .field("program", &self.invocation.program)
            .finish_non_exhaustive()
    }
}
