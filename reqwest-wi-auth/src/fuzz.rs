//! Shared code of the fuzz targets.
//!
//! A fuzz target is a test that feeds generated input to a parser and asserts what must hold for any input. Each is a module
//! `fuzz` beside the parser. `cargo test` runs all inputs of the target's corpus and [`ITERATIONS`] random ones; CONTRIBUTING.md
//! states how to run a target for longer, and with an engine that is guided by coverage.
//!
//! A target with `bytes` in its name takes the document itself. The others take a recipe, which edits a valid document.

// The files of `edits` and `linear` are links to those of tower-oidc-guard.
pub(crate) mod edits;
mod instructions;
pub(crate) mod linear;

/// The number of random inputs of each target, unless `BOLERO_RANDOM_ITERATIONS` is set.
pub(crate) const ITERATIONS: usize = 250;

/// A text that takes the place of a secret. Nothing else in an input contains it.
pub(crate) const SECRET: &str = "s3cr3t-Qx7vTz81pL";

/// Asserts that a message is short and one line, and quotes no part of [`SECRET`] that could be used.
#[track_caller]
pub(crate) fn assert_is_safe_message(message: &str) {
    assert!(message.len() < 2000, "{} bytes", message.len());
    assert!(!message.contains(char::is_control), "{message:?}");
    let mut parts = SECRET.as_bytes().windows(8);
    let quotes = |part: &[u8]| message.as_bytes().windows(8).any(|window| window == part);
    assert!(!parts.any(quotes), "{message}");
}

/// Returns whether an error of parsing JSON into a `Value` is about something that a parser need not notice in values that it ignores.
pub(crate) fn may_be_ignored(error: &serde_json::Error) -> bool {
    let error = error.to_string();
    let limits = [
        "out of range",
        "recursion limit",
        "surrogate",
        "hex escape",
        "invalid unicode",
    ];
    limits.iter().any(|limit| error.contains(limit))
}
