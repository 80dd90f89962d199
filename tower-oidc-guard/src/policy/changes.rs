//! Describes how the policy of a file has changed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::members::MemberName;
use super::members::coverage::may_overlap;
use super::rule::Rule;
use crate::jose::claim_matcher::ClaimMatcher;
use crate::text::quoted_if_needed;

/// The most changes that a log event lists.
const MAX_LISTED: usize = 20;

/// The differences between two versions of a policy. Order, duplicates and formatting make no difference.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PolicyChanges {
    all: Vec<String>,
    /// The changes by which the policy may allow callers that it did not allow before.
    widening: Vec<String>,
}

/// Whether a change may allow callers that were not allowed before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Wider,
    Narrower,
}

impl PolicyChanges {
    /// Compares two versions of a policy.
    pub(super) fn between(old: &Rule, new: &Rule) -> Self {
        let mut changes = Self::default();
        changes.compare_allowed(old, new);
        changes.compare_denied(old, new);
        changes.compare_audiences(&audiences(old), &audiences(new));
        changes.compare_scopes(old, new);
        changes.compare_claims(old, new);
        if new.allowed.is_empty() {
            // No caller is allowed, whatever else has changed.
            changes.widening.clear();
        }
        changes
    }

    /// Adds a change that does not affect which callers are allowed.
    pub(super) fn add_note(&mut self, note: &str) {
        self.all.push(note.to_owned());
    }

    /// Returns the changes as text.
    pub(crate) fn summary(&self) -> String {
        listed(&self.all)
    }

    /// Returns the changes by which the policy may allow callers that it did not allow before, or `None` if there are none.
    pub(crate) fn widening(&self) -> Option<String> {
        (!self.widening.is_empty()).then(|| listed(&self.widening))
    }

    pub(crate) fn add(&mut self, change: String, effect: Effect) {
        if effect == Effect::Wider {
            self.widening.push(change.clone());
        }
        self.all.push(change);
    }

    fn compare_allowed(&mut self, old: &Rule, new: &Rule) {
        let (before, after) = (old.allowed.names(), new.allowed.names());
        for member in after.difference(&before) {
            let effect = if old.allowed.covers(member) || new.denied.covers_denial(member) {
                Effect::Narrower
            } else {
                Effect::Wider
            };
            self.add(format!("+ {member}"), effect);
        }
        for member in before.difference(&after) {
            self.add(format!("- {member}"), Effect::Narrower);
        }
    }

    fn compare_denied(&mut self, old: &Rule, new: &Rule) {
        let (before, after) = (old.denied.names(), new.denied.names());
        for member in after.difference(&before) {
            self.add(format!("+ deny {member}"), Effect::Narrower);
        }
        let allowed = new.allowed.names();
        let allowed: Vec<_> = allowed.iter().map(MemberName::parsed).collect();
        for member in before.difference(&after) {
            let denied = member.parsed();
            let mut allowed = allowed.iter().map(|allowed| allowed.zip(denied));
            let may_be_allowed = allowed
                .any(|both| both.is_none_or(|(allowed, denied)| may_overlap(allowed, denied)));
            let effect = if may_be_allowed && !new.denied.covers_denial(member) {
                Effect::Wider
            } else {
                Effect::Narrower
            };
            self.add(format!("- deny {member}"), effect);
        }
    }

    fn compare_audiences(&mut self, old: &BTreeSet<&str>, new: &BTreeSet<&str>) {
        if old == new {
            return;
        }
        if old.is_empty() || new.is_empty() {
            let effect = if new.is_empty() {
                Effect::Wider
            } else {
                Effect::Narrower
            };
            let change = format!("audiences: {} -> {}", any_of(old), any_of(new));
            self.add(change, effect);
            return;
        }
        for audience in new.difference(old) {
            let change = format!("audiences: + {}", quoted_if_needed(audience));
            self.add(change, Effect::Wider);
        }
        for audience in old.difference(new) {
            let change = format!("audiences: - {}", quoted_if_needed(audience));
            self.add(change, Effect::Narrower);
        }
    }

    fn compare_scopes(&mut self, old: &Rule, new: &Rule) {
        let (old, new) = (scopes(old), scopes(new));
        for scope in new.difference(&old) {
            let change = format!("scopes: + {}", quoted_if_needed(scope));
            self.add(change, Effect::Narrower);
        }
        for scope in old.difference(&new) {
            let change = format!("scopes: - {}", quoted_if_needed(scope));
            self.add(change, Effect::Wider);
        }
    }

