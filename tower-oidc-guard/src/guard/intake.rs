//! What of a request the guard looks at, and what it leaves in it.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN};
use http::{Extensions, Method, Request};

use super::slots::{Identities, Slot};
use crate::bearer::{Bearer, TokenHeaders};
use crate::identity::Identity;
use crate::rejection::Rejection;

/// Where the token is looked for, what passes without one, and where the identity goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Intake {
    pub(super) headers: TokenHeaders,
    pub(super) strip: bool,
    pub(super) optional: bool,
    pub(super) preflight: bool,
    pub(super) slot: Slot,
}

impl Intake {
    /// What stands in the slot was put there by somebody else, and says nothing about this request's token.
    pub(super) fn clear<B>(&self, request: &mut Request<B>) {
        match self.slot {
            Slot::Default => drop(request.extensions_mut().remove::<Identity>()),
            Slot::Named(name) => {
                if let Some(identities) = request.extensions_mut().get_mut::<Identities>() {
                    identities.remove(name);
                }
            }
        }
    }

    pub(super) fn token<'r, B>(&self, request: &'r Request<B>) -> Result<Bearer<'r>, Rejection> {
        self.headers.find(request.headers(), request.uri())
    }

    /// Returns whether a request is a CORS preflight (Fetch, section 3.2.2) that this guard lets pass.
    pub(super) fn is_preflight<B>(&self, request: &Request<B>) -> bool {
        let has = |name| request.headers().contains_key(name);
        self.preflight
            && request.method() == Method::OPTIONS
            && has(ORIGIN)
            && has(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Returns whether a request has credentials, which a browser never sends with a preflight.
    pub(super) fn has_credentials<B>(&self, request: &Request<B>) -> bool {
        self.headers
            .has_credentials(request.headers(), request.uri())
    }

    /// Prepares an admitted request for the service: adds the identity, and removes the headers that a token may come in
    /// or marks their values as sensitive.
    pub(super) fn finish<B>(&self, request: &mut Request<B>, identity: Option<Identity>) {
        if self.strip {
            self.headers.strip(request.headers_mut());
        } else {
            self.headers.mark_sensitive(request.headers_mut());
        }
        if let Some(identity) = identity {
            self.put(request.extensions_mut(), identity);
        }
    }

    fn put(&self, extensions: &mut Extensions, identity: Identity) {
        match self.slot {
            Slot::Default => drop(extensions.insert(identity)),
            Slot::Named(name) => extensions
                .get_or_insert_default::<Identities>()
                .insert(name, identity),
        }
    }
}
