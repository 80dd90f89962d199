//! Help texts and units of the metrics.

use metrics::{Unit, describe_counter, describe_gauge};

/// The counters, with their help texts.
const COUNTERS: [(&str, &str); 5] = [
    (
        "reqwest_wi_auth_file_changes_total",
        "New contents read from watched files.",
    ),
    (
        "reqwest_wi_auth_file_failures_total",
        "Failed reads of watched files.",
    ),
    (
        "reqwest_wi_auth_metadata_fetches_total",
        "Tokens requested from the metadata server, by outcome.",
    ),
    (
        "reqwest_wi_auth_resends_total",
        "Requests sent again with a newer token after a 401.",
    ),
    (
        "reqwest_wi_auth_token_fetches_total",
        "Tokens requested from servers other than the metadata server, by kind of server and outcome.",
    ),
];

/// The gauges without a unit, with their help texts.
const FLAGS: [(&str, &str); 3] = [
    (
        "reqwest_wi_auth_file_last_read_successful",
        "Whether the last read of a watched file succeeded (1) or the previous content is kept (0), by path.",
    ),
    (
        "reqwest_wi_auth_metadata_last_fetch_successful",
        "Whether the last request to the metadata server succeeded (1) or failed (0), by audience.",
    ),
    (
        "reqwest_wi_auth_token_last_fetch_successful",
        "Whether the last request for a token to another server than the metadata server succeeded (1) or failed (0), by kind of server and audience.",
    ),
];

/// The gauges that contain a time since the Unix epoch, with their help texts.
const TIMESTAMPS: [(&str, &str); 3] = [
    (
        "reqwest_wi_auth_file_last_change_timestamp_seconds",
        "When the content in use was read from a watched file, by path. For a token file, its last rotation.",
    ),
    (
        "reqwest_wi_auth_token_expiry_timestamp_seconds",
        "When the token in use expires, by source: the path of a file, or the audience of a fetched token.",
    ),
    (
        "reqwest_wi_auth_token_rotation_due_timestamp_seconds",
        "When the token in use should have been replaced, by source: at warnafter, or at 80 % of its lifetime.",
    ),
];

/// Registers the help texts and units of this crate's metrics with the current recorder of the `metrics` facade.
///
/// Opening a [`WatchedFile`](crate::WatchedFile) or [`ProjectedToken`](crate::ProjectedToken), starting a source that fetches tokens,
/// such as one of [`MetadataServer`](crate::MetadataServer), and creating a [`BearerAuth`](crate::BearerAuth) call it, so it is needed only if
/// the recorder is installed after these. Without a recorder it does nothing. It can be called any number of times.
///
/// # Examples
///
/// ```
/// // After the recorder is installed:
/// reqwest_wi_auth::describe_metrics();
/// ```
pub fn describe_metrics() {
    for (name, help) in COUNTERS {
        describe_counter!(name, help);
    }
    for (name, help) in FLAGS {
        describe_gauge!(name, help);
    }
    for (name, help) in TIMESTAMPS {
        describe_gauge!(name, Unit::Seconds, help);
    }
}
