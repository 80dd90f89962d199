//! The tests of `it` that read tokens.
//!
//! With features of serde_json that another crate in the same program may enable, all that depends on serde_json is compiled again.
//! These tests take less time for that than the whole of `it`.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

#[path = "it/known_bugs.rs"]
mod known_bugs;
#[path = "it/recorded_tokens.rs"]
mod recorded_tokens;
#[path = "it/support/mod.rs"]
mod support;
#[path = "it/tokens.rs"]
mod tokens;
