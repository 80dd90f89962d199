//! Identities for the tests of handlers.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::claims::{GITHUB_ACTIONS, GOOGLE, KUBERNETES, TestClaims};
use crate::clock::Clock;
use crate::guard::Identities;
use crate::identity::{Identity, Platform};

/// An [`Identity`] for a test of a handler, made from claims instead of a token.
///
/// No guard, key or signature is involved. The identity is the one that a guard would add to the request if it verified a token
/// with these claims, so the typed views and the extractor work. It has no audience unless one is added, is issued now, and
/// expires after an hour.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use axum::{Router, body::Body, routing::get};
/// use http::{Request, StatusCode};
/// use tower::ServiceExt as _;
/// use tower_oidc_guard::{Identity, testing::TestIdentity};
///
/// // The router under test, without its guard.
/// let app = Router::new().route(
///     "/private",
///     get(|caller: Identity| async move { caller.kubernetes().map_or("none", |workload| workload.namespace()).to_owned() }),
/// );
///
/// let caller = TestIdentity::kubernetes("shop", "web").pod("web-7d9c").build();
/// let request = Request::get("/private").extension(caller).body(Body::empty())?;
/// let response = app.oneshot(request).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// # Ok(())
/// # }
/// ```
///
/// A policy can be tested with it as well:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_oidc_guard::{Issuer, OidcGuard, Policy, testing::TestIdentity};
///
/// let guard = OidcGuard::builder()
///     .issuer(Issuer::google().audience("orders"))
///     .policy(Policy::members(["serviceAccount:web@shop.iam.gserviceaccount.com"]))
///     .build()?;
/// let web = TestIdentity::google("web@shop.iam.gserviceaccount.com").build();
/// let blog = TestIdentity::google("blog@shop.iam.gserviceaccount.com").build();
/// assert!(guard.policy().explain(&web).is_allowed());
/// assert!(!guard.policy().explain(&blog).is_allowed());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct TestIdentity {
    platform: Platform,
    claims: TestClaims,
    clock: Clock,
}

impl TestIdentity {
    /// Creates the identity of a Kubernetes service account, in a pod with the same name, of the issuer
    /// `https://kubernetes.default.svc.cluster.local`.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::kubernetes("shop", "web").build();
    /// assert_eq!(caller.subject(), "system:serviceaccount:shop:web");
    /// ```
    pub fn kubernetes(namespace: &str, service_account: &str) -> Self {
        Self {
            platform: Platform::Kubernetes,
            claims: TestClaims::kubernetes(KUBERNETES, namespace, service_account),
            clock: Clock::default(),
        }
    }

    /// Creates the identity of a Google service account or user with this verified email address.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::google("orders@project.iam.gserviceaccount.com").build();
    /// let account = caller.google().expect("a Google account");
    /// assert_eq!(account.email(), Some("orders@project.iam.gserviceaccount.com"));
    /// ```
    pub fn google(email: &str) -> Self {
        Self {
            platform: Platform::Google,
            claims: TestClaims::google(GOOGLE).google_service_account(email),
            clock: Clock::default(),
        }
    }

    /// Creates the identity of a job of GitHub Actions in this repository, such as `octo-org/octo-repo`, which a push to `main`
    /// started. Its IDs are derived from the names. Change other claims with [`claim`](Self::claim).
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::github_actions("octo-org/octo-repo").claim("repository_id", "1296269").build();
    /// let job = caller.github_actions().expect("a job");
    /// assert_eq!((job.repository(), job.repository_id()), (Some("octo-org/octo-repo"), Some("1296269")));
    /// ```
    pub fn github_actions(repository: &str) -> Self {
        Self {
            platform: Platform::GitHubActions,
            claims: TestClaims::github_actions(GITHUB_ACTIONS).github_repository(repository),
            clock: Clock::default(),
        }
    }

    /// Creates the identity of a job of GitLab CI/CD in this project of the instance `https://gitlab.com`, such as
    /// `my-group/my-project`, which a push to the protected branch `main` started. Its IDs are derived from the paths. Change other
    /// claims with [`claim`](Self::claim), and the instance with [`issuer`](Self::issuer).
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::gitlab("my-group/my-project").claim("project_id", "20").build();
    /// let job = caller.gitlab().expect("a job");
    /// assert!(job.project_id() == Some("20") && job.is_ref_protected());
    /// ```
    pub fn gitlab(project: &str) -> Self {
        Self {
            platform: Platform::GitLab,
            claims: TestClaims::gitlab("https://gitlab.com").gitlab_project(project),
            clock: Clock::default(),
        }
    }

    /// Creates an identity of any other OpenID Connect provider.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::oidc("https://id.example", "ann").claim("groups", vec!["admins"]).build();
    /// assert!(caller.kubernetes().is_none() && caller.google().is_none());
    /// ```
    pub fn oidc(issuer: &str, subject: &str) -> Self {
        Self {
            platform: Platform::Other,
            claims: TestClaims::oidc(issuer, subject),
            clock: Clock::default(),
        }
    }

    fn map(mut self, map: impl FnOnce(TestClaims) -> TestClaims) -> Self {
        self.claims = map(self.claims);
        self
    }

    /// Sets the issuer (`iss`), for example the URL of a cluster of GKE.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::kubernetes("shop", "web").issuer("https://cluster.example").build();
    /// assert_eq!(caller.issuer(), "https://cluster.example");
    /// ```
    pub fn issuer(self, issuer: &str) -> Self {
        self.claim("iss", issuer)
    }

    /// Sets the subject (`sub`). The claims of a Kubernetes service account stay as they are; a subject that does not agree with
    /// them hides them, as it does in a token.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::google("ann@example.com").subject("108204268033311374519").build();
    /// assert_eq!(caller.subject(), "108204268033311374519");
    /// ```
    pub fn subject(self, subject: &str) -> Self {
        self.claim("sub", subject)
    }

