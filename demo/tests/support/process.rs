//! A program that runs as a child process. Shared by the integration test programs.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The number of times that a condition is polled, once every 10 ms, before a test fails.
pub(crate) const MAX_POLLS: usize = 2000;
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A child process, which is killed when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    /// The lines that the process has printed. Each thread that reads one of its streams has a clone until the stream ends.
    pub(crate) lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts a program with these environment variables in addition to those of the test.
    pub(crate) fn start<A: AsRef<str>, V: AsRef<str>>(
        binary: &str,
        arguments: &[A],
        environment: &[(&str, V)],
    ) -> Self {
        let mut child = Command::new(binary)
            .args(arguments.iter().map(AsRef::as_ref))
            // Programs log at their default level, unless a test sets another.
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .env("NO_PROXY", "127.0.0.1,localhost,.invalid")
            .envs(
                environment
                    .iter()
                    .map(|(name, value)| (name, value.as_ref())),
            )
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect_lines(child.stdout.take().unwrap(), &lines);
        collect_lines(child.stderr.take().unwrap(), &lines);
        Self { child, lines }
    }

    /// Returns the lines that the process has printed so far, to standard output and standard error.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until the process, an `auth-server`, is listening, and returns its address.
    pub(crate) async fn wait_for_address(&self) -> String {
        for _ in 0..MAX_POLLS {
            if let Some(address) = self.lines().iter().find_map(|line| listening_address(line)) {
                return address;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        panic!("not listening: {:?}", self.lines());
    }
}

/// Returns the address in the event that a server logs once it is listening, in text or JSON.
fn listening_address(line: &str) -> Option<String> {
    if let Some((_, rest)) = line.split_once(" listening address=") {
        return Some(rest.split(' ').next()?.to_owned());
    }
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = &line["fields"];
    let is_listening = fields["message"] == "listening";
    is_listening.then(|| fields["address"].as_str().map(str::to_owned))?
}

/// Reads lines on a thread until the end of the stream, so that the process is never blocked by a full pipe.
fn collect_lines(stream: impl Read + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) {
    let lines = lines.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
