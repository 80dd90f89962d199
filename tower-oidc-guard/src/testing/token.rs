//! The specification of a token to be minted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use super::signing_key::SigningKey;

/// A token to be minted by a fake issuer.
///
/// By default it has the claims of a Kubernetes 1.36 token that is bound to a pod, for the service account `default` of the
/// namespace `default`; it is issued now, expires after an hour, and has no audience. Every claim and every member of the
/// header can be replaced.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_oidc_guard::testing::MemoryIssuer;
///
/// let issuer = MemoryIssuer::new("https://cluster.example")?;
/// let spec = issuer
///     .token()
///     .audience("https://auth-server.example")
///     .service_account("shop", "orders")
///     .lifetime(Duration::from_secs(600));
/// let valid = spec.mint();
/// let forged = spec.clone().bad_signature().mint();
/// let without_subject = spec.without_claim("sub").mint();
/// assert!(valid != forged && forged != without_subject);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct TokenSpec {
    key: Arc<SigningKey>,
    header: Map<String, Value>,
    bad_signature: bool,
    claims: Map<String, Value>,
    issued_at: SystemTime,
    lifetime: Duration,
}

impl TokenSpec {
    pub(super) fn new(key: Arc<SigningKey>, issuer: &str) -> Self {
        let claims = Map::from_iter([
            ("aud".to_owned(), json!([])),
            ("iss".to_owned(), issuer.into()),
            ("jti".to_owned(), token_id(issuer).into()),
        ]);
        let (issued_at, lifetime) = (SystemTime::now(), Duration::from_secs(3600));
        Self {
            key,
            header: Map::new(),
            bad_signature: false,
            claims,
            issued_at,
            lifetime,
        }
        .service_account("default", "default")
    }

    /// Adds an audience to `aud`, which is always an array, as in Kubernetes.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        let audience = Value::String(audience.into());
        match self.claims.get_mut("aud") {
            Some(Value::Array(audiences)) => audiences.push(audience),
            _ => drop(self.claims.insert("aud".to_owned(), json!([audience]))),
        }
        self
    }

    /// Sets `sub` and the Kubernetes claims to those of a service account, in a pod with the same name.
    pub fn service_account(mut self, namespace: &str, name: &str) -> Self {
        let kubernetes = json!({
            "namespace": namespace,
            "node": { "name": "node", "uid": uid("node") },
            "pod": { "name": name, "uid": uid(&format!("pod {namespace} {name}")) },
            "serviceaccount": { "name": name, "uid": uid(&format!("sa {namespace} {name}")) },
        });
        self.claims.insert("kubernetes.io".to_owned(), kubernetes);
        self.claims.insert(
            "sub".to_owned(),
            format!("system:serviceaccount:{namespace}:{name}").into(),
        );
        self
    }

    /// Sets the uid of the service account in the Kubernetes claims.
    pub(super) fn service_account_uid(mut self, uid: &str) -> Self {
        if let Some(kubernetes) = self.claims.get_mut("kubernetes.io") {
            kubernetes["serviceaccount"]["uid"] = uid.into();
        }
        self
    }

    /// Returns the expiry in the format of Kubernetes (RFC 3339).
    pub(super) fn expiration_timestamp(&self) -> String {
        timestamp(self.issued_at + self.lifetime)
    }

    /// Sets the time from issue to expiry, rounded down to seconds. Default: one hour.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Sets the time of issue, rounded down to seconds. Default: now.
    pub fn issued_at(mut self, time: SystemTime) -> Self {
        self.issued_at = time;
        self
    }

    /// Sets the token id (`jti`). Default: a unique id.
    pub fn token_id(self, id: impl Into<String>) -> Self {
        self.claim("jti", id.into())
    }

    /// Sets a claim to any value. This includes `exp`, `iat` and `nbf`, which otherwise follow from the time of issue and the
    /// lifetime.
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// Removes a claim. `exp`, `iat` and `nbf` cannot be removed, because [`mint`](Self::mint) adds them if they are missing.
    pub fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets a member of the header to any value. This includes `alg` and `kid`, which otherwise are those of the key.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// Replaces the Kubernetes claims by those of an ID token of a Google account with a verified email address.
    pub fn google_account(self, subject: &str, email: &str) -> Self {
        self.without_claim("kubernetes.io")
            .claim("sub", subject)
            .claim("azp", subject)
            .claim("email", email)
            .claim("email_verified", true)
    }

    /// Makes the signature invalid.
    pub fn bad_signature(mut self) -> Self {
        self.bad_signature = true;
        self
    }

    /// Signs the token with the key that was current when [`token`](super::TestIssuer::token) was called, and returns it in
    /// compact serialization.
    pub fn mint(&self) -> String {
        let issued_at = self
            .issued_at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let mut claims = self.claims.clone();
        let times = [
            ("exp", issued_at + self.lifetime.as_secs()),
            ("iat", issued_at),
            ("nbf", issued_at),
        ];
        for (name, time) in times {
            claims.entry(name).or_insert_with(|| time.into());
        }
        let claims = Value::Object(claims);
        let mut token = self.key.sign(&self.header, &claims);
        if self.bad_signature {
            let start = token.rfind('.').map_or(0, |dot| dot + 1);
            let other = if token[start..].starts_with('A') {
                "B"
            } else {
                "A"
            };
            token.replace_range(start..=start, other);
        }
        token
    }
}

/// Returns a uid in the format of Kubernetes. It is the same for the same text.
pub(super) fn uid(object: &str) -> String {
    let hash = digest(&SHA256, object.as_bytes());
    let hex: String = hash.as_ref()[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (a, b, c, d, e) = (
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    );
    format!("{a}-{b}-{c}-{d}-{e}")
}

/// Returns a uid that no other token of this issuer has.
fn token_id(issuer: &str) -> String {
    static MINTED: AtomicU64 = AtomicU64::new(0);
    let count = MINTED.fetch_add(1, Ordering::Relaxed);
    uid(&format!("token {count} of {issuer} {}", std::process::id()))
}

/// Formats a time as RFC 3339, in seconds of UTC.
fn timestamp(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns the year, month and day of the date that is `days` days after 1970-01-01.
fn date(mut days: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_formatted_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_640_608, "2026-11-25T21:03:28Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(time), expected);
        }
    }
}
