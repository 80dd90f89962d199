//! Tokens of the size that Kubernetes issues.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Returns a token of about 1.2 kB. Tokens of different numbers differ.
pub(crate) fn text(number: usize) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let claims = format!(
        r#"{{"aud":["https://auth-server.example"],"exp":{},"iat":{now},"jti":"{number:08}","pad":"{}"}}"#,
        now + 3600,
        "x".repeat(480),
    );
    let header = r#"{"alg":"RS256","kid":"7hxLajfNQoLtbAlF5z-RKUyIpsyUBSkhux2F0Hve1DU"}"#;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "{}.{}.{}",
        encode(header.as_bytes()),
        encode(claims.as_bytes()),
        encode(&[7; 256])
    )
}
