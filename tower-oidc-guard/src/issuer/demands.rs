//! Requirements on an issuer's tokens beyond the audience and the times.

use std::time::Duration;

use serde_json::{Map, Value};

use super::Issuer;
use crate::jose::required_claims::invalid_requirement;
use crate::text::audience_fault;

impl Issuer {
    /// Accepts tokens whose header names one of these types (`typ`; RFC 8725, section 3.11), in any case, and no others;
    /// `application/` before a type does not matter (RFC 7515, section 4.1.9). Default: `JWT`, or none. An empty list, an empty
    /// type or a second call does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::oidc("https://id.example").audience("me").token_types(["at+jwt"]);
    /// ```
    pub fn token_types<T: Into<String>>(mut self, types: impl IntoIterator<Item = T>) -> Self {
        if !self.types.is_empty() {
            self.conflicts("`token_types` is set twice; name all of them in one call");
        }
        self.types = types.into_iter().map(Into::into).collect();
        if self.types.is_empty() {
            self.conflicts("`token_types` names no type; name one, or leave the setting out");
        }
        if self.types.iter().any(|typ| audience_fault(typ).is_some()) {
            self.conflicts("a type in `token_types` is empty or contains white space");
        }
        self
    }

    /// Refuses tokens that were issued for longer than this: their `exp` is further behind their `iat`, or they have no
    /// `iat`. Default: no limit. Zero, or a second call, does not build.
    ///
    /// ```
    /// # use {std::time::Duration, tower_oidc_guard::Issuer};
    /// let issuer = Issuer::oidc("https://id.example")
    ///     .audience("me")
    ///     .max_lifetime(Duration::from_secs(3600));
    /// ```
    pub fn max_lifetime(mut self, lifetime: Duration) -> Self {
        if self.max_lifetime.is_some() {
            self.conflicts("`max_lifetime` is set twice; set it once");
        }
        if lifetime.is_zero() {
            self.conflicts("`max_lifetime` is zero, so no token would be accepted");
        }
        self.max_lifetime = Some(lifetime);
        self
    }

    /// Requires a claim to have this value; other tokens are refused with
    /// [`TokenError::UnmetClaim`](crate::TokenError::UnmetClaim). If called several times, all of the claims are required. A
    /// null value does not build.
    ///
    /// Objects are equal whatever the order of their members. Integers of up to 64 bits are compared exactly, other
    /// numbers as `f64`: `1.50` equals `1.5`, and `1.0` does not equal `1`. The features of `serde_json` that a build
    /// enables make no difference.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::github_actions().audience("me").require_claim("ref", "refs/heads/main");
    /// ```
    pub fn require_claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        let (name, value) = (name.into(), value.into());
        if let Some(reason) = invalid_requirement(&name, &value) {
            self.conflicts(format!("the claim {name:?} cannot be required: {reason}"));
        }
        self.required_claims.push(name, value);
        self
    }

    /// Requires this function to return `true` for the claims; other tokens are refused with
    /// [`TokenError::UnmetClaim`](crate::TokenError::UnmetClaim). It is called for tokens with a valid signature only, and
    /// its result is cached with the token: a condition that changes with time belongs into a
    /// [`Policy`](crate::Policy).
    ///
    /// A token whose claims are nested more than 128 levels deep, or that has a number which `f64` cannot hold, is refused
    /// as malformed if there is such a function.
    ///
    /// ```
    /// # use tower_oidc_guard::Issuer;
    /// let issuer = Issuer::github_actions()
    ///     .audience("me")
    ///     .require(|claims| claims.get("event_name").is_some_and(|name| name != "pull_request"));
    /// ```
    pub fn require(
        mut self,
        check: impl Fn(&Map<String, Value>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.claim_predicates.push(check);
        self
    }
}
