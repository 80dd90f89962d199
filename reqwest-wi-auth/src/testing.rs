//! Fakes for the tests of those who use this crate (feature `testing`).
//!
//! ```
//! # #[cfg(unix)]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use reqwest_wi_auth::{ProjectedToken, TokenSource as _, testing::Kubelet};
//!
//! let folder = tempfile::tempdir()?;
//! let kubelet = Kubelet::new(folder.path().join("tokens"))?;
//! kubelet.write([("gke-sa", "eyJhbGciOiJub25lIn0.e30.c2ln")])?;
//! let token = ProjectedToken::open(kubelet.path("gke-sa")).await?;
//! assert!(token.current().is_ok());
//! # Ok(())
//! # }
//! # #[cfg(not(unix))]
//! # fn main() {}
//! ```
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use reqwest_wi_auth::{MetadataServer, TokenSource as _, testing::{FakeMetadataServer, Fault}};
//!
//! let google = FakeMetadataServer::start().await?;
//! let token = MetadataServer::with_host(google.host())?.open("https://auth-server.example").await?;
//! google.set_fault(Some(Fault::Silent));
//! assert!(token.current().is_ok());
//! # Ok(())
//! # }
//! ```

mod answer;
#[cfg(unix)]
mod kubelet;
mod metadata;
#[cfg(unix)]
mod timestamp;

#[cfg(unix)]
pub use kubelet::Kubelet;
pub use metadata::{FakeMetadataServer, Fault};
