//! What happens, told to `tracing` and, with the feature `metrics`, to the `metrics` facade.
//!
//! The counters are `reqwest_wi_auth_file_changes_total`, `reqwest_wi_auth_file_failures_total`,
//! `reqwest_wi_auth_metadata_fetches_total` (label `outcome`: `ok` or `failed`) and
//! `reqwest_wi_auth_resends_total`.

use std::path::Path;

use reqwest::Url;

use crate::error::MetadataError;
use crate::origins::Target;
use crate::watched_file::error::FileError;

macro_rules! count {
    ($name:literal $(, $label:literal => $value:literal)?) => {
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $label => $value)?).increment(1);
    };
}

pub(crate) fn file_changed(path: &Path) {
    tracing::info!(path = %path.display(), "new content taken in");
    count!("reqwest_wi_auth_file_changes_total");
}

/// `is_first`: since the last good read.
pub(crate) fn file_failed(path: &Path, error: &FileError, is_first: bool) {
    let path = path.display();
    if is_first {
        tracing::warn!(%path, %error, "file could not be read or is not valid; the last good content stays in use");
    } else {
        tracing::debug!(%path, %error, "file still could not be read or is not valid");
    }
    count!("reqwest_wi_auth_file_failures_total");
}

pub(crate) fn metadata_fetched(audience: &str) {
    tracing::info!(audience, "identity token fetched");
    count!("reqwest_wi_auth_metadata_fetches_total", "outcome" => "ok");
}

/// `is_first`: since the last token was fetched, or since the error has changed.
pub(crate) fn metadata_failed(audience: &str, error: &MetadataError, is_first: bool) {
    if is_first {
        tracing::warn!(audience, %error, "identity token could not be fetched; retrying");
    } else {
        tracing::debug!(audience, %error, "identity token still could not be fetched; retrying");
    }
    count!("reqwest_wi_auth_metadata_fetches_total", "outcome" => "failed");
}

/// A request passes without a token. `None`: its URL names no origin.
#[inline]
pub(crate) fn not_attached(target: Option<Target<'_>>) {
    match target {
        Some(origin) => {
            tracing::debug!(%origin, "no token attached: tokens are not sent to this origin")
        }
        None => tracing::debug!("no token attached: the request's URL does not name an origin"),
    }
}

pub(crate) fn resent(url: &Url) {
    tracing::debug!(origin = %url.origin().ascii_serialization(), "sending the request again with a newer token after a 401");
    count!("reqwest_wi_auth_resends_total");
}

/// A 401 is handed to the caller, since no source had a newer token.
pub(crate) fn not_resent(url: &Url) {
    tracing::debug!(origin = %url.origin().ascii_serialization(), "request rejected with 401, and there is no newer token");
}
