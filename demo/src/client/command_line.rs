//! The subcommands of `auth-client`.

use clap::{Parser, Subcommand};

use super::settings::ClientSettings;

/// Requests the open path and the guarded one of each service at an interval, and prints the responses.
///
/// An environment variable that is empty is treated as not set.
#[derive(Debug, Parser)]
#[command(
    name = "auth-client",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub struct ClientCommandLine {
    /// The settings of the client. They have their defaults if there is a subcommand.
    #[command(flatten)]
    pub settings: ClientSettings,

    /// The subcommand, or `None` to poll.
    #[command(subcommand)]
    pub command: Option<ClientCommand>,
}

/// A subcommand of `auth-client`.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Checks the token, the way to the server and its responses, and prints what was found, what was expected and what to
    /// do.
    ///
    /// Takes the settings of the client, as flags behind `check` or as environment variables. Requests each path once. The
    /// token is never printed. The exit code is 0 if all checks pass, 1 if one fails, and 2 if the settings are invalid. With
    /// --json, prints one JSON object per check.
    Check(ClientSettings),
}
