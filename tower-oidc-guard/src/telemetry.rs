//! What happens, told to `tracing` and, with the feature `metrics`, to the `metrics` facade.
//!
//! | metric | kind | labels |
//! | --- | --- | --- |
//! | `oidc_guard_decisions_total` | counter | `reason`: `allowed`, `anonymous`, or one of [`Rejection::reason`]; `issuer`: as configured, or `none` |
//! | `oidc_guard_key_fetches_total` | counter | `issuer`; `outcome`: `ok` or `failed` |
//! | `oidc_guard_keys_age_seconds` | gauge | `issuer` |
//! | `oidc_guard_key_set_hash` | gauge | `issuer`; the value is the first 32 bits of the hash |
//! | `oidc_guard_cache_hits_total` | counter | none |
//! | `oidc_guard_verification_seconds` | histogram | none; of tokens that were not in the cache |
//! | `oidc_guard_policy_reads_total` | counter | `outcome`: `ok` or `failed` |
//!
//! No label is made of what a caller sends.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tracing::Span;

use crate::identity::Identity;
use crate::rejection::Rejection;

const NO_ISSUER: &str = "none";

/// A request is let in: the span in which the service handles it.
pub(crate) fn allowed(identity: &Identity) -> Span {
    let issuer = identity.issuer_label();
    decided("allowed", Some(issuer));
    tracing::debug_span!(
        "oidc_guard",
        decision = "allowed",
        issuer = &**issuer,
        subject = &*printable(identity.subject()),
    )
}

/// A request without a token is let in.
pub(crate) fn anonymous() -> Span {
    decided("anonymous", None);
    tracing::debug_span!("oidc_guard", decision = "anonymous")
}

/// A request is refused.
pub(crate) fn refused(rejection: &Rejection, issuer: Option<&Arc<str>>) {
    let reason = rejection.reason();
    decided(reason, issuer);
    let issuer = issuer.map_or(NO_ISSUER, |issuer| issuer);
    tracing::debug!(decision = "refused", reason, issuer, "refused");
}

/// Escapes the characters of a text from outside that are not printable: line breaks, escape sequences of terminals,
/// and what changes the direction of a line. Whatever a subscriber writes, a token or a document cannot forge a line
/// of the log with it.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => printable.push(character),
            _ => printable.extend(character.escape_debug()),
        }
    }
    Cow::Owned(printable)
}

fn decided(reason: &'static str, issuer: Option<&Arc<str>>) {
    #[cfg(feature = "metrics")]
    {
        let issuer = issuer.map_or_else(
            || NO_ISSUER.into(),
            |issuer| metrics::SharedString::from(issuer.clone()),
        );
        metrics::counter!("oidc_guard_decisions_total", "reason" => reason, "issuer" => issuer)
            .increment(1);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (reason, issuer);
}

/// A token was found in the cache.
pub(crate) fn cache_hit() {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_cache_hits_total").increment(1);
}

/// Times a verification that is not answered from the cache.
pub(crate) struct Verification(#[cfg(feature = "metrics")] std::time::Instant);

impl Verification {
    pub(crate) fn begin() -> Self {
        Self(
            #[cfg(feature = "metrics")]
            std::time::Instant::now(),
        )
    }
}

#[cfg(feature = "metrics")]
impl Drop for Verification {
    fn drop(&mut self) {
        metrics::histogram!("oidc_guard_verification_seconds").record(self.0.elapsed());
    }
}

/// Keys were fetched, or could not be.
pub(crate) fn keys_fetched(issuer: &Arc<str>, hash: Option<&str>) {
    #[cfg(feature = "metrics")]
    {
        let outcome = if hash.is_some() { "ok" } else { "failed" };
        let issuer = metrics::SharedString::from(issuer.clone());
        metrics::counter!("oidc_guard_key_fetches_total", "issuer" => issuer.clone(), "outcome" => outcome)
            .increment(1);
        let number = hash.and_then(|hash| u32::from_str_radix(hash.get(..8)?, 16).ok());
        if let Some(number) = number {
            metrics::gauge!("oidc_guard_key_set_hash", "issuer" => issuer).set(f64::from(number));
        }
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (issuer, hash);
}

/// How old an issuer's keys are.
pub(crate) fn keys_age(issuer: &Arc<str>, age: Duration) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("oidc_guard_keys_age_seconds", "issuer" => metrics::SharedString::from(issuer.clone()))
        .set(age);
    #[cfg(not(feature = "metrics"))]
    let _ = (issuer, age);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_printable_is_escaped_and_all_else_is_left_as_it_is() {
        for text in [
            "",
            "a \"b\" \\c 'd'",
            "system:serviceaccount:a:b",
            "Jürgen 名 😀",
        ] {
            assert_eq!(printable(text), text);
        }
        for (text, expected) in [
            ("a\nb", r"a\nb"),
            ("a\r\nb\t", r"a\r\nb\t"),
            ("\u{1b}[2J", r"\u{1b}[2J"),
            ("\0\u{7f}\u{85}", r"\0\u{7f}\u{85}"),
            ("a\u{202e}b\u{2066}", r"a\u{202e}b\u{2066}"),
            (
                "\u{2028}\u{2029}\u{200b}\u{feff}",
                r"\u{2028}\u{2029}\u{200b}\u{feff}",
            ),
        ] {
            assert_eq!(printable(text), expected);
            assert_eq!(printable(expected), expected, "once is enough");
        }
    }
}
