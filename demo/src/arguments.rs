//! Parses a program's command line and environment.
//!
//! For each flag:
//!
//! 1. An environment variable that is empty or blank is treated as not set.
//! 2. Lists are separated by commas. White space around an item is removed, and an empty item is an error.
//! 3. An error about a missing flag names its environment variable, too.
//!
//! A program may have subcommands. A subcommand is the first argument, and its flags follow it. The flags of the program itself do
//! not apply to it, and their environment variables are not read.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command, CommandFactory, FromArgMatches};

const EMPTY_ITEM: &str = "an item of the list is empty; remove the extra comma";
/// The accepted intervals between two polls, in seconds: from one millisecond to one day.
const INTERVAL_SECONDS: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;

/// Parses the process's arguments and environment.
///
/// Prints the error, the help or the version and exits the process if there is one to print.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    let first = std::env::args_os().nth(1);
    let declared = T::command();
    let subcommand = first.and_then(|first| declared.find_subcommand(first));
    let reset_blank = |arg: Arg| match arg.get_env() {
        Some(name) if is_blank(name) => arg.env(Resettable::Reset),
        _ => arg,
    };
    let command = T::command().mut_subcommands(|subcommand| subcommand.mut_args(reset_blank));
    let mut command = match subcommand {
        Some(_) => command.mut_args(|arg| arg.env(Resettable::Reset)),
        None => command.mut_args(reset_blank),
    };
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = matches.and_then(|matches| {
        T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    });
    match parsed {
        Ok(parsed) => parsed,
        Err(error) => name_variables(error, subcommand.unwrap_or(&declared)).exit(),
    }
}

/// Returns whether an environment variable is set to an empty or blank value.
fn is_blank(name: &std::ffi::OsStr) -> bool {
    let value = std::env::var_os(name);
    value.is_some_and(|value| value.to_str().is_some_and(|value| value.trim().is_empty()))
}

/// Adds the environment variable of each missing argument to an error about missing arguments.
fn name_variables(mut error: clap::Error, command: &Command) -> clap::Error {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return error;
    }
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let named = missing.iter().map(|usage| {
        let flag = usage.split([' ', '=']).next().unwrap_or(usage);
        let arg = command.get_arguments().find(|arg| {
            arg.get_long()
                .is_some_and(|long| flag.strip_prefix("--") == Some(long))
        });
        match arg.and_then(Arg::get_env) {
            Some(variable) => format!(
                "{usage} (or the environment variable {})",
                variable.display()
            ),
            None => usage.clone(),
        }
    });
    let named = ContextValue::Strings(named.collect());
    error.insert(ContextKind::InvalidArg, named);
    error
}

/// Parses an item of a list: removes white space around it and rejects an empty item.
pub(crate) fn parse_item(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err(EMPTY_ITEM),
        item => Ok(item.to_owned()),
    }
}

/// Parses an item of a list of paths.
pub(crate) fn parse_path_item(text: &str) -> Result<PathBuf, &'static str> {
    parse_item(text).map(PathBuf::from)
}

/// Parses an item of a list of values that implement [`FromStr`].
pub(crate) fn parse_typed_item<T: FromStr<Err = &'static str>>(
    text: &str,
) -> Result<T, &'static str> {
    parse_item(text)?.parse()
}

/// Parses the URL of a web server, and returns it unchanged except for white space around it.
pub(crate) fn parse_web_url(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let url = reqwest::Url::parse(text)
        .map_err(|_| "not a URL; expected one such as https://service.example")?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("the scheme must be https or http");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the URL contains a user name or a password, which are never sent; remove them",
        );
    }
    Ok(text.to_owned())
}

/// Parses an item of a list of URLs of web servers.
pub(crate) fn parse_web_url_item(text: &str) -> Result<String, &'static str> {
    parse_web_url(&parse_item(text)?)
}

/// Parses an interval in seconds, which may have decimals.
pub(crate) fn parse_interval(text: &str) -> Result<Duration, String> {
    let out_of_range = || {
        let (shortest, longest) = (INTERVAL_SECONDS.start(), INTERVAL_SECONDS.end());
        format!("expected a number of seconds from {shortest} to {longest}")
    };
    let seconds: f64 = text.trim().parse().map_err(|_| out_of_range())?;
    if !INTERVAL_SECONDS.contains(&seconds) {
        return Err(out_of_range());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| out_of_range())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_trimmed_and_empty_items_are_rejected() {
        assert_eq!(parse_item(" a b "), Ok("a b".to_owned()));
        for empty in ["", " ", "\t"] {
            assert_eq!(parse_item(empty), Err(EMPTY_ITEM));
            assert_eq!(parse_path_item(empty), Err(EMPTY_ITEM));
        }
        assert_eq!(parse_path_item(" /a "), Ok(PathBuf::from("/a")));
    }

    #[test]
    fn web_urls_are_returned_unchanged_and_other_urls_are_rejected() {
        for url in [
            "https://a.example",
            "http://127.0.0.1:80/a",
            "https://[::1]/",
        ] {
            assert_eq!(parse_web_url(&format!(" {url} ")), Ok(url.to_owned()));
        }
        for rejected in [
            "",
            "a.example",
            "ftp://a.example",
            "https://",
            "https://a:b@a.example",
            "https://a.example:99999",
        ] {
            assert!(parse_web_url(rejected).is_err(), "{rejected:?}");
        }
    }

    #[test]
    fn an_interval_is_a_positive_number_of_seconds() {
        assert_eq!(parse_interval("5"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_interval(" 0.05 "), Ok(Duration::from_millis(50)));
        for rejected in [
            "", "0", "0.0", "-1", "-0", "nan", "inf", "1e300", "soon", "86401",
        ] {
            assert!(parse_interval(rejected).is_err(), "{rejected:?}");
        }
    }
}
