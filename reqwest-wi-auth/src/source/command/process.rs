//! Runs a command in a process group of its own.

use std::ffi::OsString;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use crate::error::Error;

const MAX_BYTES: usize = 64 * 1024;

/// What to run, and for how long.
#[derive(Clone)]
pub(super) struct Invocation {
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    pub(super) timeout: Duration,
}

impl Invocation {
    pub(super) fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    pub(super) fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Command {
            program: self.name(),
            reason: reason.into(),
        }
    }

    /// Returns what the command prints on its standard output. Its process group is killed if it takes too long or prints
    /// too much, or if the future is dropped.
    pub(super) async fn output(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut group = Group(self.spawn()?);
        let output = tokio::time::timeout(self.timeout, self.wait(&mut group.0)).await;
        let Ok(output) = output else {
            return Err(self.failed(format!("it took more than {:?}", self.timeout)));
        };
        let (output, status) = output?;
        if !status.success() {
            let reason = format!("it ended with {status}; its standard error says why");
            return Err(self.failed(reason));
        }
        Ok(output)
    }

    fn spawn(&self) -> Result<Child, Error> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        let spawned = command.spawn();
        spawned.map_err(|error| self.failed(format!("it could not be started: {error}")))
    }

    async fn wait(&self, child: &mut Child) -> Result<(Zeroizing<Vec<u8>>, ExitStatus), Error> {
        let failed = |error: std::io::Error| self.failed(error.to_string());
        // Of its full size, so that no part of a token stays behind in memory given back.
        let mut output = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = stdout.take(MAX_BYTES as u64 + 1);
            stdout.read_to_end(&mut output).await.map_err(failed)?;
        }
        if output.len() > MAX_BYTES {
            return Err(self.failed("it printed more than 64 kB"));
        }
        let status = child.wait().await.map_err(failed)?;
        Ok((output, status))
    }
}

/// Kills the process group of a child that has not been waited for, when it is dropped.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        // A child that was waited for has no id any more, so no other process's group is meant.
        #[cfg(unix)]
        if let Some(pid) = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}
