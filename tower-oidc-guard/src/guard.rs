//! The guard: verifies the token of each request, and calls the service for callers that the policy allows.

mod admission;
mod admission_slot;
mod audit;
mod authorization;
mod bearer;
mod body;
mod builder;
mod diagnose;
mod endpoints;
mod expected;
#[cfg(feature = "axum")]
mod extractors;
#[cfg(feature = "policy-file")]
mod followed;
mod future;
#[cfg(test)]
mod fuzz;
mod grpc;
mod identities;
mod message_boundary;
#[cfg(feature = "policy-file")]
mod policy_check;
mod refusal_summary;
mod rejection_response;
mod service;
mod service_slot;
mod shadow;
mod summary_windows;
mod token_bound;
mod token_bound_body;
mod token_verifier;

use std::fmt;

use bytes::Bytes;
use http::{Request, Response};

use self::admission_slot::AdmissionSlot;
pub use self::audit::{AuditDecision, AuditEvent, AuditPath};
#[cfg(test)]
pub(crate) use self::bearer::fuzz::extract_token;
pub use self::body::ResponseBody;
pub use self::builder::OidcGuardBuilder;
pub use self::endpoints::{Readiness, ResourceMetadata};
#[cfg(feature = "axum")]
pub use self::extractors::IdentityRejection;
pub use self::future::ResponseFuture;
pub use self::identities::Identities;
#[cfg(feature = "policy-file")]
pub use self::policy_check::{PolicyFileError, PolicySummary};
pub use self::service::{OidcGuardLayer, OidcGuardService};
pub use self::token_bound::{TokenBound, TokenBoundFuture, TokenBoundLayer};
pub use self::token_bound_body::{BodyEnded, BodyKind, TokenBoundBody};
pub use self::token_verifier::TokenVerifier;
use crate::diagnosis::Diagnosis;
use crate::identity::Identity;
use crate::keys::health::IssuerHealth;
#[cfg(feature = "policy-file")]
use crate::policy::PolicyHealth;
use crate::policy::{Policy, PolicyError};
use crate::rejection::Rejection;
use crate::verifier::NotReady;

/// A guard for services. Created once, and put in front of any number of services.
///
/// Clones are cheap and share the keys and the cache. The refresh of keys ends when the last clone, layer and service of the
/// guard is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # #[cfg(feature = "testing")] {
/// use http::{Request, Response, StatusCode};
/// use tower::{ServiceBuilder, ServiceExt as _, service_fn};
/// use tower_oidc_guard::{Identity, Issuer, OidcGuard, Policy, testing::MemoryIssuer};
///
/// let issuer = MemoryIssuer::new("https://cluster.example")?;
/// let guard = OidcGuard::builder()
///     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
///     .policy(Policy::members(["system:serviceaccount:shop:web"]))
///     .http_client(issuer.client())
///     .build()?;
/// let service = ServiceBuilder::new()
///     .layer(guard.layer())
///     .service(service_fn(async |request: Request<String>| {
///         let caller = request.extensions().get::<Identity>().expect("the guard requires a token");
///         Ok::<_, std::convert::Infallible>(Response::new(caller.subject().to_owned()))
///     }));
///
/// let token = issuer.token().audience("orders").service_account("shop", "web").mint();
/// let with_token = Request::get("/").header("authorization", format!("Bearer {token}")).body(String::new())?;
/// assert_eq!(service.clone().oneshot(with_token).await?.status(), StatusCode::OK);
/// let without_token = Request::get("/").body(String::new())?;
/// assert_eq!(service.oneshot(without_token).await?.status(), StatusCode::UNAUTHORIZED);
/// # }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct OidcGuard {
    admission: AdmissionSlot,
    verifier: TokenVerifier,
}

impl OidcGuard {
    fn new(admission: AdmissionSlot) -> Self {
        Self {
            verifier: TokenVerifier::new(admission.clone()),
            admission,
        }
    }

