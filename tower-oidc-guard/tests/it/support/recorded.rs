//! Tokens and documents recorded from real Kubernetes clusters, in `tests/data/kubernetes`.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// Recordings of Kubernetes 1.36 with an RS256 key.
pub const V1_36: &str = "v1.36/rs256";
/// Recordings of Kubernetes 1.20 with an RS256 key.
pub const V1_20: &str = "v1.20/rs256";
/// The issuer of all recorded tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Returns the path of a folder or file of the recordings.
pub fn recorded_path(name: &str) -> PathBuf {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubernetes");
    data.join(name)
}

/// Reads a recorded token, without the line break that some of the files end in.
pub fn recorded_token(folder: &str, name: &str) -> String {
    let token = std::fs::read_to_string(recorded_path(folder).join(name)).unwrap();
    token.trim_end().to_owned()
}

/// Returns a numeric claim of a token, without verifying the token.
///
/// Returns `None` if the token does not have the claim.
pub fn numeric_claim(token: &str, name: &str) -> Option<u64> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&payload.unwrap()).unwrap();
    claims[name].as_u64()
}
