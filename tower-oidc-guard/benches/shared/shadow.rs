//! A guard with a shadow policy.

use tower_oidc_guard::{OidcGuard, Policy};

use crate::case::Case;
use crate::service::GKE_SA;

/// Creates a guard like that of the cached requests, with a shadow policy that decides alike and denies another caller.
pub(crate) fn guard_with_shadow_policy(case: &Case) -> OidcGuard {
    let named = Policy::members([GKE_SA]);
    let shadow = named
        .clone()
        .deny(["system:serviceaccount:id-namespace:legacy"]);
    let builder = case.settings(1, 1).policy(named).shadow_policy(shadow);
    builder.cache(1000, 64 << 20).build().unwrap()
}
