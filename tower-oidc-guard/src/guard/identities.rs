//! Where the guard stores the caller's identity in a request.

use http::Extensions;

use crate::identity::Identity;

/// Where a guard stores the identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum IdentityPlace {
    /// As [`Identity`] in the request's extensions.
    #[default]
    Extension,
    /// In [`Identities`], under this name.
    Named(&'static str),
}

impl IdentityPlace {
    /// Removes what is stored there: it was put there by something else, and is not what this request's token proves.
    pub(super) fn clear(self, extensions: &mut Extensions) {
        match self {
            Self::Extension => drop(extensions.remove::<Identity>()),
            Self::Named(name) => {
                if let Some(identities) = extensions.get_mut::<Identities>() {
                    identities.remove(name);
                }
            }
        }
    }

    /// Returns the identity that is stored there.
    pub(super) fn get(self, extensions: &Extensions) -> Option<&Identity> {
        match self {
            Self::Extension => extensions.get(),
            Self::Named(name) => extensions.get::<Identities>()?.get(name),
        }
    }

    /// Records that the request was admitted without a token, for the messages of extractors.
    #[cfg(feature = "axum")]
    pub(super) fn mark_without_token(self, extensions: &mut Extensions) {
        match self {
            Self::Extension => drop(extensions.insert(AdmittedWithoutToken)),
            Self::Named(name) => drop(extensions.insert(NamedAdmittedWithoutToken(name))),
        }
    }

    /// Stores the identity of an admitted caller.
    pub(super) fn insert(self, extensions: &mut Extensions, identity: Identity) {
        match self {
            Self::Extension => drop(extensions.insert(identity)),
            Self::Named(name) => extensions
                .get_or_insert_default::<Identities>()
                .insert(name, identity),
        }
    }
}

/// In the extensions of a request that a guard without an identity name has admitted without a token.
#[cfg(feature = "axum")]
#[derive(Debug, Clone, Copy)]
pub(super) struct AdmittedWithoutToken;

/// In the extensions of a request that a guard with this identity name has admitted without a token.
#[cfg(feature = "axum")]
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedAdmittedWithoutToken(pub(super) &'static str);

/// The identities in a request's extensions that guards with an
/// [`identity_name`](crate::OidcGuardBuilder::identity_name) have stored there.
///
/// With the feature `axum` it is also an extractor.
///
/// ```
/// use tower_oidc_guard::Identities;
///
/// # fn example(request: &http::Request<()>) -> Option<()> {
/// let identities = request.extensions().get::<Identities>()?;
/// let gateway = identities.get("gateway")?.subject();
/// # Some(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Identities(Vec<(&'static str, Identity)>);

impl Identities {
    /// Returns the identity that the guard of this name has stored.
    ///
    /// Returns `None` if the request has not passed such a guard, or was admitted without a token.
    pub fn get(&self, name: &str) -> Option<&Identity> {
        let mut found = self.0.iter().filter(|(own, _)| *own == name);
        found.next().map(|(_, identity)| identity)
    }

    /// Returns the name of the identity that was stored last.
    #[cfg(feature = "axum")]
    pub(super) fn last_name(&self) -> Option<&'static str> {
        self.0.last().map(|(name, _)| *name)
    }

    pub(crate) fn insert(&mut self, name: &'static str, identity: Identity) {
        self.remove(name);
        self.0.push((name, identity));
    }

    fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| *own != name);
    }
}
