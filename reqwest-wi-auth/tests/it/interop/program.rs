//! Programs of other makers, as child processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The folder that contains the scripts and the installed packages.
const TOOLS: &str = "INTEROP_TOOLS";

/// How long a program may take, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// An identity server. It ends when this is dropped.
pub struct IdentityServer {
    pub url: String,
    _child: Child,
}

impl IdentityServer {
    /// Starts a script of `demo/interop/servers` with environment variables, and waits for the URL that it prints.
    pub async fn start(script: &str, variables: &[(&str, &str)]) -> Self {
        let mut child = command(&tools().join("servers").join(script))
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        let url = line.unwrap_or_else(|| panic!("{script} has ended; see its errors above"));
        Self { url, _child: child }
    }
}

/// Runs a script of `demo/interop/clients` with environment variables, and returns the JSON that it prints.
pub async fn run_client(script: &str, variables: &[(&str, &str)]) -> Value {
    let output = command(&tools().join("clients").join(script))
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output();
    let output = timeout(LIMIT, output).await.unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let text = String::from_utf8_lossy(&output.stdout);
        panic!("{script} printed no JSON ({error}): {text}{errors}")
    })
}

fn tools() -> PathBuf {
    let path = std::env::var_os(TOOLS).unwrap_or_else(|| {
        panic!("{TOOLS} is not set; demo/interop/run.sh installs the programs and runs these tests")
    });
    PathBuf::from(path)
}

/// Returns the command that runs a script with its interpreter, without settings of this machine's user.
fn command(script: &Path) -> Command {
    let is_python = script
        .extension()
        .is_some_and(|extension| extension == "py");
    let mut command = if is_python {
        Command::new(tools().join("python/bin/python"))
    } else {
        Command::new("node")
    };
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy().to_ascii_uppercase();
        let is_setting = ["_PROXY", "GOOGLE_", "AZURE_", "ACTIONS_", "KUBE"]
            .iter()
            .any(|part| shown.contains(part));
        if is_setting {
            command.env_remove(&name);
        }
    }
    command.arg(script).kill_on_drop(true);
    command
}
