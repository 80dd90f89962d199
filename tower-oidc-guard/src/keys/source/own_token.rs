//! What a pod's own token says. It is not verified: it was put there by the same kubelet that put the CA's
//! certificate beside it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// The issuer of the tokens that Kubernetes made before it had OIDC: it has no documents, and no tokens of
/// another audience.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of the pod's own token that matter here.
pub(crate) struct OwnToken {
    /// The cluster's issuer; nothing where the token is of the legacy kind.
    pub(crate) issuer: Option<String>,
    /// The API server's audiences.
    pub(crate) audiences: Vec<String>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    #[serde(default)]
    aud: Audiences,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl OwnToken {
    /// Reads a token; nothing where it is none.
    pub(crate) fn read(token: &[u8]) -> Option<Self> {
        let payload = token.trim_ascii().split(|&byte| byte == b'.').nth(1)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        Some(Self {
            issuer: Some(claims.iss).filter(|issuer| issuer != LEGACY_ISSUER),
            audiences: match claims.aud {
                Audiences::One(audience) => vec![audience],
                Audiences::Many(audiences) => audiences,
            },
        })
    }
}
