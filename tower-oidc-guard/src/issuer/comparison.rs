//! Compares the settings of an issuer with earlier ones.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Issuer;
use crate::jose::algorithm::{Algorithm, Algorithms};
use crate::keys::location::KeyLocation;
use crate::policy::Effect;
use crate::text::quoted_if_needed;

/// A difference between two versions of an issuer's settings, and whether tokens may be accepted that were not before.
pub(crate) type IssuerChange = (String, Effect);

impl Issuer {
    /// Returns whether the settings are the same, so that the same tokens are accepted.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        // All fields, so that a new one is not forgotten.
        let Self {
            issuer: _,
            spellings: _,
            also_known_as,
            key_location: _,
            key_setting: _,
            platform: _,
            audiences,
            algorithms: _,
            listed_algorithms: _,
            leeway,
            token_types,
            max_lifetime,
            required_claims,
            claim_predicates,
            stale_after: _,
            unknown_key_jitter: _,
            fetch_timeout: _,
            max_document_bytes: _,
            max_keys: _,
            allowed_urls: _,
            accept_api_server_audience,
            token_review,
            fault: _,
        } = self;
        self.has_same_keys(other)
            && *also_known_as == other.also_known_as
            && *audiences == other.audiences
            && *leeway == other.leeway
            && *token_types == other.token_types
            && *max_lifetime == other.max_lifetime
            && *required_claims == other.required_claims
            && claim_predicates.is_same(&other.claim_predicates)
            && *accept_api_server_audience == other.accept_api_server_audience
            && *token_review == other.token_review
    }

    /// Returns whether the keys of both come from the same place, are chosen by the same rules and are fetched in the same way.
    pub(crate) fn has_same_keys(&self, other: &Self) -> bool {
        self.has_same_key_source(other)
            && self.stale_after == other.stale_after
            && self.unknown_key_jitter == other.unknown_key_jitter
            && self.fetch_timeout == other.fetch_timeout
            && self.max_document_bytes == other.max_document_bytes
            && self.max_keys == other.max_keys
    }

    /// Returns whether the keys of both come from the same place and are chosen by the same rules, with whatever limits.
    pub(crate) fn has_same_key_source(&self, other: &Self) -> bool {
        let set = |algorithms: &Option<Vec<Algorithm>>| {
            let all = algorithms.as_ref();
            all.map(|all| all.iter().copied().collect::<Algorithms>())
        };
        // The `issuer` in a discovery document may be any of these.
        let is_discovered = matches!(self.key_location, KeyLocation::Discovery { .. });
        self.issuer == other.issuer
            && self.spellings == other.spellings
            && (!is_discovered || self.also_known_as == other.also_known_as)
            && self.key_location == other.key_location
            && self.platform == other.platform
            && set(&self.algorithms) == set(&other.algorithms)
            && set(&self.listed_algorithms) == set(&other.listed_algorithms)
            && self.allowed_urls == other.allowed_urls
    }

    /// Returns the audiences that must not be those of the API server.
    pub(crate) fn audiences_to_check(&self) -> &[String] {
        if self.accept_api_server_audience {
            &[]
        } else {
            &self.audiences
        }
    }

    /// Returns the audiences as text.
    pub(crate) fn audiences_text(&self) -> String {
        list(&self.audiences)
    }

    /// Describes how these settings differ from earlier ones of the same issuer.
    pub(crate) fn changes_since(&self, earlier: &Self) -> Vec<IssuerChange> {
        let mut changes = Changes(Vec::new());
        changes.lists("audiences", &earlier.audiences, &self.audiences);
        changes.lists("also_known_as", &earlier.also_known_as, &self.also_known_as);
        let names = |issuer: &Self| {
            let all = issuer.algorithms.as_ref()?.iter();
            Some(all.map(|algorithm| algorithm.name().to_owned()).collect())
        };
        changes.optional_lists("algorithms", "any listed", names(earlier), names(self));
        let types =
            |issuer: &Self| Some(issuer.token_types.clone()).filter(|types| !types.is_empty());
        changes.optional_lists("token_types", "JWT", types(earlier), types(self));
        changes.seconds("leeway_seconds", earlier.leeway, self.leeway);
        changes.limit(
            "max_lifetime_seconds",
            earlier.max_lifetime,
            self.max_lifetime,
        );
        changes.seconds("stale_after_seconds", earlier.stale_after, self.stale_after);
        changes.claims(earlier, self);
        if earlier.key_location != self.key_location {
            // A URL may contain a secret.
            changes.add("the keys come from elsewhere", Effect::Wider);
        }
        if earlier.platform != self.platform {
            changes.add("platform changed", Effect::Wider);
        }
        let accepts = self.accept_api_server_audience;
        if earlier.accept_api_server_audience != accepts {
            let effect = if accepts {
                Effect::Wider
            } else {
                Effect::Narrower
            };
            let before = earlier.accept_api_server_audience;
            let name = "dangerous_accept_api_server_audience";
            changes.add(format!("{name}: {before} -> {accepts}"), effect);
        }
        match (&earlier.token_review, &self.token_review) {
            (None, Some(_)) => changes.add("token_review added", Effect::Narrower),
            (Some(_), None) => changes.add("token_review removed", Effect::Wider),
            (earlier, now) if earlier != now => changes.add("token_review changed", Effect::Wider),
            _ => {}
        }
        let fetches = |issuer: &Self| {
            let (jitter, timeout) = (issuer.unknown_key_jitter, issuer.fetch_timeout);
            (jitter, timeout, issuer.max_document_bytes, issuer.max_keys)
        };
        if fetches(earlier) != fetches(self) {
            changes.add("limits of fetches changed", Effect::Narrower);
        }
        if earlier.allowed_urls != self.allowed_urls {
            changes.add("insecure_loopback_http changed", Effect::Wider);
        }
        if changes.0.is_empty() && !self.is_same(earlier) {
            changes.add("other settings changed", Effect::Wider);
        }
        changes.0
    }
}

