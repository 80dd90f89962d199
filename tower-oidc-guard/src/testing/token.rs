//! The specification of a token to be minted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::claims::TestClaims;
use super::signing_key::SigningKey;

/// A token to be minted by a fake issuer.
///
/// A token of an issuer for [Google](super::MemoryIssuer::google) has by default the claims of an identity token of a service
/// account of Google Cloud. Any other token has the claims of a Kubernetes 1.36 token that is bound to a pod, for the service
/// account `default` of the namespace `default`. Both are issued now, expire after an hour, and have no audience. Every claim
/// and every member of the header can be replaced.
///
/// This crate's tests compare tokens of service accounts with recorded ones of Kubernetes 1.20 and 1.36.
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
    claims: TestClaims,
}

impl TokenSpec {
    pub(super) fn new(key: Arc<SigningKey>, claims: TestClaims) -> Self {
        Self {
            key,
            header: Map::new(),
            bad_signature: false,
            claims,
        }
    }

    fn map(mut self, map: impl FnOnce(TestClaims) -> TestClaims) -> Self {
        self.claims = map(self.claims);
        self
    }

    /// Adds an audience to `aud`, which is an array, as in Kubernetes. A single audience of a Google token is a string, as in
    /// Google's tokens.
    pub fn audience(self, audience: impl Into<String>) -> Self {
        self.map(|claims| claims.audience(audience.into()))
    }

    /// Sets `sub` and the Kubernetes claims to those of a service account, in a pod with the same name.
    pub fn service_account(self, namespace: &str, name: &str) -> Self {
        self.map(|claims| claims.service_account(namespace, name))
    }

