//! Log events, and metrics with the feature `metrics`.
//!
//! The events and metrics are listed in the README of the crate. A field `error` is a string with the error and all its causes.

#[cfg(feature = "metrics")]
mod labels;

use std::path::Path;
use std::time::{Duration, SystemTime};

use reqwest::Url;

use crate::error::Error;
use crate::origins::OriginRef;
use crate::source::fetched::{Description, FetchKind};
use crate::text::{log_line, one_line};
#[cfg(feature = "federation")]
use crate::text::{printable, shorten_middle};
use crate::token::Token;
use crate::watched_file::FileError;

macro_rules! count {
    ($name:literal $(, $label:literal => $value:literal)?) => {
        #[cfg(feature = "metrics")]
        metrics::counter!($name $(, $label => $value)?).increment(1);
    };
}

/// The longest list of the sources that were not chosen in a log event, in bytes.
#[cfg(feature = "federation")]
const MAX_FINDINGS_BYTES: usize = 2000;

/// Registers the help texts of the metrics with the current recorder, if there is one.
pub(crate) fn describe() {
    #[cfg(feature = "metrics")]
    crate::describe_metrics();
}

/// Records a read of a file: whether it succeeded, and when the content in use was read.
pub(crate) fn file_read(path: &Path, is_successful: bool, last_change: SystemTime) {
    #[cfg(feature = "metrics")]
    {
        let path = metrics::SharedString::from(path.display().to_string());
        metrics::gauge!("reqwest_wi_auth_file_last_read_successful", "path" => path.clone())
            .set(f64::from(u8::from(is_successful)));
        metrics::gauge!("reqwest_wi_auth_file_last_change_timestamp_seconds", "path" => path)
            .set(unix_seconds(last_change));
    }
    #[cfg(not(feature = "metrics"))]
    let _ = (path, is_successful, last_change);
}

/// Records the times of the token of a file that is in use. `path` is the path of the file.
pub(crate) fn token_in_use(path: &str, token: &Token) {
    #[cfg(feature = "metrics")]
    record_times(path, token, token.rotation_due());
    #[cfg(not(feature = "metrics"))]
    let _ = (path, token);
}

/// Records the times of a fetched token that is in use. `due` is when it should have been replaced.
pub(crate) fn fetched_token_in_use(
    description: &Description,
    token: &Token,
    due: Option<SystemTime>,
) {
    #[cfg(feature = "metrics")]
    record_times(&description.audience, token, due);
    #[cfg(not(feature = "metrics"))]
    let _ = (description, token, due);
}

#[cfg(feature = "metrics")]
fn record_times(source: &str, token: &Token, due: Option<SystemTime>) {
    let source = labels::bounded(source);
    if let Some(expiry) = token.expires_at() {
        metrics::gauge!("reqwest_wi_auth_token_expiry_timestamp_seconds", "source" => source.clone())
            .set(unix_seconds(expiry));
    }
    if let Some(due) = due {
        metrics::gauge!("reqwest_wi_auth_token_rotation_due_timestamp_seconds", "source" => source)
            .set(unix_seconds(due));
    }
}

#[cfg(feature = "metrics")]
fn unix_seconds(time: SystemTime) -> f64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_secs_f64()
}

/// Counts a request for a token, and records whether it succeeded.
#[cfg(feature = "metrics")]
fn count_fetch(description: &Description, is_successful: bool) {
    let outcome = if is_successful { "ok" } else { "failed" };
    let flag = f64::from(u8::from(is_successful));
    let audience = labels::bounded(&description.audience);
    if description.kind == FetchKind::Metadata {
        metrics::counter!("reqwest_wi_auth_metadata_fetches_total", "outcome" => outcome)
            .increment(1);
        metrics::gauge!("reqwest_wi_auth_metadata_last_fetch_successful", "audience" => audience)
            .set(flag);
    } else {
        let kind = description.kind.label();
        metrics::counter!("reqwest_wi_auth_token_fetches_total", "kind" => kind, "outcome" => outcome)
            .increment(1);
        metrics::gauge!("reqwest_wi_auth_token_last_fetch_successful", "kind" => kind, "audience" => audience)
            .set(flag);
    }
}

