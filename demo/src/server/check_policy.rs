//! The subcommand `check-policy`: whether a policy file is valid, and what it allows.

use tower_oidc_guard::PolicyFile;

use super::command_line::CheckPolicySettings;
use super::guard;
use crate::escape::escape;
use crate::{Error, error_chain, output};

/// Whether a policy file is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyValidity {
    /// The file is valid, and fits the issuers if they are set.
    Valid,
    /// The file cannot be read, is not valid, or does not fit the issuers.
    Invalid,
}

/// Checks a policy file. Prints what it allows to standard output, or the error to standard error.
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
    let checked = if has_issuers {
        guard::build_for_checks(issuer, audience)?.check_policy_file(file)
    } else {
        PolicyFile::check(file)
    };
    match checked {
        Ok(summary) => {
            for line in summary.to_string().lines() {
                output::print_line(&escape(line));
            }
            output::print_line(if has_issuers {
                "issuers: the members and audiences belong to those in --issuer (ID_ISSUER)"
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