    /// Adds an audience (`aud`).
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::kubernetes("shop", "web").audience("orders").audience("billing").build();
    /// assert_eq!(caller.audiences(), ["orders", "billing"]);
    /// ```
    pub fn audience(self, audience: impl Into<String>) -> Self {
        self.map(|claims| claims.audience(audience.into()))
    }

    /// Sets the name of the pod of a Kubernetes service account.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::kubernetes("shop", "web").pod("web-7d9c").node("node-1").build();
    /// let workload = caller.kubernetes().expect("a service account");
    /// assert_eq!(workload.pod().map(|pod| pod.name()), Some("web-7d9c"));
    /// ```
    pub fn pod(self, name: &str) -> Self {
        self.map(|claims| claims.pod(name))
    }

    /// Sets the name of the node that the pod of a Kubernetes service account runs on. For an example see [`pod`](Self::pod).
    pub fn node(self, name: &str) -> Self {
        self.map(|claims| claims.node(name))
    }

    /// Makes it an identity without a pod, as from a token that was requested with TokenRequest and is bound to no object.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::kubernetes("ci", "deployer").without_pod().build();
    /// assert!(caller.kubernetes().is_some_and(|account| account.pod().is_none()));
    /// ```
    pub fn without_pod(self) -> Self {
        self.map(TestClaims::without_pod)
    }

    /// Sets the Google Workspace domain of a Google user (`hd`).
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::google("ann@example.com").hosted_domain("example.com").build();
    /// assert_eq!(caller.google().and_then(|account| account.hosted_domain()), Some("example.com"));
    /// ```
    pub fn hosted_domain(self, domain: &str) -> Self {
        self.claim("hd", domain)
    }

    /// Adds the Compute Engine instance of a Google service account (`google.compute_engine`).
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::google("orders@project.iam.gserviceaccount.com")
    ///     .compute_engine("project", "europe-west1-b", "orders-1")
    ///     .build();
    /// let instance = caller.google().and_then(|account| account.compute_engine()).expect("an instance");
    /// assert_eq!(instance.instance_name(), Some("orders-1"));
    /// ```
    pub fn compute_engine(self, project_id: &str, zone: &str, instance_name: &str) -> Self {
        self.map(|claims| claims.compute_engine(project_id, zone, instance_name))
    }

    /// Sets a claim to any value.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Groups {
    ///     groups: Vec<String>,
    /// }
    ///
    /// # fn main() -> Result<(), serde_json::Error> {
    /// let caller = TestIdentity::oidc("https://id.example", "ann").claim("groups", vec!["admins"]).build();
    /// assert_eq!(caller.claims::<Groups>()?.groups, ["admins"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn claim(self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.map(|claims| claims.claim(name, value.into()))
    }

    /// Removes a claim.
    ///
    /// ```
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let caller = TestIdentity::google("ann@example.com").without_claim("email_verified").build();
    /// assert!(caller.google().is_some_and(|account| !account.email_verified()));
    /// ```
    pub fn without_claim(self, name: &str) -> Self {
        self.map(|claims| claims.without_claim(name))
    }

    /// Sets the time of issue, rounded down to seconds. Default: now, by the system's clock.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    /// let caller = TestIdentity::kubernetes("shop", "web").issued_at(time).lifetime(Duration::from_secs(600)).build();
    /// assert_eq!(caller.issued_at(), Some(time));
    /// assert_eq!(caller.expires_at(), time + Duration::from_secs(600));
    /// ```
    pub fn issued_at(mut self, time: SystemTime) -> Self {
        self.claims.issued_at = time;
        self
    }

    /// Sets the time from issue to expiry, rounded down to seconds. Default: one hour. For an example see
    /// [`issued_at`](Self::issued_at).
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.claims.lifetime = lifetime;
        self
    }

    /// Reads the time of day from this function instead of from the system, as
    /// [`OidcGuardBuilder::clock`](crate::OidcGuardBuilder::clock) does for a guard.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tower_oidc_guard::testing::TestIdentity;
    ///
    /// let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    /// let caller = TestIdentity::kubernetes("shop", "web").issued_at(time).clock(move || time).build();
    /// assert_eq!(caller.issued_at(), Some(time));
    /// ```
    pub fn clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Creates the identity.
    ///
    /// # Panics
    ///
    /// Panics if a guard would reject a token with these claims as malformed: if `iss` or `sub` was removed or is not a string,
    /// or if another registered claim has a wrong type.
    pub fn build(&self) -> Identity {
        let payload = self.claims.to_json().to_string();
        let (issuer, payload) = (self.claims.issuer(), payload.as_bytes());
        let clock = self.clock.clone();
        match Identity::from_test_claims(issuer, self.platform, payload, clock) {
            Ok(identity) => identity,
            Err(error) => panic!("these claims cannot be those of an identity: {error}"),
        }
    }
}

/// Creates the [`Identities`] that guards with an [`identity_name`](crate::OidcGuardBuilder::identity_name) add to a request.
///
/// ```
/// use tower_oidc_guard::testing::{TestIdentity, identities};
///
/// let gateway = TestIdentity::google("gateway@project.iam.gserviceaccount.com").build();
/// let request = http::Request::builder().extension(identities([("gateway", gateway)])).body(());
/// # assert!(request.is_ok());
/// ```
pub fn identities(named: impl IntoIterator<Item = (&'static str, Identity)>) -> Identities {
    let mut identities = Identities::default();
    for (name, identity) in named {
        identities.insert(name, identity);
    }
    identities
}
