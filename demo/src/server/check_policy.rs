//! The subcommand `check-policy`: whether a policy file is valid, and what it allows.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;

use tower_oidc_guard::PolicyFile;

use super::command_line::CheckPolicySettings;
use super::guard;
use crate::escape::escape;
use crate::{Error, error_chain, output};

/// The paths that stand for standard input.
const STANDARD_INPUT: [&str; 2] = ["-", "/dev/stdin"];
/// The most bytes that are read from standard input: as many as from a file.
const MAX_INPUT_BYTES: u64 = 16 * 1024 * 1024;

/// Whether a policy file is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyValidity {
    /// The file is valid, and fits the issuers if they are set.
    Valid,
    /// The file cannot be read, is not valid, or does not fit the issuers.
    Invalid,
}

/// Checks a policy file, or standard input for the paths `-` and `/dev/stdin`. Prints what it allows to standard output, or the error to standard error.
///
/// # Errors
///
/// If the settings are invalid.
pub fn check_policy(settings: &CheckPolicySettings) -> Result<PolicyValidity, Error> {
    let CheckPolicySettings {
        file,
        issuer,
        audience,
    } = settings;
    let has_issuers = !issuer.is_empty() && !audience.is_empty();
    let guard = has_issuers.then(|| guard::build_for_checks(issuer, audience));
    let guard = guard.transpose()?;
    let checked = if STANDARD_INPUT.iter().any(|path| file == Path::new(path)) {
        let content = match read_standard_input() {
            Ok(content) => content,
            Err(error) => {
                eprintln!("standard input could not be read: {error}");
                return Ok(PolicyValidity::Invalid);
            }
        };
        match &guard {
            Some(guard) => guard.check_policy_content("standard input", &content),
            None => PolicyFile::check_content("standard input", &content),
        }
    } else {
        match &guard {
            Some(guard) => guard.check_policy_file(file),
            None => PolicyFile::check(file),
        }
    };
    match checked {
        Ok(summary) => {
            for line in summary.to_string().lines() {
                output::print_line(&escape(line));
            }
            output::print_line(if has_issuers {
                "issuers: the members and audiences belong to those in --issuer (ID_ISSUER)"
            } else if !summary.issuers().is_empty() {
                "issuers: the members and audiences belong to those in the file"
            } else {
                "issuers: not checked; to check that the members and audiences belong to the server's issuers, set --issuer (ID_ISSUER) and --audience (JWT_AUDIENCE)"
            });
            Ok(PolicyValidity::Valid)
        }
        Err(error) => {
            eprintln!("{}", error_chain(&error));
            Ok(PolicyValidity::Invalid)
        }
    }
}

fn read_standard_input() -> io::Result<Vec<u8>> {
    let input = io::stdin();
    if input.is_terminal() {
        eprintln!("reading a policy from standard input; end it with a line break and Ctrl-D");
    }
    let mut content = Vec::new();
    input.take(MAX_INPUT_BYTES + 1).read_to_end(&mut content)?;
    // The rest of a policy that is cut off may restrict it.
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_INPUT_BYTES {
        return Err(io::Error::other("it has more than 16 MiB"));
    }
    Ok(content)
}
