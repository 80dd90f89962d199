//! Runs a test in a separate process.

use std::process::Command;

/// The environment variable that is set in the child process.
const CHILD: &str = "TEST_RUNS_IN_A_CHILD_PROCESS";

/// Returns whether the test with this path, in the format of `--exact`, runs in a child process. If not, runs it in one.
///
/// For tests that measure the whole process, such as its file descriptors, or that change it, such as its environment, and
/// for tests of log events: `tracing` caches for the whole process whether an event is enabled, so concurrent tests can
/// disable it.
///
/// ```
/// if !is_child_process("resource_leaks::dropped_sources_leave_no_descriptors") {
///     return;
/// }
/// ```
///
/// # Panics
///
/// Panics if the test fails in the child process.
pub fn is_child_process(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    run_child(Command::new(std::env::current_exe().unwrap()), test);
    false
}

/// Returns whether the test with this path runs in a user namespace that grants this number of inotify instances. If
/// not, runs it in one, unless the system does not permit user namespaces: then the test is skipped.
#[cfg(target_os = "linux")]
pub fn has_inotify_instances(instances: usize, test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let script = format!("echo {instances} > /proc/sys/user/max_inotify_instances && exec \"$@\"");
    let namespace = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", &script, "sh"]);
        command
    };
    let permitted = namespace().arg("true").output();
    if permitted.is_ok_and(|output| output.status.success()) {
        let mut command = namespace();
        command.arg(std::env::current_exe().unwrap());
        run_child(command, test);
    } else {
        println!("skipped: this system does not permit user namespaces");
    }
    false
}

fn run_child(mut command: Command, test: &str) {
    let output = command
        .args([test, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("1 passed"), "{test} was not run: {text}");
}
