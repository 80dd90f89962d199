//! Describes how a configuration file has changed.

use std::collections::BTreeMap;

use super::{ConfigFile, SettingValues};
use crate::issuer::Issuer;
use crate::policy::{Effect, PolicyChanges};
use crate::text::quoted_if_needed;

/// Adds the differences between the issuers and the settings of two versions of a file to those of its policy.
pub(crate) fn config_changes(changes: &mut PolicyChanges, old: &ConfigFile, new: &ConfigFile) {
    if !old.has_same_issuers(new) {
        issuers(changes, old, new);
    }
    settings(changes, &old.settings.values, &new.settings.values);
}

fn issuers(changes: &mut PolicyChanges, old: &ConfigFile, new: &ConfigFile) {
    // Both were valid when they were in effect.
    let (Ok(old), Ok(new)) = (old.issuers(), new.issuers()) else {
        changes.add("issuers changed".to_owned(), Effect::Wider);
        return;
    };
    let find = |all: &[Issuer], label: &str| {
        let mut all = all.iter();
        all.find(|issuer| issuer.label() == label).cloned()
    };
    for issuer in &new {
        let label = quoted_if_needed(issuer.label());
        match find(&old, issuer.label()) {
            None => {
                let audiences = issuer.audiences_text();
                let change = format!("+ issuer {label} (audiences: {audiences})");
                changes.add(change, Effect::Wider);
            }
            Some(earlier) => {
                for (change, effect) in issuer.changes_since(&earlier) {
                    changes.add(format!("issuer {label}: {change}"), effect);
                }
            }
        }
    }
    for issuer in &old {
        if find(&new, issuer.label()).is_none() {
            let label = quoted_if_needed(issuer.label());
            changes.add(
                format!("- issuer {label} (its tokens get 401)"),
                Effect::Narrower,
            );
        }
    }
}

fn settings(changes: &mut PolicyChanges, old: &SettingValues, new: &SettingValues) {
    let is_wider = |name: &str| match name {
        "allow_missing_token" => new.allow_missing_token == Some(true),
        "allow_cors_preflight" => new.allow_cors_preflight == Some(true),
        // Tokens are read from other headers.
        "token_from" | "token_from_exactly_one_of" => true,
        "max_token_bytes" => {
            new.max_token_bytes > old.max_token_bytes || new.max_token_bytes.is_none()
        }
        _ => false,
    };
    let (before, after): (BTreeMap<_, _>, BTreeMap<_, _>) = (
        old.texts().into_iter().collect(),
        new.texts().into_iter().collect(),
    );
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (before, after) = (before.get(name), after.get(name));
        if before == after {
            continue;
        }
        let text = |value: Option<&String>| {
            value.map_or_else(
                || "default".to_owned(),
                |value| quoted_if_needed(value).into_owned(),
            )
        };
        let effect = if is_wider(name) {
            Effect::Wider
        } else {
            Effect::Narrower
        };
        changes.add(
            format!("{name}: {} -> {}", text(before), text(after)),
            effect,
        );
    }
}
