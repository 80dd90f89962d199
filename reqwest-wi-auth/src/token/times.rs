//! The times in a JWT, read without checking its signature: they decide when to look for the next one.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use zeroize::Zeroizing;

/// What a token says of its life.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) issued_at: Option<SystemTime>,
    pub(super) expires_at: Option<SystemTime>,
    pub(super) warn_after: Option<SystemTime>,
}

#[derive(Deserialize)]
struct Claims {
    exp: Option<f64>,
    iat: Option<f64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
struct Kubernetes {
    warnafter: Option<f64>,
}

impl Times {
    /// Three parts, the middle one a JSON object in base64url.
    pub(super) fn of_jwt(token: &[u8]) -> Result<Self, &'static str> {
        let mut parts = token.split(|&byte| byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("it is not a JWT: it does not have three parts");
        };
        if header.is_empty() || signature.is_empty() {
            return Err("it is not a JWT: a part is empty");
        }
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| "it is not a JWT: its claims are not base64url")?;
        let claims: Claims = serde_json::from_slice(&Zeroizing::new(payload))
            .map_err(|_| "it is not a JWT: its claims are not what RFC 7519 says")?;
        let warn_after = claims
            .kubernetes
            .and_then(|kubernetes| kubernetes.warnafter);
        Ok(Self {
            issued_at: claims.iat.and_then(super::time),
            expires_at: claims.exp.and_then(super::time),
            warn_after: warn_after.and_then(super::time),
        })
    }
}