#[cfg(not(feature = "metrics"))]
fn count_fetch(_description: &Description, _is_successful: bool) {}

/// Records that a source of fetched tokens was created.
pub(crate) fn source_created(description: &Description) {
    #[cfg(feature = "metrics")]
    labels::source_created(&description.audience);
    #[cfg(not(feature = "metrics"))]
    let _ = description;
}

/// Records that a source of fetched tokens was dropped: if there is no other one for its audience, the gauges about its token no
/// longer have a value, so that they cause no alert. `NaN` is neither above nor below any limit.
pub(crate) fn source_dropped(description: &Description) {
    #[cfg(feature = "metrics")]
    {
        let Some(audience) = labels::source_dropped(&description.audience) else {
            return;
        };
        let kind = description.kind.label();
        let last_fetch = if description.kind == FetchKind::Metadata {
            metrics::gauge!("reqwest_wi_auth_metadata_last_fetch_successful", "audience" => audience.clone())
        } else {
            metrics::gauge!("reqwest_wi_auth_token_last_fetch_successful", "kind" => kind, "audience" => audience.clone())
        };
        last_fetch.set(f64::NAN);
        metrics::gauge!("reqwest_wi_auth_token_expiry_timestamp_seconds", "source" => audience.clone())
            .set(f64::NAN);
        metrics::gauge!("reqwest_wi_auth_token_rotation_due_timestamp_seconds", "source" => audience)
            .set(f64::NAN);
    }
    #[cfg(not(feature = "metrics"))]
    let _ = description;
}

/// Logs that the content of a file has changed.
pub(crate) fn log_file_change(path: &Path) {
    tracing::info!(path = %path.display(), "file changed; using the new content");
}

/// Counts a change of the content of a file.
pub(crate) fn count_file_change() {
    count!("reqwest_wi_auth_file_changes_total");
}

/// Records that a file was read after a failed read, and has the same content as before.
pub(crate) fn file_recovered(path: &Path) {
    tracing::info!(path = %path.display(), "file loaded again after an error; its content has not changed");
}

/// Records a failed read of a file, whose error differs from the others since the last successful read, or was logged a while ago.
/// `lasting` is the time since the first of the failed reads.
pub(crate) fn file_failed(path: &Path, error: &FileError, lasting: Duration) {
    tracing::warn!(
        path = %path.display(),
        error = log_line(error),
        failing_for_seconds = lasting.as_secs(),
        "file could not be loaded; keeping the previous content"
    );
    count!("reqwest_wi_auth_file_failures_total");
}

/// Records a failed read of a file, whose error has been logged already.
pub(crate) fn file_still_failed(path: &Path, error: &FileError) {
    let path = path.display();
    tracing::debug!(%path, error = log_line(error), "file still could not be loaded");
    count!("reqwest_wi_auth_file_failures_total");
}

/// Records that a token was fetched.
pub(crate) fn token_fetched(description: &Description) {
    let Description {
        kind,
        audience,
        server,
    } = description;
    match kind {
        FetchKind::Metadata => tracing::info!(audience, "identity token fetched"),
        #[cfg(feature = "federation")]
        _ => tracing::info!(kind = kind.label(), server, audience, "token fetched"),
    }
    #[cfg(not(feature = "federation"))]
    let _ = server;
    count_fetch(description, true);
}

/// Records a failed request for a token that follows a successful one, or one that failed differently.
pub(crate) fn token_not_fetched(description: &Description, error: &Error) {
    let (kind, audience) = (description.kind, &description.audience);
    let error = log_line(error);
    match kind {
        FetchKind::Metadata => {
            tracing::warn!(
                audience,
                error,
                "identity token could not be fetched; retrying"
            );
        }
        #[cfg(feature = "federation")]
        _ => tracing::warn!(
            kind = kind.label(),
            audience,
            error,
            "token could not be fetched; retrying"
        ),
    }
    count_fetch(description, false);
}

