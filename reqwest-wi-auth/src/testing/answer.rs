//! What the fake metadata server answers.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, StatusCode};
use serde_json::json;

pub(super) const FLAVOR: &str = "Metadata-Flavor";
pub(super) const GOOGLE: &str = "Google";
const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/identity";

/// The audience of a request as the real server takes it, or what it answers otherwise.
pub(super) fn audience<B>(request: &Request<B>) -> Result<String, StatusCode> {
    if request
        .headers()
        .get(FLAVOR)
        .is_none_or(|value| value != GOOGLE)
    {
        return Err(StatusCode::FORBIDDEN);
    }
    if request.uri().path() != PATH {
        return Err(StatusCode::NOT_FOUND);
    }
    let url = reqwest::Url::parse(&format!("http://metadata{}", request.uri()));
    let url = url.map_err(|_| StatusCode::BAD_REQUEST)?;
    let pair = url.query_pairs().find(|(name, _)| name == "audience");
    pair.map(|(_, audience)| audience.into_owned())
        .ok_or(StatusCode::BAD_REQUEST)
}

/// A token like Google's, with a signature that is none.
pub(super) fn token(audience: &str, lifetime: Duration, count: u64) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let claims = json!({
        "iss": "https://accounts.google.com",
        "aud": audience,
        "sub": "100000000000000000000",
        "azp": "100000000000000000000",
        "email": "demo@project.iam.gserviceaccount.com",
        "email_verified": true,
        "iat": now.as_secs(),
        "exp": (now + lifetime).as_secs(),
        "count": count,
    });
    let header = json!({ "alg": "RS256", "kid": "fake", "typ": "JWT" });
    let encode = |json: serde_json::Value| URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}.bm9uZQ", encode(header), encode(claims))
}
