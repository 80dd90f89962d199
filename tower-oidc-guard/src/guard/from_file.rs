//! A guard configured whole from a file.

use std::path::PathBuf;

use super::{OidcGuard, OidcGuardBuilder};
use crate::error::BuildError;
use crate::policy::{PolicyFile, PolicyHealth};

impl OidcGuardBuilder {
    /// Creates a builder with the issuers and the policy of a YAML or JSON file. The policy is followed (see [`PolicyFile`]);
    /// the issuers are those of the start. Further issuers and settings can be added, but no other policy.
    ///
    /// ```yaml
    /// issuers:
    ///   - platform: in-cluster               # or kubernetes, google, other (the default)
    ///     audiences: ["https://auth-server.example"]
    ///   - url: https://id.example            # not for in-cluster and google
    ///     audiences: ["https://auth-server.example"]
    ///     algorithms: [ES256]                # all from here on may be left out
    ///     leeway_seconds: 60
    ///     max_lifetime_seconds: 3600
    ///     token_types: [at+jwt]
    ///     claims: { tenant: shop }
    ///     jwks_url: https://id.example/keys  # or discovery_url, or keys_file
    ///     # dangerous_accept_api_server_audience: true, for a Kubernetes issuer
    /// allow:
    ///   - system:serviceaccount:id-namespace:gke-sa
    /// ```
    ///
    /// # Errors
    ///
    /// [`BuildError::PolicyFile`] if there is no sound content within 5 s, and others where an issuer's settings
    /// cannot work.
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, OidcGuardBuilder};
    /// # async fn example() -> Result<(), BuildError> {
    /// let guard = OidcGuardBuilder::from_file("/etc/guard/guard.yaml").await?.realm("orders").build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn from_file(path: impl Into<PathBuf>) -> Result<Self, BuildError> {
        let file = PolicyFile::open(path).await?;
        let builder = Self::default().policy_by("from_file", file.policy());
        Ok(file.issuers()?.into_iter().fold(builder, Self::issuer))
    }
}

impl OidcGuard {
    /// How the files fare that the guard's policy comes from.
    pub fn policy_health(&self) -> Vec<PolicyHealth> {
        let files = self.policy().files().into_iter();
        files.map(PolicyFile::health).collect()
    }
}