/// Records a further failed request for a token.
pub(crate) fn token_still_not_fetched(description: &Description, error: &Error) {
    let (kind, audience) = (description.kind, &description.audience);
    let error = log_line(error);
    match kind {
        FetchKind::Metadata => {
            tracing::debug!(
                audience,
                error,
                "identity token still could not be fetched; retrying"
            );
        }
        #[cfg(feature = "federation")]
        _ => tracing::debug!(
            kind = kind.label(),
            audience,
            error,
            "token still could not be fetched; retrying"
        ),
    }
    count_fetch(description, false);
}

/// Records a failed run of a command that follows a successful one, or one that failed differently.
pub(crate) fn command_failed(program: &str, error: &Error) {
    tracing::warn!(
        program,
        error = log_line(error),
        "command returned no token"
    );
}

/// Records a further failed run of a command.
pub(crate) fn command_still_failed(program: &str, error: &Error) {
    tracing::debug!(
        program,
        error = log_line(error),
        "command still returned no token"
    );
}

/// Records that a request is sent without a token, since no tokens are sent to its origin. `None` if its URL has none.
#[inline]
pub(crate) fn not_attached(origin: Option<OriginRef<'_>>) {
    match origin {
        Some(origin) => {
            tracing::debug!(%origin, "no token attached: tokens are not sent to this origin");
        }
        None => tracing::debug!("no token attached: the URL of the request has no origin"),
    }
}

/// Records that a request to an origin that tokens are sent to carries none, because a proxy reads it (`CONNECT`) or because
/// its `Host` header names another server.
pub(crate) fn not_attached_to_request(origin: OriginRef<'_>) {
    tracing::debug!(%origin, "no token attached: the method is CONNECT, or the Host header does not match the URL");
}

/// Records that a source was created for the audience of an origin.
pub(crate) fn audience_added(origin: &str, audience: &str) {
    tracing::debug!(
        origin,
        audience = one_line(audience),
        "token source created for a further audience"
    );
}

/// Records that the source of an audience was dropped, since a source for another audience was created.
pub(crate) fn audience_dropped(audience: &str) {
    tracing::debug!(
        audience = one_line(audience),
        "token source dropped: there are too many audiences, and it was used least recently"
    );
}

/// Records that no source was created for the audience of an origin. Called for the first of several such requests.
pub(crate) fn too_many_audiences(origin: &str, audience: &str, max_audiences: usize) {
    tracing::warn!(
        origin,
        audience = one_line(audience),
        max_audiences,
        "too many token sources were created within a short time; requests that need a further one fail. Return an audience \
         only for origins of known services, or raise max_audiences"
    );
}

/// Records which source was chosen for an audience by the environment, why, and why others were not.
#[cfg(feature = "federation")]
pub(crate) fn ambient_source_chosen(
    audience: &str,
    source: crate::AmbientSource,
    reason: &str,
    not_chosen: &[crate::error::AmbientFinding],
) {
    tracing::info!(
        target: "reqwest_wi_auth::ambient",
        audience = one_line(audience),
        %source,
        reason = one_line(reason),
        not_chosen = shorten_middle(&printable(&crate::error::list(not_chosen)), MAX_FINDINGS_BYTES),
        "token source chosen"
    );
}

/// Records that a request is sent again after a 401.
pub(crate) fn resent(url: &Url) {
    tracing::debug!(origin = %url.origin().ascii_serialization(), "received 401; sending the request again with a newer token");
    count!("reqwest_wi_auth_resends_total");
}

/// Records that a 401 is returned to the caller, because no source has a newer token.
pub(crate) fn not_resent(url: &Url) {
    tracing::debug!(origin = %url.origin().ascii_serialization(), "received 401; not sending the request again, since there is no newer token");
}
