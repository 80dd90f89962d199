//! The subcommand `explain`: whether the server would admit a request with a token, and why.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::Path;

use super::command_line::ExplainSettings;
use super::guard;
use crate::error::name_flags;
use crate::{Error, output};

/// The path that stands for standard input.
const STANDARD_INPUT: &str = "-";
/// The most bytes that are read: more than any token that a guard accepts.
const MAX_INPUT_BYTES: u64 = 1024 * 1024;

/// Whether the server would admit a request with the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It would be admitted.
    Admitted,
    /// It would be rejected.
    Rejected,
}

/// Reads a token, and prints whether a server with these settings would admit a request with it, and why.
///
/// # Errors
///
/// If the settings are invalid, or the token cannot be read.
pub async fn explain(settings: ExplainSettings) -> Result<Admission, Error> {
    let guard = guard::build(&settings.settings).await?;
    let token = read_token(&settings.file).await?;
    let diagnosis = guard.diagnose(&token).await;
    output::print_line(&name_flags(&diagnosis.to_string()));
    Ok(if diagnosis.is_admitted() {
        Admission::Admitted
    } else {
        Admission::Rejected
    })
}

/// Reads the token from a file or standard input, without the white space around it.
async fn read_token(path: &Path) -> Result<Vec<u8>, Error> {
    let is_standard_input = path == Path::new(STANDARD_INPUT);
    let owned = path.to_owned();
    let read = move || -> io::Result<Vec<u8>> {
        let input: Box<dyn Read> = if is_standard_input {
            let input = io::stdin();
            if input.is_terminal() {
                eprintln!(
                    "reading a token from standard input; end it with a line break and Ctrl-D"
                );
            }
            Box::new(input)
        } else {
            Box::new(File::open(owned)?)
        };
        let mut content = Vec::new();
        input.take(MAX_INPUT_BYTES).read_to_end(&mut content)?;
        Ok(content)
    };
    let content = tokio::task::spawn_blocking(read).await;
    let content = content.map_err(io::Error::from).and_then(|content| content);
    let content = content.map_err(|source| Error::TokenInput {
        input: if is_standard_input {
            "standard input".to_owned()
        } else {
            path.display().to_string()
        },
        source,
    })?;
    // A file ends with a line break, which no client sends.
    let line = content.strip_suffix(b"\n").unwrap_or(&content);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let token = line.trim_ascii();
    if token.len() < line.len() {
        output::print_line("note: white space around the token was ignored");
    }
    Ok(token.to_vec())
}
