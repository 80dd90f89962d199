//! The guard's settings.

use std::sync::Arc;
use std::time::SystemTime;

use reqwest_middleware::ClientWithMiddleware;

use super::trust::trust;
use super::{Inner, OidcGuard};
use crate::clock::Clock;
use crate::error::BuildError;
use crate::issuer::Issuer;
use crate::verifier::TokenVerifier;

const DEFAULT_REALM: &str = "protected";

/// Builds an [`OidcGuard`].
///
/// ```
/// # fn main() -> Result<(), tower_oidc_guard::BuildError> {
/// use tower_oidc_guard::{Issuer, OidcGuard};
///
/// let guard = OidcGuard::builder()
///     .issuer(Issuer::kubernetes("https://cluster.example").audience("https://auth-server.example"))
///     .any_verified_caller()
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
#[must_use]
pub struct OidcGuardBuilder {
    issuers: Vec<Issuer>,
    any_verified_caller: bool,
    realm: Option<String>,
    http_client: Option<ClientWithMiddleware>,
    clock: Clock,
}

impl OidcGuardBuilder {
    /// Trusts an issuer; several may be named. A token's `iss` picks one, and only that one's keys are
    /// tried.
    ///
    /// ```
    /// # use tower_oidc_guard::{Issuer, OidcGuard};
    /// let builder = OidcGuard::builder().issuer(Issuer::discover("https://id.example").audience("me"));
    /// ```
    pub fn issuer(mut self, issuer: Issuer) -> Self {
        self.issuers.push(issuer);
        self
    }

    /// Lets in whoever has a valid token of a trusted issuer for one of its audiences. For a Kubernetes
    /// issuer that is every pod that asks for such a token: the service behind has to look at the
    /// [`Identity`](crate::Identity) itself.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().any_verified_caller();
    /// ```
    pub fn any_verified_caller(mut self) -> Self {
        self.any_verified_caller = true;
        self
    }

    /// The realm of challenges (RFC 9110, section 11.5): printable ASCII. Default: `protected`.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let builder = OidcGuard::builder().realm("orders");
    /// ```
    pub fn realm(mut self, realm: impl Into<String>) -> Self {
        self.realm = Some(realm.into());
        self
    }

    /// Fetches discovery documents and keys with this client: for a proxy, another CA, retries,
    /// tracing. Default: one of this library's, with the system's roots, that stays within the origin
    /// it asks, connects within 5 s and is done within 10 s.
    ///
    /// A client that follows redirects away from the origin is of no use: such answers are refused.
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).build();
    /// let builder = OidcGuard::builder().http_client(client);
    /// ```
    pub fn http_client(mut self, client: ClientWithMiddleware) -> Self {
        self.http_client = Some(client);
        self
    }

    /// Takes the time of day from here instead of from the system: for tests, and for replaying tokens
    /// of another day.
    ///
    /// ```
    /// # use {std::time::{Duration, SystemTime}, tower_oidc_guard::OidcGuard};
    /// let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_462_877);
    /// let builder = OidcGuard::builder().clock(move || then);
    /// ```
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Builds the guard. No network is touched and nothing is spawned.
    ///
    /// # Errors
    ///
    /// Where the settings would not make a guard: no issuer, an issuer without an audience or with a
    /// URL that is not https, or nothing said about who may call.
    pub fn build(self) -> Result<OidcGuard, BuildError> {
        if self.issuers.is_empty() {
            return Err(BuildError::NoIssuer);
        }
        if !self.any_verified_caller {
            return Err(BuildError::NoPolicy);
        }
        let realm = self.realm.unwrap_or_else(|| DEFAULT_REALM.to_owned());
        if !realm
            .chars()
            .all(|character| matches!(character, ' '..='~'))
        {
            return Err(BuildError::Realm { realm });
        }
        let issuers = trust(self.issuers, self.http_client, &self.clock)?;
        let verifier = TokenVerifier::new(issuers, self.clock);
        Ok(OidcGuard(Arc::new(Inner { verifier, realm })))
    }
}
