//! Issuers that are known by name.

use super::Issuer;
use crate::identity::Platform;

const GOOGLE: &str = "https://accounts.google.com";
/// Google has signed tokens under this name too (Google Identity, "Verify the Google ID token").
const GOOGLE_WITHOUT_SCHEME: &str = "accounts.google.com";

impl Issuer {
    /// Google, who signs the identity tokens of workloads on Google Cloud, under either of the two names
    /// that it has used. Anyone on earth can have Google sign a token for any audience: that a token is
    /// valid says who calls, and nothing of whether they may.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::google().audience("https://auth-server.example");
    /// ```
    pub fn google() -> Self {
        Self {
            platform: Platform::Google,
            aliases: vec![GOOGLE_WITHOUT_SCHEME.to_owned()],
            ..Self::oidc(GOOGLE)
        }
    }

    /// A cluster of Google Kubernetes Engine, by project, location (a region or a zone) and name. Its keys
    /// are public.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::gke("project", "europe-west1", "cluster").audience("me");
    /// ```
    pub fn gke(project: &str, location: &str, cluster: &str) -> Self {
        Self::kubernetes(format!(
            "https://container.googleapis.com/v1/projects/{project}/locations/{location}/clusters/{cluster}"
        ))
    }

    /// A cluster of Amazon's Elastic Kubernetes Service, by region and the id in its issuer URL
    /// (`aws eks describe-cluster --query cluster.identity.oidc.issuer`). Its keys are public.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::eks("eu-west-1", "EXAMPLED539D4633E53DE1B71EXAMPLE").audience("me");
    /// ```
    pub fn eks(region: &str, id: &str) -> Self {
        Self::kubernetes(format!("https://oidc.eks.{region}.amazonaws.com/id/{id}"))
    }

    /// A cluster of Azure Kubernetes Service with its OIDC issuer switched on, by region, tenant and the id
    /// in its issuer URL (`az aks show --query oidcIssuerProfile.issuerUrl`), which ends in a slash. Its
    /// keys are public.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let tenant = "00000000-0000-0000-0000-000000000000";
    /// let id = "11111111-1111-1111-1111-111111111111";
    /// let issuer = Issuer::aks("westeurope", tenant, id).audience("me");
    /// ```
    pub fn aks(region: &str, tenant: &str, id: &str) -> Self {
        Self::kubernetes(format!(
            "https://{region}.oic.prod-aks.azure.com/{tenant}/{id}/"
        ))
    }

    /// GitHub Actions: the workflows of every repository there is, so look at the claims (`repository`,
    /// `ref`) by [`require_claim`](Self::require_claim).
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::github_actions()
    ///     .audience("me")
    ///     .require_claim("repository", "octo-org/octo-repo");
    /// ```
    pub fn github_actions() -> Self {
        Self::oidc("https://token.actions.githubusercontent.com")
    }
}
