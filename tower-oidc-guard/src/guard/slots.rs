//! Where identities stand when a request passes several guards.

use crate::identity::Identity;

/// Where a guard puts the identity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Slot {
    /// As [`Identity`] in the request's extensions.
    #[default]
    Default,
    /// In [`Identities`], by that name.
    Named(&'static str),
}

/// The identities that guards with a [slot](crate::OidcGuardBuilder::slot) of their own have put into a request's
/// extensions.
///
/// ```
/// use tower_oidc_guard::Identities;
///
/// # fn example(request: &http::Request<()>) {
/// let gate = request.extensions().get::<Identities>().and_then(|identities| identities.get("gate"));
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Identities(Vec<(&'static str, Identity)>);

impl Identities {
    /// The identity in that slot: nothing where the slot's guard let the request pass without a token.
    pub fn get(&self, slot: &str) -> Option<&Identity> {
        let mut found = self.0.iter().filter(|(name, _)| *name == slot);
        found.next().map(|(_, identity)| identity)
    }

    pub(super) fn insert(&mut self, slot: &'static str, identity: Identity) {
        self.remove(slot);
        self.0.push((slot, identity));
    }

    pub(super) fn remove(&mut self, slot: &str) {
        self.0.retain(|(name, _)| *name != slot);
    }
}
