//! Runs a command in a separate process group.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::text::with_causes;

/// The size limit of the output.
const MAX_BYTES: usize = 64 * 1024;

/// A command, and how long it may run.
#[derive(Clone)]
pub(super) struct Invocation {
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    pub(super) timeout: Duration,
}

impl Invocation {
    /// Returns the program, without its arguments.
    pub(super) fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> Error {
        Error::Command {
            program: self.name(),
            reason: reason.into(),
        }
    }

    /// Runs the command, and returns its standard output.
    ///
    /// The process group is killed if the command takes too long or prints too much, or if the future is dropped.
    pub(super) async fn output(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut group = ProcessGroup(self.spawn()?);
        let output = tokio::time::timeout(self.timeout, self.wait(&mut group.0)).await;
        let Ok(output) = output else {
            return Err(self.error(format!("it took more than {:?}", self.timeout)));
        };
        let (output, status) = output?;
        if !status.success() {
            let reason = format!(
                "it ended with {status}; see its standard error, which is that of this process"
            );
            return Err(self.error(reason));
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
        spawned.map_err(|error| {
            let advice = match error.kind() {
                ErrorKind::NotFound => "; check that it is installed and in PATH",
                ErrorKind::PermissionDenied => "; check that it is executable for this user",
                _ => "",
            };
            let error = with_causes(&error);
            self.error(format!("it could not be started: {error}{advice}"))
        })
    }

    async fn wait(&self, child: &mut Child) -> Result<(Zeroizing<Vec<u8>>, ExitStatus), Error> {
        let read_error = |error: std::io::Error| {
            let error = with_causes(&error);
            self.error(format!("its output could not be read: {error}"))
        };
        // Allocated in its full size, so that no copy of a token stays in memory that was freed.
        let mut output = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = stdout.take(MAX_BYTES as u64 + 1);
            stdout.read_to_end(&mut output).await.map_err(read_error)?;
        }
        if output.len() > MAX_BYTES {
            return Err(self.error("it printed more than the limit of 64 KiB"));
        }
        let status = child.wait().await.map_err(read_error)?;
        Ok((output, status))
    }
}

/// Kills the process group of a child when it is dropped, unless the child has ended.
struct ProcessGroup(Child);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // A child that has ended has no id, so its id cannot have been reused by another process.
        #[cfg(unix)]
        if let Some(pid) = self
            .0
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(rustix::process::Pid::from_raw)
        {
            // This fails if the process has ended meanwhile.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}
