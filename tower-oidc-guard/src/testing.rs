//! Fake issuers, and identities without a token, for tests (feature `testing`).
//!
//! | to test | use |
//! | --- | --- |
//! | a handler or a policy, without a guard | [`TestIdentity`], the identity of a caller, made from claims |
//! | a service with its guard, without sockets | [`MemoryIssuer`], which responds through the HTTP client of the guard |
//! | a process that takes the URL of an issuer | [`TestIssuer`], on loopback over plain http |
//! | a guard with [`Issuer::in_cluster`](crate::Issuer::in_cluster) | [`FakeApiServer`], the API server of a Kubernetes cluster, on loopback over TLS |
//! | expiry, refresh of keys, outages | tokio's paused time and [`tokio_clock`], see [below](#time) |
//!
//! The issuers mint tokens with any header and claims ([`TokenSpec`]), rotate their keys, and fail on request. This crate's
//! tests compare their responses and their tokens with recorded ones of real API servers.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower_oidc_guard::{Issuer, OidcGuard, testing::TestIssuer};
//!
//! let issuer = TestIssuer::start().await?;
//! let guard = OidcGuard::builder()
//!     .issuer(Issuer::kubernetes(issuer.url()).audience("me").insecure_loopback_http())
//!     .any_verified_caller()
//!     .build()?;
//! let token = issuer.token().audience("me").service_account("shop", "orders").mint();
//! assert_eq!(guard.verifier().verify(token).await?.subject(), "system:serviceaccount:shop:orders");
//! # Ok(())
//! # }
//! ```
//!
//! # Time
//!
//! A guard uses two clocks:
//!
//! - **The time of day** is compared with `exp`, `nbf` and `iat`. It is the system's, or that of the function passed to
//!   [`OidcGuardBuilder::clock`](crate::OidcGuardBuilder::clock).
//! - **tokio's time** determines when keys are fetched and become stale, how long a request waits for them, and how often
//!   files are read. It can be paused and advanced (tokio's feature `test-util`).
//!
//! Pausing tokio's time does not change the time of day. [`tokio_clock`] returns a time of day that follows tokio's time, so
//! that `tokio::time::advance` lets tokens expire as well. Tokens are issued at the system's time unless
//! [`issued_at`](TokenSpec::issued_at) is set. While the time is paused, tokio advances it whenever all tasks wait, also for a
//! socket, so timeouts pass at once: use [`MemoryIssuer`], which needs no socket.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use tower_oidc_guard::testing::{MemoryIssuer, tokio_clock};
//! use tower_oidc_guard::{OidcGuard, TokenError, VerifyError};
//!
//! # // In a test: #[tokio::test(start_paused = true)]
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
//! # runtime.block_on(token_expires_after_ten_minutes()).unwrap();
//! // #[tokio::test(start_paused = true)]
//! async fn token_expires_after_ten_minutes() -> Result<(), Box<dyn std::error::Error>> {
//!     let clock = tokio_clock(SystemTime::now());
//!     let cluster = MemoryIssuer::kubernetes()?;
//!     let guard = OidcGuard::builder()
//!         .issuer(cluster.issuer().audience("me").leeway(Duration::ZERO))
//!         .http_client(cluster.client())
//!         .any_verified_caller()
//!         .clock(clock.clone())
//!         .build()?;
//!     let token = cluster.token().audience("me").issued_at(clock()).lifetime(Duration::from_secs(600)).mint();
//!     assert!(guard.verifier().verify(&token).await.is_ok());
//!
//!     tokio::time::advance(Duration::from_secs(600)).await;
//!     let error = guard.verifier().verify(&token).await.unwrap_err();
//!     assert!(matches!(error, VerifyError::InvalidToken(TokenError::Expired { .. })));
//!     Ok(())
//! }
//! ```

mod api_server;
mod claims;
mod clock;
mod google_http;
mod identity;
mod issuer;
mod issuer_state;
mod kubernetes_http;
mod memory;
mod server;
mod signing_key;
mod token;

pub use api_server::{ApiServerRequest, FakeApiServer};
pub use clock::tokio_clock;
pub use identity::{TestIdentity, identities};
pub use issuer::TestIssuer;
pub use memory::MemoryIssuer;
pub use token::TokenSpec;
