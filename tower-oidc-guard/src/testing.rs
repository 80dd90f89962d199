//! Fake issuers for tests (feature `testing`).
//!
//! | type | fake of | transport |
//! | --- | --- | --- |
//! | [`TestIssuer`] | an issuer that publishes its documents to everyone | plain http on loopback |
//! | [`MemoryIssuer`] | the same kind of issuer | an HTTP client that needs no socket |
//! | [`FakeApiServer`] | the API server of a Kubernetes cluster, for [`Issuer::in_cluster_at`](crate::Issuer::in_cluster_at) | TLS on loopback |
//!
//! Each mints tokens with any header and claims ([`TokenSpec`]), rotates its keys, and fails on request. This crate's tests
//! compare their responses with recorded ones of real API servers.
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

mod api_server;
mod issuer;
mod issuer_state;
mod kubernetes_http;
mod memory;
mod server;
mod signing_key;
mod token;

pub use api_server::{ApiServerRequest, FakeApiServer};
pub use issuer::TestIssuer;
pub use memory::MemoryIssuer;
pub use token::TokenSpec;
