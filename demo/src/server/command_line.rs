//! The subcommands of `auth-server`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::settings::ServerSettings;

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
    /// Takes the settings of the server, as flags behind `explain` or as environment variables. Fetches the issuer's keys, but
    /// does not listen. The token is never printed. The exit code is 0 if a request with the token would be admitted, 1 if not,
    /// and 2 if the settings are invalid or the token cannot be read.
    Explain(ExplainSettings),
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
