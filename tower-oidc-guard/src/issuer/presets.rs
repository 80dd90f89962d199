//! Constructors for the issuers of well-known platforms.

use super::Issuer;
use crate::identity::Platform;
use crate::keys::location::KeyLocation;

const GOOGLE: &str = "https://accounts.google.com";
/// The issuer of GitHub Actions on github.com.
pub(crate) const GITHUB_ACTIONS: &str = "https://token.actions.githubusercontent.com";
/// The instance of GitLab that anyone can use.
pub(crate) const GITLAB: &str = "https://gitlab.com";
/// Google has signed tokens with this `iss` too (Google Identity, "Verify the Google ID token").
const GOOGLE_WITHOUT_SCHEME: &str = "accounts.google.com";

impl Issuer {
    /// Creates the settings of Google, which signs the identity tokens of workloads on Google Cloud and of users.
    ///
    /// Both values of `iss` that Google uses are accepted: `https://accounts.google.com` and `accounts.google.com`.
    /// [`Identity::issuer`](crate::Identity::issuer) returns the first one for both.
    ///
    /// Anyone can get a token from Google for any audience. A valid token identifies the caller but gives no permission, so
    /// always restrict the callers with a [`Policy`](crate::Policy).
    ///
    /// ```
    /// # fn main() -> Result<(), tower_oidc_guard::BuildError> {
    /// use tower_oidc_guard::{Issuer, OidcGuard, Policy};
    ///
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::google().audience("https://auth-server.example"))
    ///     .policy(Policy::members(["serviceAccount:orders@project.iam.gserviceaccount.com"]))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn google() -> Self {
        Self {
            spellings: vec![GOOGLE_WITHOUT_SCHEME.to_owned()],
            ..Self::new(
                Some(GOOGLE.to_owned()),
                Platform::Google,
                KeyLocation::Discovery { url: None },
            )
        }
    }

    /// Creates the settings of a cluster of Google Kubernetes Engine, whose keys are public.
    ///
    /// `location` is a region or a zone.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // https://container.googleapis.com/v1/projects/shop/locations/europe-west1/clusters/prod
    /// let issuer = Issuer::gke("shop", "europe-west1", "prod").audience("https://auth-server.example");
    /// ```
    pub fn gke(project: &str, location: &str, cluster: &str) -> Self {
        Self::kubernetes(format!(
            "https://container.googleapis.com/v1/projects/{project}/locations/{location}/clusters/{cluster}"
        ))
    }

    /// Creates the settings of a cluster of Amazon Elastic Kubernetes Service, whose keys are public.
    ///
    /// `id` is the last part of the issuer URL that `aws eks describe-cluster --query cluster.identity.oidc.issuer` prints.
    /// Clusters outside the partition `aws` (China, GovCloud) have issuer URLs of another form: pass those to
    /// [`kubernetes`](Self::kubernetes).
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// // https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE
    /// let issuer = Issuer::eks("eu-west-1", "EXAMPLED539D4633E53DE1B71EXAMPLE").audience("https://auth-server.example");
    /// ```
    pub fn eks(region: &str, id: &str) -> Self {
        Self::kubernetes(format!("https://oidc.eks.{region}.amazonaws.com/id/{id}"))
    }

    /// Creates the settings of a cluster of Azure Kubernetes Service with the OIDC issuer enabled, whose keys are public.
    ///
    /// The parts are those of the issuer URL that `az aks show --query oidcIssuerProfile.issuerUrl` prints; it ends in a slash.
    /// Clusters in sovereign clouds have issuer URLs of another form: pass those to [`kubernetes`](Self::kubernetes).
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let tenant = "00000000-0000-0000-0000-000000000000";
    /// let id = "11111111-1111-1111-1111-111111111111";
    /// // https://westeurope.oic.prod-aks.azure.com/00000000-…/11111111-…/
    /// let issuer = Issuer::aks("westeurope", tenant, id).audience("https://auth-server.example");
    /// ```
    pub fn aks(region: &str, tenant: &str, id: &str) -> Self {
        Self::kubernetes(format!(
            "https://{region}.oic.prod-aks.azure.com/{tenant}/{id}/"
        ))
    }

    /// Creates the settings of GitHub Actions on github.com, `https://token.actions.githubusercontent.com`.
    ///
    /// The issuer signs tokens for the workflows of every repository, so always restrict the callers by their claims. Names can
    /// be reused after a repository or its owner is deleted; `repository_id` and `repository_owner_id` cannot.
    /// [`Identity::github_actions`](crate::Identity::github_actions) returns the claims.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::github_actions()
    ///     .audience("https://auth-server.example")
    ///     .require_claim("repository_id", "1296269")
    ///     // Without the event, `ref` is also that of runs that a fork causes (`pull_request_target`, `workflow_run`).
    ///     .require_claim("ref", "refs/heads/main")
    ///     .require_claim("event_name", "push");
    /// ```
    pub fn github_actions() -> Self {
        Self::github_enterprise(GITHUB_ACTIONS)
    }

    /// Creates the settings of GitHub Actions with another issuer than that of github.com: that of a GitHub Enterprise Server,
    /// `https://HOSTNAME/_services/token`, or of an enterprise that has a unique issuer,
    /// `https://token.actions.githubusercontent.com/ENTERPRISE`.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::github_enterprise("https://github.example.com/_services/token")
    ///     .audience("https://auth-server.example")
    ///     .require_claim("repository_id", "74");
    /// ```
    pub fn github_enterprise(issuer: impl Into<String>) -> Self {
        Self::new(
            Some(issuer.into()),
            Platform::GitHubActions,
            KeyLocation::Discovery { url: None },
        )
    }

    /// Creates the settings of an instance of GitLab, whose jobs get ID tokens with `id_tokens` in `.gitlab-ci.yml`. `url` is that
    /// of the instance, such as `https://gitlab.com`.
    ///
    /// The issuer signs tokens for the jobs of every project of the instance, so always restrict the callers by their claims.
    /// Paths can be reused after a project or group is moved or deleted; `project_id` and `namespace_id` cannot.
    /// [`Identity::gitlab`](crate::Identity::gitlab) returns the claims.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::gitlab("https://gitlab.example.com")
    ///     .audience("https://auth-server.example")
    ///     .require_claim("project_id", "20")
    ///     .require_claim("ref_protected", "true");
    /// ```
    pub fn gitlab(url: impl Into<String>) -> Self {
        Self::new(
            Some(url.into()),
            Platform::GitLab,
            KeyLocation::Discovery { url: None },
        )
    }
}
