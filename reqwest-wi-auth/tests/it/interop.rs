//! This crate together with programs of other makers: its sources with their identity servers, and their clients with the
//! fakes in `testing`.
//!
//! The tests are ignored, since they need Node.js, Python and packages of npm and PyPI. `demo/interop/run.sh` installs the
//! packages and runs them.

mod clients;
mod identity_servers;
mod program;

/// The service that tokens are for.
const AUDIENCE: &str = "https://orders.example";

/// An identifier and a secret whose characters have to be encoded in HTTP Basic authentication (RFC 6749, section 2.3.1).
const CLIENT_ID: &str = "orders:%+ &=client";
const CLIENT_SECRET: &str = "s3:%+ &=/\"~cr3t";

/// Asserts that a text contains no part of a secret, encoded or not.
fn assert_not_shown(text: &str, secret: &str) {
    let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    for part in secret.split('.').chain([secret, &encoded]) {
        assert!(
            part.is_empty() || !text.contains(part),
            "a secret is shown: {text}"
        );
    }
}
