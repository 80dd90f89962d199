//! The token that a command prints: for workstations.

mod credential;
mod process;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::Instant;

use self::process::Invocation;
use super::{TokenSource, unexpired};
use crate::error::Error;
use crate::token::Token;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// A server that rejects every token causes the command to run no more often than this.
const MIN_INTERVAL: Duration = Duration::from_secs(5);
/// The pause after the first failure; it doubles with each further one.
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// The token that a command prints on its standard output, kept until it expires.
///
/// The command is run without a shell, when a token is first needed and when the last one has expired or was rejected.
/// However many requests wait, it runs once for all of them. If it fails, they all get its error, and it is not run again
/// for 1 s, doubling up to 60 s with each further failure. Its standard error is this process's.
///
/// It runs in a process group of its own, on Unix. If it takes too long, prints more than 64 kB, or nobody's runtime waits
/// for it any more, the whole group is killed.
///
/// The output is a JWT, or any token if [`allow_opaque`](Self::allow_opaque) is set, which is kept until its `exp`, or
/// until it is rejected if it has none. It can also be an `ExecCredential` of Kubernetes as JSON
/// (`client.authentication.k8s.io/v1` or `v1beta1`) with a token of any kind in `status.token`, which is kept until
/// `status.expirationTimestamp`.
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
    invocation: Invocation,
    opaque: bool,
    cached: Arc<ArcSwapOption<Token>>,
    state: Arc<Mutex<State>>,
}

/// The result of one run, once there is one.
type Outcome = watch::Receiver<Option<Result<Token, Error>>>;

#[derive(Default)]
struct State {
    running: Option<Outcome>,
    last_run: Option<Instant>,
    failures: u32,
    /// The last run's error, and until when the command is not run again.
    failed: Option<(Error, Instant)>,
}

impl CommandToken {
    /// Creates a source from a program, which is looked for in `PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            invocation: Invocation {
                program: program.as_ref().to_owned(),
                arguments: Vec::new(),
                timeout: DEFAULT_TIMEOUT,
            },
            opaque: false,
            cached: Arc::default(),
            state: Arc::default(),
        }
    }

    /// Adds arguments, each handed on as it is.
    ///
    /// ```
    /// # use reqwest_wi_auth::CommandToken;
    /// let token = CommandToken::new("gcloud").args(["auth", "print-identity-token"]);
    /// ```
    pub fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        let arguments = arguments.into_iter();
        self.invocation
            .arguments
            .extend(arguments.map(|argument| OsString::from(argument.as_ref())));
        self
    }

    /// Sets how long the command may take before its process group is killed. Default: 30 s.
    ///
    /// ```
    /// # use {std::time::Duration, reqwest_wi_auth::CommandToken};
    /// let token = CommandToken::new("gcloud").timeout(Duration::from_secs(60));
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.invocation.timeout = timeout;
        self
    }

    /// Accepts tokens that are not JWTs. Default: a JWT is required, since anything else is usually an error message or a
    /// token of another kind than was meant.
    ///
    /// ```
    /// # use reqwest_wi_auth::CommandToken;
    /// let token = CommandToken::new("gcloud").args(["auth", "print-access-token"]).allow_opaque();
    /// ```
    pub fn allow_opaque(mut self) -> Self {
        self.opaque = true;
        self
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Returns the outcome of the run that is going on, and starts one if there is none. It goes on if nobody waits for
    /// it, so that callers with short timeouts do not keep it from ending.
    ///
    /// `Err`: there is no need to run the command, or it must not be run again yet.
    fn run(&self, rejected: Option<&Token>) -> Result<Outcome, Result<Token, Error>> {
        let mut state = self.state();
        if let Some(running) = &state.running {
            return Ok(running.clone());
        }
        let current = self.current();
        let is_newer = current.as_ref().is_ok_and(|token| Some(token) != rejected);
        let is_recent = state
            .last_run
            .is_some_and(|last| last.elapsed() < MIN_INTERVAL);
        if is_newer || is_recent && current.is_ok() {
            return Err(current);
        }
        if let Some((error, until)) = &state.failed
            && Instant::now() < *until
        {
            return Err(match current {
                Ok(token) => Ok(token),
                Err(_) => Err(error.clone()),
            });
        }
        state.last_run = Some(Instant::now());
        let (sender, outcome) = watch::channel(None);
        state.running = Some(outcome.clone());
        drop(state);
        let run = Run {
            invocation: self.invocation.clone(),
            opaque: self.opaque,
            cached: self.cached.clone(),
            state: self.state.clone(),
            outcome: sender,
        };
        tokio::spawn(run.run());
        Ok(outcome)
    }
}

/// One run of the command, on the runtime of whoever needed it first.
struct Run {
    invocation: Invocation,
    opaque: bool,
    cached: Arc<ArcSwapOption<Token>>,
    state: Arc<Mutex<State>>,
    outcome: watch::Sender<Option<Result<Token, Error>>>,
}

impl Run {
    async fn run(self) {
        let output = self.invocation.output().await;
        let token = output.and_then(|output| {
            let token = credential::parse(&output, self.opaque);
            token.map_err(|reason| self.invocation.failed(reason))
        });
        let mut state = lock(&self.state);
        match &token {
            Ok(token) => {
                self.cached.store(Some(Arc::new(token.clone())));
                state.failures = 0;
                state.failed = None;
            }
            Err(error) => {
                let doublings = state.failures.min(16);
                let backoff = MIN_BACKOFF.saturating_mul(1 << doublings).min(MAX_BACKOFF);
                state.failures = state.failures.saturating_add(1);
                state.failed = Some((error.clone(), Instant::now() + backoff));
            }
        }
        drop(state);
        self.outcome.send_replace(Some(token));
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
        let origin = self.invocation.name();
        match &*self.cached.load() {
            Some(token) => unexpired(token, &origin, "the command is run at the next refresh"),
            None => Err(Error::NotFetched { origin }),
        }
    }

    /// # Panics
    ///
    /// Panics outside a tokio runtime if the command has to be run.
    async fn refresh(&self, rejected: Option<&Token>) -> Result<Token, Error> {
        let mut outcome = match self.run(rejected) {
            Ok(outcome) => outcome,
            Err(known) => return known,
        };
        let ended = outcome.wait_for(Option::is_some).await;
        let ended = ended.ok().and_then(|outcome| outcome.clone());
        match ended {
            // A token that is expired when it is printed is an error.
            Some(Ok(_)) => self.current(),
            Some(Err(error)) => match self.current() {
                Ok(token) => Ok(token),
                Err(_) => Err(error),
            },
            None => Err(self
                .invocation
                .failed("the tokio runtime in which it was run has ended")),
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