    fn compare_claims(&mut self, old: &Rule, new: &Rule) {
        let (old, new) = (claims(old), claims(new));
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            let quoted = quoted_if_needed(name);
            match (old.get(name), new.get(name)) {
                (Some(before), Some(after)) if before == after => {}
                (Some(before), Some(after)) => {
                    // Callers with a value that matched neither requirement, or both, make no difference.
                    let effect = if before.covers(after) {
                        Effect::Narrower
                    } else {
                        Effect::Wider
                    };
                    let (before, after) = (claim_value(before), claim_value(after));
                    self.add(format!("claims: {quoted} {before} -> {after}"), effect);
                }
                (Some(before), None) => {
                    let before = claim_value(before);
                    self.add(format!("claims: - {quoted} {before}"), Effect::Wider);
                }
                (None, Some(after)) => {
                    let after = claim_value(after);
                    self.add(format!("claims: + {quoted} {after}"), Effect::Narrower);
                }
                (None, None) => {}
            }
        }
    }
}

/// Returns whether two policies without conditions allow and deny the same callers by the same lists.
pub(super) fn is_same(old: &Rule, new: &Rule) -> bool {
    old.allowed == new.allowed
        && old.denied == new.denied
        && audiences(old) == audiences(new)
        && scopes(old) == scopes(new)
        && claims(old) == claims(new)
}

fn audiences(rule: &Rule) -> BTreeSet<&str> {
    rule.audiences.iter().map(String::as_str).collect()
}

fn scopes(rule: &Rule) -> BTreeSet<&str> {
    rule.scopes.iter().map(String::as_str).collect()
}

fn claims(rule: &Rule) -> BTreeMap<&str, &ClaimMatcher> {
    let claims = rule.claims.iter();
    claims.map(|claim| (claim.name(), &claim.matcher)).collect()
}

fn any_of(audiences: &BTreeSet<&str>) -> String {
    if audiences.is_empty() {
        return "any".to_owned();
    }
    let quoted: Vec<_> = audiences
        .iter()
        .map(|audience| quoted_if_needed(audience).into_owned())
        .collect();
    listed(&quoted)
}

/// Returns the requirement on a claim as text: a required string without quotes if it needs none.
fn claim_value(matcher: &ClaimMatcher) -> String {
    match matcher.as_value() {
        Some(Value::String(text)) => quoted_if_needed(text).into_owned(),
        Some(other) => quoted_if_needed(&other.to_string()).into_owned(),
        None => matcher.to_string(),
    }
}

