//! Parses a program's flags and environment variables.
//!
//! 1. An environment variable that is empty or blank counts as not set, for each flag.
//! 2. Lists are separated by commas. Space around an item is removed, and an empty item is an error.
//! 3. An error about a missing flag names the environment variable that sets it as well.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, FromArgMatches};

const EMPTY_ITEM: &str = "an item of the list is empty; remove the extra comma";
/// The shortest and the longest pause between two rounds, in seconds: a millisecond, a day.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.001..=86_400.0;

/// Parses the process's arguments and environment. Prints an error, help or version and ends the process where clap does.
pub fn parse<T: CommandFactory + FromArgMatches>() -> T {
    let mut command = T::command().mut_args(|arg| match arg.get_env() {
        Some(name) if is_blank(name) => arg.env(Resettable::Reset),
        _ => arg,
    });
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = matches.and_then(|matches| {
        T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
    });
    match parsed {
        Ok(parsed) => parsed,
        Err(error) => with_variables(error, &T::command()).exit(),
    }
}

fn is_blank(name: &std::ffi::OsStr) -> bool {
    let value = std::env::var_os(name);
    value.is_some_and(|value| value.to_str().is_some_and(|value| value.trim().is_empty()))
}

/// Adds the environment variable of each missing argument.
fn with_variables(mut error: clap::Error, command: &Command) -> clap::Error {
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
        match arg.and_then(clap::Arg::get_env) {
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

/// Parses an item of a list of strings.
pub(crate) fn item(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err(EMPTY_ITEM),
        item => Ok(item.to_owned()),
    }
}

/// Parses an item of a list of paths.
pub(crate) fn path_item(text: &str) -> Result<PathBuf, &'static str> {
    item(text).map(PathBuf::from)
}

/// Parses an item of a list of values that have a `FromStr`.
pub(crate) fn parsed_item<T: FromStr<Err = &'static str>>(text: &str) -> Result<T, &'static str> {
    item(text)?.parse()
}

/// Parses the URL of a web server, and returns it as it was given.
pub(crate) fn web_url(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    let url = reqwest::Url::parse(text).map_err(|_| "it is not a URL")?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("its scheme is not https or http");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it has a user or a password, which are never sent");
    }
    Ok(text.to_owned())
}

/// Parses a pause in seconds, which may have decimals.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let refused = || {
        let (shortest, longest) = (INTERVALS.start(), INTERVALS.end());
        format!("it is a number of seconds from {shortest} to {longest}")
    };
    let seconds: f64 = text.trim().parse().map_err(|_| refused())?;
    if !INTERVALS.contains(&seconds) {
        return Err(refused());
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_trimmed_and_empty_ones_are_refused() {
        assert_eq!(item(" a b "), Ok("a b".to_owned()));
        for empty in ["", " ", "\t"] {
            assert_eq!(item(empty), Err(EMPTY_ITEM));
            assert_eq!(path_item(empty), Err(EMPTY_ITEM));
        }
        assert_eq!(path_item(" /a "), Ok(PathBuf::from("/a")));
    }

    #[test]
    fn a_url_of_a_web_server_is_returned_as_it_was_given() {
        for url in [
            "https://a.example",
            "http://127.0.0.1:80/a",
            "https://[::1]/",
        ] {
            assert_eq!(web_url(&format!(" {url} ")), Ok(url.to_owned()));
        }
        for refused in [
            "",
            "a.example",
            "ftp://a.example",
            "https://",
            "https://a:b@a.example",
            "https://a.example:99999",
        ] {
            assert!(web_url(refused).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn an_interval_is_a_positive_number_of_seconds() {
        assert_eq!(interval("5"), Ok(Duration::from_secs(5)));
        assert_eq!(interval(" 0.05 "), Ok(Duration::from_millis(50)));
        for refused in [
            "", "0", "0.0", "-1", "-0", "nan", "inf", "1e300", "soon", "86401",
        ] {
            assert!(interval(refused).is_err(), "{refused:?}");
        }
    }
}
