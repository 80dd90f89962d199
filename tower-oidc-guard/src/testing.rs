//! Fakes for the tests of those who use this crate (feature `testing`).
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

mod issuer;
mod memory;
mod server;
mod signing_key;
mod state;
mod token;

pub use issuer::TestIssuer;
pub use memory::MemoryIssuer;
pub use token::TokenSpec;