/// Joins the first changes, and states how many more there are.
fn listed(changes: &[String]) -> String {
    let shown = changes.get(..MAX_LISTED).unwrap_or(changes);
    let text = shown.join(", ");
    match changes.len() - shown.len() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::PolicyContent;
    use super::*;

    /// Returns the text of all changes and of the widening ones.
    fn changes(old: &str, new: &str) -> (String, Option<String>) {
        let parse = |text: &str| PolicyContent::parse(text.as_bytes()).unwrap();
        let (old, new) = (parse(old), parse(new));
        let changes = PolicyChanges::between(old.rule(), new.rule());
        assert_eq!(
            changes.all.is_empty(),
            is_same(old.rule(), new.rule()),
            "{changes:?}"
        );
        (changes.summary(), changes.widening())
    }

    #[test]
    fn each_kind_of_change_is_described_and_widening_ones_are_marked() {
        let of = "issuer: \"https://c.example\"";
        for (old, new, all, widening) in [
            ("allow: []", "allow: [allUsers]", "+ allUsers", true),
            ("allow: [allUsers]", "allow: []", "- allUsers", false),
            (
                "allow: [\"user:A@example.com\"]",
                "allow: [\"serviceAccount:p@p.iam.gserviceaccount.com\"]",
                "+ serviceAccount:p@p.iam.gserviceaccount.com, - user:a@example.com",
                true,
            ),
            (
                "allow: []",
                &format!(
                    "allow: [{{ {of}, members: [allAuthenticatedUsers, \"system:serviceaccounts:shop\"] }}]"
                ),
                "+ allAuthenticatedUsers of https://c.example, + system:serviceaccounts:shop of https://c.example",
                true,
            ),
            (
                "allow: [\"principal:https://c.example#a, \u{e9}\"]",
                "allow: []",
                "- \"principal:https://c.example#a, \\u{e9}\"",
                false,
            ),
            (
                "allow: []",
                "allow: []\ndeny: [\"system:serviceaccount:shop:legacy\"]",
                "+ deny system:serviceaccount:shop:legacy",
                false,
            ),
            (
                "allow: [allUsers]\ndeny: [\"system:authenticated\"]",
                "allow: [allUsers]",
                "- deny system:authenticated",
                true,
            ),
            (
                "allow: []",
                "allow: []\naudiences: [b, a]",
                "audiences: any -> a, b",
                false,
            ),
            (
                "allow: [allUsers]\naudiences: [a]",
                "allow: [allUsers]",
                "audiences: a -> any",
                true,
            ),
            (
                "allow: [allUsers]\naudiences: [a]",
                "allow: [allUsers]\naudiences: [a, \"https://b\"]",
                "audiences: + https://b",
                true,
            ),
            (
                "allow: []\naudiences: [a, b]",
                "allow: []\naudiences: [a]",
                "audiences: - b",
                false,
            ),
            (
                "allow: [allUsers]\nscopes: [a, b]",
                "allow: [allUsers]\nscopes: [b]",
                "scopes: - a",
                true,
            ),
            (
                "allow: [allUsers]\nscopes: [a]",
                "allow: [allUsers]\nscopes: [b, a]",
                "scopes: + b",
                false,
            ),
            (
                "allow: [allUsers]\nclaims: { hd: example.com }",
                "allow: [allUsers]\nclaims: { hd: example.org }",
                "claims: hd example.com -> example.org",
                true,
            ),
            (
                "allow: [allUsers]\nclaims: { ref: refs/heads/main }",
                "allow: [allUsers]\nclaims: { ref: { prefix: refs/heads/ } }",
                "claims: ref refs/heads/main -> prefix \"refs/heads/\"",
                true,
            ),
            (
                "allow: [allUsers]\nclaims: { ref: { glob: \"refs/*\" } }",
                "allow: [allUsers]\nclaims: { ref: { one_of: [refs/heads/main, refs/tags/1] } }",
                "claims: ref glob \"refs/*\" -> one of \"refs/heads/main\", \"refs/tags/1\"",
                false,
            ),
            (
                "allow: [allUsers]\nclaims: { groups: { contains: admins } }",
                "allow: [allUsers]\nclaims: { groups: { contains: { one_of: [admins, ops] } } }",
                "claims: groups contains \"admins\" -> contains one of \"admins\", \"ops\"",
                true,
            ),
            (
                "allow: [allUsers]\nclaims: { /a/b: 1 }",
                "allow: [allUsers]\nclaims: { /a/c: 1 }",
                "claims: - /a/b 1, claims: + /a/c 1",
                true,
            ),
            (
                "allow: []",
                "allow: []\nclaims: { roles: [a, b] }",
                "claims: + roles \"[\\\"a\\\",\\\"b\\\"]\"",
                false,
            ),
            (
                "allow: [allUsers]\nclaims: { n: 1, hd: \"a b\" }",
                "allow: [allUsers]\nclaims: { n: 1 }",
                "claims: - hd \"a b\"",
                true,
            ),
        ] {
            let expected = (all.to_owned(), widening);
            let (text, wider) = changes(old, new);
            assert_eq!((text, wider.is_some()), expected, "{old} -> {new}");
        }
    }

    #[test]
    fn only_the_widening_part_of_a_change_is_listed_as_such() {
        let (all, widening) = changes(
            "allow: [\"system:serviceaccount:shop:web\"]\nclaims: { hd: example.com }",
            "allow: [allUsers]\ndeny: [\"system:serviceaccount:shop:legacy\"]\nclaims: { hd: example.com }",
        );
        assert_eq!(
            all,
            "+ allUsers, - system:serviceaccount:shop:web, + deny system:serviceaccount:shop:legacy"
        );
        assert_eq!(widening.as_deref(), Some("+ allUsers"));
    }

    #[test]
    fn a_change_that_allows_no_further_caller_is_not_widening() {
        let of_one =
            |members: &str| format!("allow: [{{ issuer: https://c, members: [{members}] }}]");
        let allow = |members: &str| format!("allow: [{members}]");
        let deny = |allowed: &str, denied: &str| format!("allow: [{allowed}]\ndeny: [{denied}]");
        let (web, legacy) = (
            "\"system:serviceaccount:shop:web\"",
            "\"system:serviceaccount:shop:legacy\"",
        );
        let (shop, accounts) = (
            "\"system:serviceaccounts:shop\"",
            "\"system:serviceaccounts\"",
        );
        let (bank, users) = (
            "\"system:serviceaccounts:bank\"",
            "\"system:authenticated\"",
        );
        let (jane, joe) = ("\"user:jane@example.com\"", "\"user:joe@example.com\"");
        let principal = "\"principal:https://c#system:serviceaccount:shop:web\"";
        let node = "\"principal:https://c#system:node:n\"";
        let everyone = ["allUsers", "allAuthenticatedUsers"];
        for (old, new, is_wider) in [
            // The change of an operator who narrowed the policy.
            (
                deny(&format!("allUsers, {shop}"), legacy),
                allow(web),
                false,
            ),
            (allow(everyone[0]), allow(everyone[1]), false),
            (allow(everyone[1]), allow(everyone[0]), true),
            (allow(everyone[1]), allow(jane), false),
            (allow(everyone[1]), allow(users), false),
            (allow(everyone[1]), of_one("allAuthenticatedUsers"), false),
            (of_one("allAuthenticatedUsers"), allow(everyone[1]), true),
            (of_one("allAuthenticatedUsers"), of_one(users), false),
            (of_one("allAuthenticatedUsers"), allow(principal), false),
            (allow(users), allow(accounts), false),
            (allow(accounts), allow(users), true),
            (allow(accounts), allow(shop), false),
            (allow(shop), allow(accounts), true),
            (allow(shop), allow(web), false),
            (allow(web), allow(shop), true),
            (allow(bank), allow(web), true),
            (allow(accounts), allow(jane), true),
            // Another issuer, or one that may be another.
            (allow(shop), of_one(web), true),
            (of_one(shop), allow(web), true),
            (of_one(shop), of_one(web), false),
            (of_one(shop), allow(principal), false),
            (of_one(accounts), allow(node), true),
            (allow(principal), of_one(web), false),
            (allow(principal), allow(web), true),
            // The callers that were denied are not allowed now.
            (deny(web, legacy), allow(web), false),
            (deny(web, web), allow(web), true),
            (deny(web, shop), allow(web), true),
            (deny(web, bank), allow(web), false),
            (deny(shop, legacy), allow(shop), true),
            (deny(shop, bank), allow(shop), false),
            (deny(accounts, legacy), allow(accounts), true),
            (deny(web, users), allow(web), true),
            (deny(jane, accounts), allow(jane), false),
            (deny(jane, joe), allow(jane), false),
            (deny(jane, jane), allow(jane), true),
            (deny(web, jane), allow(web), false),
            (deny(node, legacy), allow(node), true),
            (deny(principal, web), allow(principal), true),
            (deny(principal, legacy), allow(principal), false),
            (deny(everyone[0], legacy), allow(everyone[0]), true),
            (deny(everyone[1], legacy), allow(everyone[1]), true),
            (deny(web, everyone[1]), allow(web), true),
            (deny(web, everyone[1]), "allow: []".to_owned(), false),
            // They are still denied by another member.
            (
                deny(everyone[0], &format!("{shop}, {legacy}")),
                deny(everyone[0], shop),
                false,
            ),
            (
                deny(everyone[0], &format!("{web}, {principal}")),
                deny(everyone[0], principal),
                true,
            ),
            (
                deny(web, shop),
                deny(&format!("{web}, {legacy}"), shop),
                false,
            ),
            // No caller is allowed.
            (
                format!("{}\naudiences: [a]\nclaims: {{ hd: a }}", allow(web)),
                "allow: []".to_owned(),
                false,
            ),
        ] {
            let (all, widening) = changes(&old, &new);
            assert_eq!(widening.is_some(), is_wider, "{old} -> {new}: {all}");
        }
    }

    #[test]
    fn members_that_differ_only_after_the_part_that_is_listed_are_a_change() {
        let long = format!("principal:https://c.example#{}", "x".repeat(400));
        let (all, widening) = changes(
            &format!("allow: [\"{long}a\"]"),
            &format!("allow: [\"{long}a\", \"{long}b\"]"),
        );
        assert!(
            all.starts_with("+ principal:https://c.example#xxx"),
            "{all}"
        );
        assert_eq!(widening, Some(all));
    }

    #[test]
    fn order_duplicates_and_formatting_are_no_change() {
        for (old, new) in [
            (
                "allow: [\"user:a@b.example\", allUsers]",
                "allow:\n- allUsers\n- serviceAccount:A@b.example\n- allUsers\n",
            ),
            (
                "allow: []\naudiences: [a, b]",
                "{ \"audiences\": [\"b\", \"a\", \"b\"], \"allow\": [] }",
            ),
            (
                "allow: []\nclaims: { a: { x: 1, y: 2 }, b: 1 }",
                "allow: []\nclaims: { b: 1, a: { y: 2, x: 1 } }",
            ),
            (
                "allow: [\"principal:https://c.example#a\"]",
                "allow: [{ issuer: \"https://c.example\", members: [\"principal:https://c.example#a\"] }]",
            ),
        ] {
            assert_eq!(changes(old, new), (String::new(), None), "{old} -> {new}");
        }
    }

    #[test]
    fn the_number_of_listed_changes_is_bounded_and_the_widest_members_come_first() {
        let members: Vec<_> = (0..330)
            .map(|number| format!("\"system:serviceaccount:a:b{number:03}\""))
            .collect();
        let new = format!(
            "allow: [{}, allUsers, allAuthenticatedUsers]",
            members.join(", ")
        );
        let (all, widening) = changes("allow: []", &new);
        assert!(
            all.starts_with(
                "+ allUsers, + allAuthenticatedUsers, + system:serviceaccount:a:b000, "
            ),
            "{all}"
        );
        assert!(all.ends_with("b017 and 312 more"), "{all}");
        assert_eq!(widening, Some(all));
    }
}