    /// Creates a builder without issuers and without a policy.
    pub fn builder() -> OidcGuardBuilder {
        OidcGuardBuilder::default()
    }

    /// Returns a layer that guards a service with the guard's policy. Creating or applying it starts no task and no fetch.
    ///
    /// # Which requests are guarded in axum
    ///
    /// axum applies a layer to the routes that a router has at the time of the call, so the order of the calls decides:
    ///
    /// | Call | Guards |
    /// | --- | --- |
    /// | `route_layer` | the routes that were added before, for all of their methods; unknown paths go to the fallback without a token |
    /// | `layer` | the routes that were added before, and the fallback: unknown paths get 401 |
    /// | `route` or `fallback` after either call | nothing: a route or fallback that is added later **is not guarded** |
    /// | `merge` or `nest` before either call | the merged or nested routes as well; the fallback of a nested router only by `layer` |
    /// | `merge` or `nest` after either call | nothing: those routes have only their own router's layers |
    ///
    /// `route_layer` on a router without routes panics. The last call of `layer` or `route_layer` is the first to see a request; in
    /// a `ServiceBuilder` it is the first one.
    ///
    /// A handler that takes an [`Identity`] responds with 500 if there is no guard in front of it, so let the
    /// handlers of guarded routes take it.
    ///
    /// ```
    /// # #[cfg(feature = "axum")]
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use http::Request;
    /// # use tower::ServiceExt as _;
    /// # use tower_oidc_guard::{Identity, Issuer, OidcGuard};
    /// # let guard = OidcGuard::builder()
    /// #     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
    /// #     .any_verified_caller()
    /// #     .build()?;
    /// use axum::{Router, routing::get};
    ///
    /// let app: Router = Router::new()
    ///     .route("/orders", get(|caller: Identity| async move { caller.subject().to_owned() }))
    ///     .route_layer(guard.layer())
    ///     // Added after `route_layer`, so open to everyone.
    ///     .route("/healthz", get(|| async { "ok" }));
    ///
    /// for (path, expected) in [("/orders", 401), ("/healthz", 200), ("/unknown", 404)] {
    ///     let request = Request::get(path).body(axum::body::Body::empty())?;
    ///     assert_eq!(app.clone().oneshot(request).await?.status(), expected);
    /// }
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "axum"))]
    /// # fn main() {}
    /// ```
    ///
    /// # In tonic
    ///
    /// A layer of the server, `Server::builder().layer(guard.layer())`, guards all services, including health and reflection. To
    /// guard one service and leave the others open, wrap it with tonic's `LayerExt::named_layer`:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_oidc_guard::{Issuer, OidcGuard};
    /// # let guard = OidcGuard::builder()
    /// #     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
    /// #     .any_verified_caller()
    /// #     .build()?;
    /// # let descriptors = tonic_health::pb::FILE_DESCRIPTOR_SET;
    /// # let orders = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(descriptors);
    /// # let orders = orders.build_v1()?;
    /// use tonic::service::{LayerExt as _, Routes};
    ///
    /// let (_, health) = tonic_health::server::health_reporter();
    /// let routes = Routes::new(health).add_service(guard.layer().named_layer(orders));
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer(&self) -> OidcGuardLayer {
        OidcGuardLayer::new(self.admission.clone())
    }

    /// Returns a layer that guards a service with another policy. Use it for routes with other callers.
    ///
    /// It may be called any number of times, also with the policy of a file. The layer has no shadow policy, since that of the
    /// guard is compared with the guard's policy; see [`OidcGuardLayer::with_shadow_policy`].
    ///
    /// # Errors
    ///
    /// [`PolicyError`] if the policy names members or audiences that belong to no trusted issuer, or is invalid otherwise.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_oidc_guard::{Issuer, OidcGuard, Policy, PolicyError};
    /// # let guard = OidcGuard::builder()
    /// #     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
    /// #     .any_verified_caller()
    /// #     .build()?;
    /// let admins = guard.layer_with(Policy::members(["system:serviceaccount:ops:admin"]))?;
    /// // No trusted issuer issues tokens for a Google account.
    /// let error = guard.layer_with(Policy::members(["user:jane@example.com"])).unwrap_err();
    /// assert!(matches!(error, PolicyError::NoIssuerForPlatform { .. }));
    /// # Ok(())
    /// # }
    /// ```
    pub fn layer_with(&self, policy: Policy) -> Result<OidcGuardLayer, PolicyError> {
        let admission = self.admission.with_policy(policy)?;
        Ok(OidcGuardLayer::new(admission))
    }

    /// Decides on a request like the guard's layer, for web frameworks whose services are no tower services.
    ///
    /// An admitted request has the caller's [`Identity`] in its extensions, and the value of the token's header is marked as
    /// sensitive or the header removed, as behind the layer. An identity that is already in the extensions is removed.
    ///
    /// The body is not used, so a request of another type can be copied into a `Request<()>`: its method, URI, headers and
    /// extensions. If it is admitted, replace its headers and extensions by those of the copy.
    ///
    /// # Errors
    ///
    /// Returns the response to send if the request is rejected. It is the one that the layer sends.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait for keys in a tokio runtime without timers (`enable_time`).
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(feature = "testing")] {
    /// # use http::Request;
    /// # use tower_oidc_guard::{Identity, Issuer, OidcGuard, testing::MemoryIssuer};
    /// # let issuer = MemoryIssuer::new("https://cluster.example")?;
    /// # let guard = OidcGuard::builder()
    /// #     .issuer(Issuer::kubernetes(issuer.url()).audience("orders"))
    /// #     .http_client(issuer.client())
    /// #     .any_verified_caller()
    /// #     .build()?;
    /// # let token = issuer.token().audience("orders").service_account("shop", "web").mint();
    /// let mut request = Request::get("/orders").header("authorization", format!("Bearer {token}")).body(())?;
    /// match guard.admit(&mut request).await {
    ///     Ok(()) => println!("called by {}", request.extensions().get::<Identity>().expect("a caller").subject()),
    ///     Err(response) => println!("respond with {}", response.status()),
    /// }
    /// # assert!(request.extensions().get::<Identity>().is_some());
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Response<Bytes>> {
        self.admission.load_full().admit(request).await
    }

    /// Verifies a token and evaluates the guard's policy for its caller, for tokens that do not arrive in an HTTP request, such
    /// as those in messages of a queue.
    ///
    /// [`TokenVerifier::verify`] verifies a token without evaluating a policy. Both wait for newer keys like a request.
    ///
    /// # Errors
    ///
    /// Returns [`Rejection::InvalidToken`] if the token failed verification, [`Rejection::NotAllowed`] if the policy does not allow
    /// the caller, and [`Rejection::KeysUnavailable`], which is [transient](Rejection::is_transient), if the issuer has no usable
    /// keys.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait for keys in a tokio runtime without timers (`enable_time`).
    ///
    /// # Examples
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// # async fn example(guard: OidcGuard, token: &str) {
    /// match guard.authorize(token).await {
    ///     Ok(caller) => println!("message from {}", caller.subject()),
    ///     Err(rejection) if rejection.is_transient() => println!("try again later: {rejection}"),
    ///     Err(rejection) => println!("drop the message: {rejection}"),
    /// }
    /// # }
    /// ```
    pub async fn authorize(&self, token: impl AsRef<[u8]>) -> Result<Identity, Rejection> {
        self.admission.load_full().authorize(token.as_ref()).await
    }

    /// Returns the guard's policy, for example to [explain](Policy::explain) its decisions.
    pub fn policy(&self) -> Policy {
        self.admission.load().policy().clone()
    }

    /// Returns the guard's [shadow policy](OidcGuardBuilder::shadow_policy), if it has one, for example to
    /// [explain](Policy::explain) its decisions.
    ///
    /// ```
    /// # use tower_oidc_guard::{Identity, OidcGuard};
    /// # fn example(guard: &OidcGuard, caller: &Identity) {
    /// if let Some(shadow) = guard.shadow_policy() {
    ///     // "rejected: system:serviceaccount:shop:legacy is denied"
    ///     println!("{}", shadow.explain(caller));
    /// }
    /// # }
    /// ```
    pub fn shadow_policy(&self) -> Option<Policy> {
        let admission = self.admission.load();
        let shadow = admission.shadow.as_ref()?;
        Some(shadow.policy.as_policy().clone())
    }

    /// Returns the status of the files in the guard's policy and in the policies of its layers
    /// ([`layer_with`](Self::layer_with)), and in their shadow policies, each path once.
    ///
    /// A file of a layer is included for as long as the layer, or a service that it was applied to, exists.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use tower_oidc_guard::{Issuer, OidcGuard, PolicyFile};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("admins.yaml");
    /// # std::fs::write(&path, "allow: [\"system:serviceaccounts:ops\"]")?;
    /// # let guard = OidcGuard::builder()
    /// #     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
    /// #     .any_verified_caller()
    /// #     .build()?;
    /// let admins = guard.layer_with(PolicyFile::open(&path).await?.policy())?;
    /// for file in guard.policy_health() {
    ///     assert!(file.last_error.is_none(), "{}: {:?}", file.path.display(), file.last_error);
    /// }
    /// assert_eq!(guard.policy_health().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "policy-file")]
    pub fn policy_health(&self) -> Vec<PolicyHealth> {
        let mut files = self.admission.load().policy.file_health();
        files.extend(self.admission.config_file_health());
        files
    }

    /// Returns a service that responds with the metadata of the protected resource (RFC 9728), to be mounted at its
    /// [path](ResourceMetadata::path).
    ///
    /// Returns `None` if [`protected_resource`](OidcGuardBuilder::protected_resource) is not set.
    ///
    /// ```
    /// # fn example(guard: tower_oidc_guard::OidcGuard) -> Option<()> {
    /// let metadata = guard.resource_metadata()?;
    /// let app: axum::Router = axum::Router::new().route_service(&metadata.path().to_owned(), metadata);
    /// # Some(())
    /// # }
    /// ```
    pub fn resource_metadata(&self) -> Option<ResourceMetadata> {
        let resource = self.admission.load().protected_resource()?.clone();
        Some(ResourceMetadata::new(self.admission.clone(), resource))
    }

    /// Starts fetching the keys of every issuer in the background, and returns immediately.
    ///
    /// Without it, the first request or the first call of [`ready`](Self::ready) starts the fetches. Building a guard never
    /// does. Calling it again is harmless: it starts a fetch only if one is due. Outside a tokio runtime it does nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(feature = "testing")] {
    /// # use tower_oidc_guard::{Issuer, OidcGuard, testing::TestIssuer};
    /// # let issuer = TestIssuer::start().await?;
    /// # let trusted = Issuer::oidc(issuer.url()).audience("me").insecure_loopback_http();
    /// let guard = OidcGuard::builder().issuer(trusted).any_verified_caller().build()?;
    /// assert!(!guard.health()[0].is_ready);
    /// guard.prefetch();
    /// // Start the server here. A request that arrives before the keys waits for them.
    /// # guard.ready().await?;
    /// # }
    /// # Ok(())
    /// # }
    /// ```
    pub fn prefetch(&self) {
        self.admission.ensure_watched();
        self.admission.load().verifier.prefetch();
    }

    /// Waits until there are usable keys of every issuer, or of those that [`ready_when`](OidcGuardBuilder::ready_when) requires.
    ///
    /// Not required: without it, the first request waits. Use it to delay the start of a server until it can verify tokens.
    ///
    /// # Errors
    ///
    /// [`NotReady`] if the keys of a required issuer cannot be fetched, or none of them is usable; its text contains the whole
    /// chain of causes for each such issuer. The guard keeps trying in the background; call `ready` again to wait for the next
    /// attempt. Outside a tokio runtime, unless all keys are available already, the
    /// cause is [`KeysError::NoRuntime`](crate::KeysError::NoRuntime).
    ///
    /// # Panics
    ///
    /// Panics if it has to wait in a tokio runtime without timers (`enable_time`).
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.admission.ensure_watched();
        self.admission.load_full().verifier.ready().await
    }

    /// Returns whether there are usable keys of every issuer now, or of those that
    /// [`ready_when`](OidcGuardBuilder::ready_when) requires.
    ///
    /// Starts no fetch: call [`prefetch`](Self::prefetch) or [`ready`](Self::ready) for that.
    ///
    /// ```
    /// # use tower_oidc_guard::{BuildError, Issuer, OidcGuard};
    /// # fn main() -> Result<(), BuildError> {
    /// let google = Issuer::google().audience("https://auth-server.example");
    /// let guard = OidcGuard::builder().issuer(google).any_verified_caller().build()?;
    /// assert!(!guard.is_ready(), "nothing was fetched yet");
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_ready(&self) -> bool {
        let verifier = &self.admission.load().verifier;
        verifier.is_ready(&verifier.health())
    }

    /// Returns the key status of each issuer.
    ///
    /// Starts no fetch: call [`prefetch`](Self::prefetch) or [`ready`](Self::ready) for that.
    pub fn health(&self) -> Vec<IssuerHealth> {
        self.admission.load().verifier.health()
    }

    /// Returns a service for readiness probes, which responds with 200 while there are usable keys of every issuer, or of those
    /// that [`ready_when`](OidcGuardBuilder::ready_when) requires, and with 503 otherwise.
    ///
    /// The body lists each issuer without keys, with the cause.
    ///
    /// A probe starts the fetches that are due, because a server that is not ready gets no other requests that could.
    ///
    /// ```
    /// # fn example(guard: tower_oidc_guard::OidcGuard) {
    /// let app: axum::Router = axum::Router::new().route_service("/readyz", guard.readiness());
    /// # }
    /// ```
    pub fn readiness(&self) -> Readiness {
        Readiness::new(self.admission.clone())
    }

    /// Makes every check of a token, and returns what was found and what was expected. For operators: the result contains claims
    /// of the token and the guard's settings, and must not be sent to callers.
    ///
    /// [`Diagnosis::is_admitted`] is whether the guard admits a request with this token and no other credentials now. All
    /// checks are made, also those after the first one that fails, as far as that is possible. Like a request, the call waits
    /// for the issuer's keys if they are not available, at most until a fetch of them has failed.
    ///
    /// The token may be anything, for example what an operator has copied from somewhere: a token in quotes, a JSON document
    /// or an opaque access token is recognized.
    ///
    /// For a layer with another policy, call [`OidcGuardLayer::diagnose`].
    ///
    /// # Panics
    ///
    /// Panics if it has to wait in a tokio runtime without timers (`enable_time`).
    ///
    /// ```
    /// # use tower_oidc_guard::OidcGuard;
    /// # async fn example(guard: OidcGuard, token: &str) {
    /// // … a line for each check, and at the end
    /// // "rejected with 401: the token is for another audience (wrong_audience)"
    /// println!("{}", guard.diagnose(token).await);
    /// # }
    /// ```
    pub async fn diagnose(&self, token: impl AsRef<[u8]>) -> Diagnosis {
        self.admission.load_full().diagnose(token.as_ref()).await
    }

    /// Returns the guard's verifier, for tokens that do not arrive in an HTTP request. It evaluates no policy;
    /// [`authorize`](Self::authorize) does.
    pub fn verifier(&self) -> &TokenVerifier {
        &self.verifier
    }
}

impl fmt::Debug for OidcGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcGuard")
            .field("verifier", self.verifier())
            .finish_non_exhaustive()
    }
}
