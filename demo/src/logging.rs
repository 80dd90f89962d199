//! What the programs log, to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Logs what `RUST_LOG` asks for, or from `default` on where it is not set.
pub fn start(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
