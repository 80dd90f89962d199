//! Stand-ins for methods whose feature is not enabled.
//!
//! For a type or a module that a feature adds, the compiler states the feature. For a method it only states that there is none.
//! A stand-in has the name of the method and a bound that no type satisfies, so a call does not compile either, and the error
//! names the feature.

#[cfg(not(feature = "policy-file"))]
mod policy_file {
    use std::convert::Infallible;

    use crate::{BuildError, OidcGuard, OidcGuardBuilder};

    /// Implemented by no type.
    #[diagnostic::on_unimplemented(
        message = "this function requires the feature `policy-file` of tower-oidc-guard",
        label = "requires the feature `policy-file`",
        note = "enable it with `cargo add tower-oidc-guard --features policy-file`"
    )]
    pub trait RequiresPolicyFile {}

    impl OidcGuard {
        #[doc(hidden)]
        pub fn policy_health<'a>(&'a self) -> Vec<Infallible>
        where
            &'a Self: RequiresPolicyFile,
        {
            Vec::new()
        }

        #[doc(hidden)]
        pub fn check_policy_file<P: RequiresPolicyFile>(&self, _path: P) -> Result<(), Infallible> {
            Ok(())
        }

        #[doc(hidden)]
        pub fn check_policy_content<P: RequiresPolicyFile>(
            &self,
            _name: P,
            _content: &[u8],
        ) -> Result<(), Infallible> {
            Ok(())
        }
    }

    impl OidcGuardBuilder {
        #[doc(hidden)]
        pub async fn from_file<P: RequiresPolicyFile>(_path: P) -> Result<Self, BuildError> {
            Ok(Self::default())
        }
    }
}

#[cfg(not(feature = "testing"))]
mod testing {
    use crate::OidcGuardBuilder;

    /// Implemented by no type.
    #[diagnostic::on_unimplemented(
        message = "`clock` requires the feature `testing` of tower-oidc-guard",
        label = "requires the feature `testing`",
        note = "enable it for tests with `cargo add --dev tower-oidc-guard --features testing`"
    )]
    pub trait RequiresTesting {}

    impl OidcGuardBuilder {
        #[doc(hidden)]
        pub fn clock<F: RequiresTesting>(self, _now: F) -> Self {
            self
        }
    }
}
