//! Fakes for tests of code that uses this crate: a kubelet that rotates tokens, and servers that issue tokens.
//!
//! Tokens in files can be any text in the format of a JWT, since this crate does not verify signatures.
//!
//! # Examples
//!
//! A test of a rotation:
//!
//! ```
//! # #[cfg(unix)]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use reqwest_wi_auth::{ProjectedToken, TokenSource as _, testing::Kubelet};
//!
//! let directory = tempfile::tempdir()?;
//! let kubelet = Kubelet::new(directory.path().join("tokens"))?;
//! kubelet.write([("gke-sa", "eyJhbGciOiJub25lIn0.e30.c2ln")])?;
//! let token = ProjectedToken::open(kubelet.path("gke-sa")).await?;
//! assert_eq!(token.current()?.header(), "Bearer eyJhbGciOiJub25lIn0.e30.c2ln");
//!
//! let mut changes = token.subscribe();
//! kubelet.rotate("gke-sa", "eyJhbGciOiJub25lIn0.e30.bmV3")?;
//! changes.next().await;
//! assert_eq!(token.current()?.header(), "Bearer eyJhbGciOiJub25lIn0.e30.bmV3");
//! # Ok(())
//! # }
//! # #[cfg(not(unix))]
//! # fn main() {}
//! ```
//!
//! A test of an outage of the metadata server:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use reqwest_wi_auth::{MetadataServer, TokenSource as _, testing::{FakeMetadataServer, Fault}};
//!
//! let metadata = FakeMetadataServer::start().await?;
//! let token = MetadataServer::with_host(metadata.host())?.open("https://auth-server.example").await?;
//! metadata.set_fault(Some(Fault::NoResponse));
//! assert!(token.current().is_ok());
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "federation")]
mod entra;
#[cfg(feature = "federation")]
mod github_actions;
#[cfg(feature = "federation")]
mod google;
mod http_server;
#[cfg(unix)]
mod kubelet;
mod metadata;
mod token_endpoint;
#[cfg(feature = "federation")]
mod token_request;

#[cfg(feature = "federation")]
pub use entra::{EntraError, EntraFault, EntraTokenVersion, FakeEntra};
#[cfg(feature = "federation")]
pub use github_actions::{FakeGitHubActions, GitHubActionsFault};
#[cfg(feature = "federation")]
pub use google::{FakeGoogle, GoogleFault, GoogleTokenRequest};
pub use http_server::HttpFault;
#[cfg(unix)]
pub use kubelet::Kubelet;
pub use metadata::{FakeMetadataServer, Fault};
pub use token_endpoint::{FakeTokenEndpoint, TokenEndpointFault, TokenEndpointRequest};
#[cfg(feature = "federation")]
pub use token_request::{FakeTokenRequestServer, IssuedTokenRequest, TokenRequestFault};
