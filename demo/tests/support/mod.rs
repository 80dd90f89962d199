//! Programs as black boxes: processes with ports, files and certificates.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

pub const AUDIENCE: &str = "https://auth-server.example";

/// A certificate authority.
pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for this machine, and its key.
    pub fn certificate(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let certificate = params.unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A program that runs until it is dropped.
pub struct Program {
    process: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Program {
    pub fn start(binary: &str, arguments: &[String]) -> Self {
        Self::start_in(binary, arguments, &[])
    }

    /// Starts a program with these environment variables beside the test's own.
    pub fn start_with(binary: &str, arguments: &[String], variables: &[(&str, &str)]) -> Self {
        let variables = variables
            .iter()
            .map(|&(name, value)| (name, value.to_owned()));
        Self::start_in(binary, arguments, &variables.collect::<Vec<_>>())
    }

    /// Starts a program with these environment variables beside the test's own.
    pub fn start_in(binary: &str, arguments: &[String], environment: &[(&str, String)]) -> Self {
        let mut process = Command::new(binary)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .env("NO_COLOR", "1")
            .env("NO_PROXY", "127.0.0.1,localhost")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        for stream in [
            Box::new(process.stdout.take().unwrap()) as Box<dyn std::io::Read + Send>,
            Box::new(process.stderr.take().unwrap()),
        ] {
            let told = lines.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    told.lock().unwrap().push(line);
                }
            });
        }
        Self { process, lines }
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line with that text.
    pub async fn line(&self, text: &str) -> String {
        for _ in 0..2000 {
            if let Some(line) = self.lines().into_iter().find(|line| line.contains(text)) {
                return line;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no line with {text:?}: {:?}", self.lines());
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        for _ in 0..2000 {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("still there after 20 s");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn text(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

pub fn strings(arguments: &[&str]) -> Vec<String> {
    arguments
        .iter()
        .map(|&argument| argument.to_owned())
        .collect()
}

/// A server on this machine, and where it listens.
pub async fn server(arguments: &[&str]) -> (Program, String) {
    let all = [&["--address", "127.0.0.1", "--port", "0"], arguments].concat();
    server_with(&all, &[]).await
}

/// A server with these arguments and environment variables, and where it listens.
pub async fn server_with(arguments: &[&str], variables: &[(&str, &str)]) -> (Program, String) {
    let binary = env!("CARGO_BIN_EXE_auth-server");
    let server = Program::start_with(binary, &strings(arguments), variables);
    let address = listening(&server).await;
    (server, address)
}

/// Waits until a server says where it listens.
pub async fn listening(server: &Program) -> String {
    let line = server.line("listening").await;
    let address = line
        .split("address=")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    address.to_owned()
}

pub fn client(arguments: &[&str]) -> Program {
    Program::start(env!("CARGO_BIN_EXE_auth-client"), &strings(arguments))
}

/// Writes a file by replacing it.
pub fn replace(path: &PathBuf, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}
