//! Stand-ins for methods whose feature is not enabled.
//!
//! For a module that a feature adds, the compiler states the feature. For a method it only states that there is none. A stand-in
//! has the name of the method and a bound that no type satisfies, so a call does not compile either, and the error names the
//! feature.

use crate::{ProjectedTokenBuilder, WatchedFileBuilder};

/// Implemented by no type.
#[diagnostic::on_unimplemented(
    message = "`reader` and `clock` require the feature `testing` of reqwest-wi-auth",
    label = "requires the feature `testing`",
    note = "enable it for tests with `cargo add --dev reqwest-wi-auth --features testing`"
)]
pub trait RequiresTesting {}

impl ProjectedTokenBuilder {
    #[doc(hidden)]
    pub fn reader<F: RequiresTesting>(self, _reader: F) -> Self {
        self
    }

    #[doc(hidden)]
    pub fn clock<F: RequiresTesting>(self, _now: F) -> Self {
        self
    }
}

impl<T> WatchedFileBuilder<T> {
    #[doc(hidden)]
    pub fn reader<F: RequiresTesting>(self, _reader: F) -> Self {
        self
    }

    #[doc(hidden)]
    pub fn clock<F: RequiresTesting>(self, _now: F) -> Self {
        self
    }
}
