#![forbid(unsafe_code)]
#![doc = include_str!("../README.md")]

mod error;
mod middleware;
mod origins;
mod source;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
mod watched_file;

pub use error::Error;
pub use middleware::BearerAuth;
pub use source::TokenSource;
pub use source::projected::{ProjectedToken, ProjectedTokenBuilder};
pub use token::Token;
pub use watched_file::{
    Changes, FileError, FileHealth, ParseError, WatchedFile, WatchedFileBuilder,
};
