#![forbid(unsafe_code)]
//! Both ends of workload identity: a guarded server, a client that sends its workload's token, and a scenario that runs
//! the two on one machine.
//!
//! | program | entry point | purpose |
//! | --- | --- | --- |
//! | `auth-server` | [`server::run`] | Serves an open path, and paths for callers with a valid token |
//! | `auth-client` | [`client::polling::run`] | Requests an open path and a guarded one at an interval |
//! | `demo` | [`scenario::run`] | Runs both on loopback while tokens and keys rotate |
//!
//! All three parse their settings with [`arguments`], print through [`output`] and end as described in [`signals`].

pub mod arguments;
pub mod client;
#[cfg(test)]
mod documentation;
mod error;
mod escape;
pub mod output;
pub mod scenario;
pub mod server;
pub mod signals;

pub use error::{Error, error_chain};

/// The header in which Cloud Run expects the caller's token if `Authorization` is meant for the application.
///
/// If a request has this header, Cloud Run checks the token in it and passes `Authorization` on unchanged.
pub const X_SERVERLESS_AUTHORIZATION: http::HeaderName =
    http::HeaderName::from_static("x-serverless-authorization");

#[cfg(test)]
mod test_support {
    use std::io::Write;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    /// The log of a test in memory.
    #[derive(Clone, Default)]
    pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// Collects the events of this thread of level INFO and above until the guard is dropped.
        pub(crate) fn start() -> (Self, tracing::subscriber::DefaultGuard) {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt()
                .with_max_level(tracing::Level::INFO)
                .with_ansi(false)
                .with_writer(move || writer.clone());
            let guard = tracing::subscriber::set_default(subscriber.finish());
            (log, guard)
        }

        pub(crate) fn lines(&self) -> Vec<String> {
            let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            log.lines().map(str::to_owned).collect()
        }

        /// Returns the lines without time, level and target, if they are not in a span.
        pub(crate) fn messages(&self) -> Vec<String> {
            let lines = self.lines().into_iter();
            let message = |line: String| line.split_once(": ").unwrap().1.to_owned();
            lines.map(message).collect()
        }
    }

    /// Returns the content of each source file of both libraries, without comments that take up whole lines.
    pub(crate) fn library_sources() -> Vec<String> {
        let mut sources = Vec::new();
        for library in ["reqwest-wi-auth", "tower-oidc-guard"] {
            let root = Path::new(env!("CARGO_MANIFEST_DIR"));
            collect(&root.join("..").join(library).join("src"), &mut sources);
        }
        sources
    }

    fn collect(folder: &Path, sources: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, sources);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                let code = source
                    .lines()
                    .filter(|line| !line.trim_start().starts_with("//"));
                sources.push(code.collect::<Vec<_>>().join("\n"));
            }
        }
    }
}
