//! A token to be minted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value, json};

use super::signing_key::SigningKey;

/// A token to be minted: by default like one of Kubernetes 1.36 that is bound to a pod, for the service
/// account `default` of the namespace `default`, for no audience, an hour long.
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

    /// Adds an audience.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        let audience = Value::String(audience.into());
        match self.claims.get_mut("aud") {
            Some(Value::Array(audiences)) => audiences.push(audience),
            _ => drop(self.claims.insert("aud".to_owned(), json!([audience]))),
        }
        self
    }

    /// Makes it a token of that service account, in a pod of its name.
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

    /// Sets the uid of the service account that it names.
    pub(super) fn service_account_uid(mut self, uid: &str) -> Self {
        if let Some(kubernetes) = self.claims.get_mut("kubernetes.io") {
            kubernetes["serviceaccount"]["uid"] = uid.into();
        }
        self
    }

    /// Returns when it expires, as Kubernetes writes times (RFC 3339).
    pub(super) fn expiration_timestamp(&self) -> String {
        timestamp(self.issued_at + self.lifetime)
    }

    /// How long it lives. Whole seconds count.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// When it is issued. Default: now. Whole seconds count.
    pub fn issued_at(mut self, time: SystemTime) -> Self {
        self.issued_at = time;
        self
    }

    /// Its id (`jti`). Default: one of its own.
    pub fn token_id(self, id: impl Into<String>) -> Self {
        self.claim("jti", id.into())
    }

    /// Sets any claim, `exp`, `iat` and `nbf` included, to any value.
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// Leaves a claim out. The times come back unless set to something else.
    pub fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets any member of the header, `alg` and `kid` included, to any value.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// Makes it an identity token of a Google account, with its email verified.
    pub fn google_account(self, subject: &str, email: &str) -> Self {
        self.without_claim("kubernetes.io")
            .claim("sub", subject)
            .claim("azp", subject)
            .claim("email", email)
            .claim("email_verified", true)
    }

    /// Spoils the signature.
    pub fn bad_signature(mut self) -> Self {
        self.bad_signature = true;
        self
    }

    /// Signs it with the key that was the issuer's current one when [`token`](super::TestIssuer::token)
    /// was called.
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

/// Returns a uid of the usual form: always the same for the same text.
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

/// A uid that no other token of this issuer has.
fn token_id(issuer: &str) -> String {
    static MINTED: AtomicU64 = AtomicU64::new(0);
    let count = MINTED.fetch_add(1, Ordering::Relaxed);
    uid(&format!("token {count} of {issuer} {}", std::process::id()))
}

/// Writes a time as RFC 3339 does, in whole seconds of UTC.
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

/// Returns year, month and day of that many days after 1970-01-01.
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
    fn timestamps_are_written_in_utc() {
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
