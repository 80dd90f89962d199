//! The tokens: those that are admitted, and those that must not be.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tower_oidc_guard::testing::TokenSpec;

use crate::issuer::Issuer;

/// The audience of the servers.
pub(crate) const AUDIENCE: &str = "https://auth-server.example";
const OTHER_AUDIENCE: &str = "https://other.example";
/// The namespace of all service accounts.
pub(crate) const NAMESPACE: &str = "id-namespace";
/// How long a token is valid. The servers allow no leeway, so a client that does not follow its token for longer is rejected.
const LIFETIME: Duration = Duration::from_secs(60);

/// Mints tokens with the key that the issuer signs with.
#[derive(Debug)]
pub(crate) struct Tokens {
    issuer: String,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A token of the issuer, with the key that signs.
    spec: TokenSpec,
    /// The token of the callers, which is replaced as often as that of the client.
    known: String,
    /// A token that does not expire during the run, with the key that signs.
    long_lived: String,
    /// A token that does not expire during the run, with the key that was in use before, while that is published.
    previous: Option<String>,
    /// A token that does not expire during the run, with a key that is not published anymore. The servers may still have the key.
    retired: Option<String>,
    /// A token that does not expire during the run, with a key that is not published anymore. The servers have fetched the keys since.
    withdrawn: Option<String>,
}

impl Tokens {
    /// Creates the tokens of an issuer.
    pub(crate) fn new(issuer: &Issuer) -> Self {
        let spec = issuer.keys.token();
        let inner = Inner {
            known: String::new(),
            spec,
            long_lived: String::new(),
            previous: None,
            retired: None,
            withdrawn: None,
        };
        let tokens = Self {
            issuer: issuer.url.clone(),
            inner: Mutex::new(inner),
        };
        tokens.replace_known();
        tokens.replace_long_lived();
        tokens
    }

    /// Returns the token of a service account for the servers, to be minted.
    fn spec(&self, account: &str) -> TokenSpec {
        let spec = self.inner().spec.clone();
        let spec = spec.service_account(NAMESPACE, account);
        // Otherwise the time at which the key was first used.
        let spec = spec.issued_at(SystemTime::now());
        spec.claim("iss", self.issuer.clone()).lifetime(LIFETIME)
    }

    /// Mints a token that is admitted, with the name of its pod.
    pub(crate) fn valid(&self, account: &str, pod: &str) -> String {
        let unique = next_token_id();
        let spec = self.spec(account).pod(pod).audience(AUDIENCE);
        spec.token_id(unique).mint()
    }

    /// Returns the token that the callers share.
    pub(crate) fn known(&self) -> String {
        self.inner().known.clone()
    }

    /// Replaces the token that the callers share.
    pub(crate) fn replace_known(&self) {
        let known = self.valid("gke-sa", "caller");
        self.inner().known = known;
    }

    /// Mints a token that has expired.
    pub(crate) fn expired(&self) -> String {
        let issued = SystemTime::now() - Duration::from_secs(3600);
        let spec = self.spec("gke-sa").audience(AUDIENCE);
        let spec = spec.token_id(next_token_id());
        spec.issued_at(issued).mint()
    }

    /// Mints a token for another audience.
    pub(crate) fn other_audience(&self) -> String {
        let spec = self.spec("gke-sa").audience(OTHER_AUDIENCE);
        spec.token_id(next_token_id()).mint()
    }

    /// Mints a token whose signature is not valid.
    pub(crate) fn bad_signature(&self) -> String {
        let spec = self.spec("gke-sa").audience(AUDIENCE);
        spec.token_id(next_token_id()).bad_signature().mint()
    }

    /// Mints a token with a key that the issuer does not publish.
    pub(crate) fn unknown_key(&self) -> String {
        let spec = self.spec("gke-sa").audience(AUDIENCE);
        let id = next_token_id();
        let spec = spec.header("kid", format!("unknown-{id}"));
        spec.token_id(id).mint()
    }

    /// Returns a token that does not expire during the run.
    pub(crate) fn long_lived(&self) -> String {
        self.inner().long_lived.clone()
    }

    /// Returns a token whose key was withdrawn, if there is one. The servers have admitted it before.
    pub(crate) fn withdrawn(&self) -> Option<String> {
        self.inner().withdrawn.clone()
    }

    /// Signs with the key that the issuer has published last from now on.
    pub(crate) fn use_new_key(&self, issuer: &Issuer) {
        self.inner().spec = issuer.keys.token();
        let previous = self.replace_long_lived();
        self.inner().previous = Some(previous);
        self.replace_known();
    }

    /// Records that the issuer does not publish the key before the current one anymore.
    pub(crate) fn old_key_withdrawn(&self) {
        let mut inner = self.inner();
        inner.retired = inner.previous.take();
    }

    /// Records that the servers have fetched the keys, because they admit a token with a key that was published after the last key was
    /// withdrawn.
    pub(crate) fn keys_fetched(&self) {
        let mut inner = self.inner();
        if let Some(retired) = inner.retired.take() {
            inner.withdrawn = Some(retired);
        }
    }

    /// Mints a token that does not expire during the run, and returns the previous one.
    fn replace_long_lived(&self) -> String {
        let spec = self.spec("gke-sa").audience(AUDIENCE);
        let spec = spec.lifetime(Duration::from_secs(7 * 24 * 3600));
        let token = spec.token_id(next_token_id()).mint();
        std::mem::replace(&mut self.inner().long_lived, token)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns an ID that no other token of this run has.
fn next_token_id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("soak-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
