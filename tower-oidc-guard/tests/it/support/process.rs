//! Runs a test alone in a child process.

use std::ffi::OsStr;
use std::process::Command;

/// Set in the environment of a process that [`run_in_child_process`] starts.
const CHILD: &str = "TEST_RUNS_IN_A_CHILD_PROCESS";

/// Returns whether this process was started by [`run_in_child_process`].
pub fn is_child_process() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs the test with this path alone in a child process, with these additional environment variables.
///
/// For tests that change or inspect what all tests of a process share. That includes tests that collect log events: if
/// another thread reaches an event for the first time while a subscriber is being set, the event can stay disabled for
/// that subscriber.
///
/// # Panics
///
/// Panics if the test fails in the child process or does not exist.
pub fn run_in_child_process(test: &str, variables: &[(&str, &OsStr)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]);
    command.env(CHILD, "1");
    for (name, value) in variables {
        command.env(name, value);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{test} was not run: {text}");
}