struct Changes(Vec<IssuerChange>);

impl Changes {
    fn add(&mut self, change: impl Into<String>, effect: Effect) {
        self.0.push((change.into(), effect));
    }

    /// Adds the differences between lists of which a token has to match one element.
    fn lists(&mut self, name: &str, old: &[String], new: &[String]) {
        let (old, new): (BTreeSet<_>, BTreeSet<_>) = (old.iter().collect(), new.iter().collect());
        for added in new.difference(&old) {
            self.add(
                format!("{name}: + {}", quoted_if_needed(added)),
                Effect::Wider,
            );
        }
        for removed in old.difference(&new) {
            let removed = quoted_if_needed(removed);
            self.add(format!("{name}: - {removed}"), Effect::Narrower);
        }
    }

    /// Adds the differences between lists that may be absent; `default` describes the meaning of that.
    fn optional_lists(
        &mut self,
        name: &str,
        default: &str,
        old: Option<Vec<String>>,
        new: Option<Vec<String>>,
    ) {
        match (old, new) {
            (Some(old), Some(new)) => self.lists(name, &old, &new),
            (None, None) => {}
            (old, new) => {
                let text = |values: &Option<Vec<String>>| {
                    values
                        .as_ref()
                        .map_or_else(|| default.to_owned(), |values| list(values))
                };
                self.add(
                    format!("{name}: {} -> {}", text(&old), text(&new)),
                    Effect::Wider,
                );
            }
        }
    }

    /// Adds the difference between two times, the longer of which accepts more tokens.
    fn seconds(&mut self, name: &str, old: Option<Duration>, new: Option<Duration>) {
        if old == new {
            return;
        }
        // A default may be shorter or longer.
        let effect = if matches!((old, new), (Some(old), Some(new)) if new < old) {
            Effect::Narrower
        } else {
            Effect::Wider
        };
        let text = |value: Option<Duration>| {
            value.map_or_else(|| "default".to_owned(), |value| value.as_secs().to_string())
        };
        self.add(format!("{name}: {} -> {}", text(old), text(new)), effect);
    }

    /// Adds the difference between two upper limits, of which `None` is the highest.
    fn limit(&mut self, name: &str, old: Option<Duration>, new: Option<Duration>) {
        if old == new {
            return;
        }
        let is_lower = new.is_some_and(|new| old.is_none_or(|old| new < old));
        let effect = if is_lower {
            Effect::Narrower
        } else {
            Effect::Wider
        };
        let text = |value: Option<Duration>| {
            value.map_or_else(|| "none".to_owned(), |value| value.as_secs().to_string())
        };
        self.add(format!("{name}: {} -> {}", text(old), text(new)), effect);
    }

    /// Adds the names of the required claims that differ. Their values may be confidential.
    fn claims(&mut self, old: &Issuer, new: &Issuer) {
        let (old, new) = (&old.required_claims, &new.required_claims);
        if old == new {
            return;
        }
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (old.names().collect(), new.names().collect());
        let first = self.0.len();
        for name in after.difference(&before) {
            let name = quoted_if_needed(name);
            self.add(format!("claims: + {name}"), Effect::Narrower);
        }
        for name in before.difference(&after) {
            let name = quoted_if_needed(name);
            self.add(format!("claims: - {name}"), Effect::Wider);
        }
        let mut kept = old.iter().filter(|claim| after.contains(claim.name()));
        let is_same = kept.all(|kept| new.iter().any(|claim| claim == kept));
        if self.0.len() == first || !is_same {
            let mut kept = old.iter().filter(|claim| after.contains(claim.name()));
            let is_covered = kept.all(|old| {
                let mut new = new.iter().filter(|new| new.name() == old.name());
                new.any(|new| old.matcher.covers(&new.matcher))
            });
            let effect = if is_covered {
                Effect::Narrower
            } else {
                Effect::Wider
            };
            self.add("claims: a required value changed", effect);
        }
    }
}

/// Joins values.
fn list(values: &[String]) -> String {
    let values: Vec<_> = values.iter().map(|value| quoted_if_needed(value)).collect();
    values.join(", ")
}
