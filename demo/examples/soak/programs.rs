//! The programs as child processes: their addresses, their logs and their end.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Failure;
use crate::record::Record;

/// How long a program may take to listen, on a machine that is busy.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a program may take to end after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The event that a server logs for each admitted request, which would fill the log file.
const ADMITTED: &str = "request admitted";

/// A running program, which is killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    /// The name in the report.
    pub(crate) name: &'static str,
    child: Child,
    /// Where its log is written.
    log: PathBuf,
    addresses: Arc<Mutex<Vec<(String, String)>>>,
}

impl Program {
    /// Starts a program with these arguments and without the environment of this process. Its log is written to
    /// `NAME.log` in a folder, without the events about admitted requests. `on_line` is called for each line that it prints to
    /// standard output.
    pub(crate) fn start(
        name: &'static str,
        binary: &Path,
        arguments: &[&str],
        folder: &Path,
        record: &Arc<Record>,
        mut on_line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, Failure> {
        let mut child = Command::new(binary)
            .args(arguments)
            .env_clear()
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start {}: {error}", binary.display()))?;
        let addresses = Arc::<Mutex<Vec<_>>>::default();
        let log_path = folder.join(format!("{name}.log"));
        if let Some(stdout) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    on_line(&line);
                }
            });
        }
        if let Some(stderr) = child.stderr.take() {
            let mut log = File::create(&log_path)?;
            let (addresses, record) = (addresses.clone(), record.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    if line.contains(ADMITTED) {
                        continue;
                    }
                    let _ = writeln!(log, "{line}");
                    if let Some(address) = parse_address(&line) {
                        let mut addresses =
                            addresses.lock().unwrap_or_else(PoisonError::into_inner);
                        addresses.push(address);
                    }
                    if line.contains(" ERROR ") || line.contains("panicked at") {
                        record.failure("error in a log", &format!("{name}: {line}"));
                    }
                }
            });
        }
        Ok(Self {
            name,
            child,
            log: log_path,
            addresses,
        })
    }

    /// Returns the process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the program has logged an address with a message that starts with `message`, and returns it.
    pub(crate) async fn address(&mut self, message: &str) -> Result<String, Failure> {
        let began = Instant::now();
        while began.elapsed() < START_LIMIT {
            let found = {
                let addresses = self.addresses.lock();
                let addresses = addresses.unwrap_or_else(PoisonError::into_inner);
                let mut found = addresses.iter();
                found
                    .find(|(logged, _)| logged.starts_with(message))
                    .map(|(_, address)| address.clone())
            };
            if let Some(address) = found {
                return Ok(address);
            }
            if let Some(status) = self.child.try_wait()? {
                let (name, log) = (self.name, self.log.display());
                return Err(format!("{name} ended at its start: {status}; see {log}").into());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let (name, log) = (self.name, self.log.display());
        Err(format!("{name} does not listen after {START_LIMIT:?}; see {log}").into())
    }

    /// Returns how the program has ended, or `None` while it runs.
    pub(crate) fn ended(&mut self) -> Option<String> {
        match self.child.try_wait() {
            Ok(status) => status.map(|status| status.to_string()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// Sends SIGTERM, and waits until the program has ended. Returns an error if it does not end with success in time.
    pub(crate) async fn terminate(mut self) -> Result<(), String> {
        let id = self.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        if !sent.is_ok_and(|status| status.success()) {
            return Err("cannot be sent SIGTERM".to_owned());
        }
        let began = Instant::now();
        while began.elapsed() < END_LIMIT {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("ended with {status} after SIGTERM")),
                Ok(None) => tokio::time::sleep(POLL_INTERVAL).await,
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("still runs {END_LIMIT:?} after SIGTERM"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the message and the address of an event about a port that is listened on.
fn parse_address(line: &str) -> Option<(String, String)> {
    let (head, rest) = line.split_once(" address=")?;
    let (_, message) = head.split_once(": ")?;
    let address = rest.split(' ').next()?;
    Some((message.to_owned(), address.to_owned()))
}

/// Returns the path of a program of this package: in the folder above that of this example.
pub(crate) fn program_path(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent);
    let path = folder.map(|folder| folder.join(name));
    path.filter(|path| path.is_file())
        .ok_or_else(|| format!("{name} is not built: run demo/soak.sh, which builds it").into())
}
