//! The subcommands of `auth-server`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::settings::ServerSettings;
use crate::arguments::parse_item;

/// Serves / to any caller, and /private and /whoami to callers with a valid token from a trusted issuer.
///
/// Lists are separated by commas. An environment variable that is empty is treated as not set.
#[derive(Debug, Parser)]
#[command(
    name = "auth-server",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct ServerCommandLine {
    /// The settings of the server. They have their defaults if there is a subcommand.
    #[command(flatten)]
    pub settings: ServerSettings,

    /// The subcommand, or `None` to serve.
    #[command(subcommand)]
    pub command: Option<ServerCommand>,
}

/// A subcommand of `auth-server`.
#[derive(Debug, Subcommand)]
pub enum ServerCommand {
    /// Reads a token, and prints whether the server would admit a request with it, and why.
    ///
    /// With a shadow policy, its decision is printed as well. It does not affect the exit code.
    ///
    /// Takes the settings of the server, as flags behind `explain` or as environment variables. Fetches the issuer's keys, but
    /// does not listen. The token is never printed. The exit code is 0 if a request with the token would be admitted, 1 if not,
    /// and 2 if the settings are invalid or the token cannot be read.
    Explain(Box<ExplainSettings>),

    /// Checks a policy file, and prints what it allows.
    ///
    /// Neither listens nor fetches anything. The exit code is 0 if the file is valid, 1 if it is not or cannot be read, and 2 if
    /// the settings are invalid. An error is printed as FILE:LINE:COLUMN and a reason.
    CheckPolicy(CheckPolicySettings),
}

/// The arguments of `auth-server check-policy`.
#[derive(Debug, Args)]
pub struct CheckPolicySettings {
    /// The policy file or configuration file, or `-` for standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// An issuer that the server trusts, as in the settings of the server. If this and --audience are set, the members and
    /// audiences of the policy must belong to these issuers.
    #[arg(
        long,
        env = "ID_ISSUER",
        value_name = "ISSUER",
        value_delimiter = ',',
        value_parser = parse_item
    )]
    pub issuer: Vec<String>,

    /// An audience that the server accepts, as in the settings of the server.
    #[arg(
        long,
        env = "JWT_AUDIENCE",
        value_delimiter = ',',
        value_parser = parse_item
    )]
    pub audience: Vec<String>,
}

/// The arguments of `auth-server explain`.
#[derive(Debug, Args)]
pub struct ExplainSettings {
    /// The file that contains the token; `-` for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    pub file: PathBuf,

    /// The settings of the server.
    #[command(flatten)]
    pub settings: ServerSettings,
}