    /// Sets the name of the pod in the Kubernetes claims. Call it after [`service_account`](Self::service_account).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{OidcGuard, testing::MemoryIssuer};
    ///
    /// let cluster = MemoryIssuer::kubernetes()?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(cluster.issuer().audience("me"))
    ///     .http_client(cluster.client())
    ///     .any_verified_caller()
    ///     .build()?;
    /// let token = cluster.token().audience("me").service_account("shop", "web").pod("web-7d9c").node("node-1");
    /// let caller = guard.verifier().verify(token.mint()).await?;
    /// let workload = caller.kubernetes().expect("a token of a service account");
    /// assert_eq!(workload.pod().map(|pod| pod.name()), Some("web-7d9c"));
    /// assert_eq!(workload.node().map(|node| node.name()), Some("node-1"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn pod(self, name: &str) -> Self {
        self.map(|claims| claims.pod(name))
    }

    /// Sets the name of the node in the Kubernetes claims. For an example see [`pod`](Self::pod).
    pub fn node(self, name: &str) -> Self {
        self.map(|claims| claims.node(name))
    }

    /// Removes the pod and the node from the Kubernetes claims, as in a token from TokenRequest that is bound to no object.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// let token = MemoryIssuer::kubernetes()?.token().service_account("shop", "web").without_pod().mint();
    /// # Ok(())
    /// # }
    /// ```
    pub fn without_pod(self) -> Self {
        self.map(TestClaims::without_pod)
    }

    /// Sets the time at which the token should have been replaced (`kubernetes.io.warnafter`). Tokens that Kubernetes mounts
    /// without being asked have it: they are valid for a year.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::{Duration, SystemTime};
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// let automounted = MemoryIssuer::kubernetes()?
    ///     .token()
    ///     .lifetime(Duration::from_secs(365 * 24 * 3600))
    ///     .warn_after(SystemTime::now() + Duration::from_secs(3607))
    ///     .mint();
    /// # Ok(())
    /// # }
    /// ```
    pub fn warn_after(self, time: SystemTime) -> Self {
        self.map(|claims| claims.warn_after(time))
    }

    /// Sets the uid of the service account or the pod in the Kubernetes claims.
    pub(super) fn object_uid(self, object: &str, uid: &str) -> Self {
        self.map(|claims| claims.object_uid(object, uid))
    }

    /// Returns the expiry in the format of Kubernetes (RFC 3339).
    pub(super) fn expiration_timestamp(&self) -> String {
        timestamp(self.claims.issued_at + self.claims.lifetime)
    }

    /// Sets the time from issue to expiry, rounded down to seconds. Default: one hour.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.claims.lifetime = lifetime;
        self
    }

    /// Sets the time of issue, rounded down to seconds. Default: now, by the system's clock.
    pub fn issued_at(mut self, time: SystemTime) -> Self {
        self.claims.issued_at = time;
        self
    }

    /// Sets the token id (`jti`). Default: a unique id, or none for a Google token. Clones have the same id.
    pub fn token_id(self, id: impl Into<String>) -> Self {
        self.claim("jti", id.into())
    }

    /// Sets a claim to any value. This includes `exp`, `iat` and `nbf`, which otherwise follow from the time of issue and the
    /// lifetime.
    pub fn claim(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.map(|claims| claims.claim(name, value.into()))
    }

    /// Removes a claim.
    pub fn without_claim(self, name: &str) -> Self {
        self.map(|claims| claims.without_claim(name))
    }

    /// Sets a member of the header to any value. This includes `alg` and `kid`, which otherwise are those of the key.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// Makes the token an identity token of a Google account with a verified email address: the Kubernetes claims, `nbf` and
    /// `jti` are removed, and a single audience is a string.
    ///
    /// `iss` stays that of the issuer, which is Google's for [`MemoryIssuer::google`](super::MemoryIssuer::google).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// let google = MemoryIssuer::google()?;
    /// let token = google.token().audience("me").google_account("108204268033311374519", "ann@example.com").mint();
    /// # Ok(())
    /// # }
    /// ```
    pub fn google_account(self, subject: &str, email: &str) -> Self {
        self.map(|claims| claims.google_account(subject, email))
    }

    /// Makes the token an identity token of a Google service account, with a subject that follows from the email address.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{Issuer, OidcGuard, Policy, testing::MemoryIssuer};
    ///
    /// let google = MemoryIssuer::google()?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::google().audience("me"))
    ///     .policy(Policy::members(["serviceAccount:orders@project.iam.gserviceaccount.com"]))
    ///     .http_client(google.client())
    ///     .build()?;
    /// let token = google.token().audience("me").google_service_account("orders@project.iam.gserviceaccount.com");
    /// let caller = guard.verifier().verify(token.mint()).await?;
    /// assert!(guard.policy().explain(&caller).is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    pub fn google_service_account(self, email: &str) -> Self {
        self.map(|claims| claims.google_service_account(email))
    }

    /// Sets the Google Workspace domain of a user (`hd`).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// let google = MemoryIssuer::google()?;
    /// let user = google.token().google_account("108204268033311374519", "ann@example.com");
    /// let token = user.hosted_domain("example.com").audience("me").mint();
    /// # Ok(())
    /// # }
    /// ```
    pub fn hosted_domain(self, domain: &str) -> Self {
        self.claim("hd", domain)
    }

    /// Adds the claim `google.compute_engine`, which tokens from a metadata server have if they are requested with
    /// `format=full`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// let google = MemoryIssuer::google()?;
    /// let token = google.token().audience("me").compute_engine("shop", "europe-west1-b", "orders-1").mint();
    /// # Ok(())
    /// # }
    /// ```
    pub fn compute_engine(self, project_id: &str, zone: &str, instance_name: &str) -> Self {
        self.map(|claims| claims.compute_engine(project_id, zone, instance_name))
    }

    /// Makes it a token of GitHub Actions for a job of this repository, such as `octo-org/octo-repo`, which a push to `main` started.
    /// Its IDs are derived from the names. Change other claims with [`claim`](Self::claim).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// let github = MemoryIssuer::github_actions()?;
    /// let job = github.token().audience("me").github_repository("octo-org/octo-repo").claim("environment", "production");
    /// let token = job.mint();
    /// # Ok(())
    /// # }
    /// ```
    pub fn github_repository(self, repository: &str) -> Self {
        self.map(|claims| claims.github_repository(repository))
    }

    /// Makes it an ID token of GitLab for a job of this project, such as `my-group/my-project`, which a push to the protected branch
    /// `main` started. Its IDs are derived from the paths. Change other claims with [`claim`](Self::claim).
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::testing::MemoryIssuer;
    ///
    /// let gitlab = MemoryIssuer::gitlab("https://gitlab.example.com")?;
    /// let token = gitlab.token().audience("me").gitlab_project("my-group/my-project").claim("ref_protected", "false").mint();
    /// # Ok(())
    /// # }
    /// ```
    pub fn gitlab_project(self, path: &str) -> Self {
        self.map(|claims| claims.gitlab_project(path))
    }

    /// Makes the signature invalid.
    pub fn bad_signature(mut self) -> Self {
        self.bad_signature = true;
        self
    }

    /// Signs the token with the key that was current when [`token`](super::TestIssuer::token) was called, and returns it in
    /// compact serialization.
    pub fn mint(&self) -> String {
        let mut header = self.claims.header();
        header.extend(self.header.clone());
        let mut token = self.key.sign(&header, &self.claims.to_json());
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
