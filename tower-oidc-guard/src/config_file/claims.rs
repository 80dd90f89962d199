//! Reads required claims: their names, and the values or matchers that they must have.

use super::document::{Content, Entry, Node};
use super::error::{ContentError, Position};
use super::fields::{Field, Fields, found, into_text, listed, quoted};
use crate::jose::claim_matcher::ClaimMatcher;
use crate::jose::required_claims::RequiredClaim;
use crate::policy::{PolicyError, is_close};

/// The fields of a matcher, in the order in which they are listed.
const MATCHERS: [&str; 6] = ["equals", "one_of", "prefix", "glob", "contains", "all_of"];
const OWNER: &str = "a matcher";

/// Reads required claims: at least one, and none that is null.
pub(super) fn claims(field: Option<Field>) -> Result<Vec<RequiredClaim>, ContentError> {
    let Some(field) = field else {
        return Ok(Vec::new());
    };
    let advice = "`claims` is null or empty, so no claim would be required; list those to require, or leave the field out";
    let entries = field.into_entries(advice)?.into_iter();
    entries.map(claim).collect()
}

fn claim(entry: Entry) -> Result<RequiredClaim, ContentError> {
    let Entry {
        position,
        name,
        value,
    } = entry;
    let matcher = matcher(value, &name)?;
    let claim = RequiredClaim::new(name, matcher);
    match claim.fault() {
        None => Ok(claim),
        Some(reason) => Err(invalid(position, claim.name(), reason)),
    }
}

/// Reads a value, or a mapping of matchers, all of which have to match. `claim` is the name of the claim.
fn matcher(node: Node, claim: &str) -> Result<ClaimMatcher, ContentError> {
    let Content::Mapping(entries) = &node.content else {
        return Ok(ClaimMatcher::equals(node.into_json()));
    };
    if !entries.iter().any(|entry| is_matcher(&entry.name)) {
        return match misspelled(entries) {
            Some(error) => Err(error),
            None => Ok(ClaimMatcher::equals(node.into_json())),
        };
    }
    if let Some(other) = entries.iter().find(|entry| !is_matcher(&entry.name)) {
        return Err(unknown(other));
    }
    let mut fields = Fields::read(node, OWNER, &MATCHERS)?;
    let mut all = Vec::new();
    for name in MATCHERS {
        if let Some(field) = fields.take(name) {
            all.push(field_matcher(name, field, claim)?);
        }
    }
    Ok(match all.pop() {
        Some(only) if all.is_empty() => only,
        last => ClaimMatcher::all_of(all.into_iter().chain(last)),
    })
}

/// Reads a field of a matcher.
fn field_matcher(
    name: &'static str,
    field: Field,
    claim: &str,
) -> Result<ClaimMatcher, ContentError> {
    let position = field.position();
    let matcher = match name {
        "one_of" | "all_of" => {
            let advice = format!("`{name}` is null or empty; list at least one value or matcher");
            let elements = field.into_non_empty_list(&advice)?.into_iter();
            let elements = elements.map(|element| matcher(element, claim));
            let elements = elements.collect::<Result<Vec<_>, _>>()?;
            if name == "one_of" {
                ClaimMatcher::one_of(elements)
            } else {
                ClaimMatcher::all_of(elements)
            }
        }
        "contains" => contained(field.into_value()?, claim)?,
        "equals" => ClaimMatcher::equals(field.into_value()?.into_json()),
        _ => {
            let text = text(name, field.into_value()?)?;
            if name == "prefix" {
                ClaimMatcher::prefix(text)
            } else {
                ClaimMatcher::glob(text)
            }
        }
    };
    match matcher.fault() {
        None => Ok(matcher),
        Some(reason) => Err(invalid(position, claim, reason)),
    }
}

/// Reads the element that an array must contain.
fn contained(node: Node, claim: &str) -> Result<ClaimMatcher, ContentError> {
    if let Content::List(_) = node.content {
        let reason = "`contains` must be one value or a matcher, found a list; write `contains: { one_of: [\u{2026}] }` if one of the elements is enough, or `all_of: [{ contains: \u{2026} }, \u{2026}]` if all are required";
        return Err(ContentError::new(node.position, reason));
    }
    matcher(node, claim).map(ClaimMatcher::contains)
}

/// Reads a text. A number or truth value without quotes is not one, because it would match no claim of that type.
fn text(name: &str, node: Node) -> Result<String, ContentError> {
    if let Content::Plain(_, written) = &node.content {
        let reason = format!(
            "`{name}` must be text, found {}; write it in quotes: `{name}: {}`",
            found(&node),
            quoted(written)
        );
        return Err(ContentError::new(node.position, reason));
    }
    into_text(node, &format!("`{name}`")).map(|text| text.value)
}

fn is_matcher(name: &str) -> bool {
    MATCHERS.contains(&name)
}

/// Returns the error for a mapping without matchers that has a field similar to one.
fn misspelled(entries: &[Entry]) -> Option<ContentError> {
    let is_similar = |entry: &&Entry| MATCHERS.iter().any(|name| is_close(&entry.name, name));
    entries.iter().find(is_similar).map(unknown)
}

fn unknown(entry: &Entry) -> ContentError {
    let mut similar = MATCHERS.iter().filter(|name| is_close(&entry.name, name));
    let hint = match similar.next() {
        Some(name) => format!("did you mean \"{name}\"? The"),
        None => "the".to_owned(),
    };
    let reason = format!(
        "unknown field {}; {hint} fields of {OWNER} are {}; if the claim must be an object with this field, write that object in `equals`",
        quoted(&entry.name),
        listed(&MATCHERS)
    );
    ContentError::new(entry.position, reason)
}

fn invalid(position: Position, claim: &str, reason: String) -> ContentError {
    let claim = claim.to_owned();
    ContentError::from_policy(position, PolicyError::InvalidClaim { claim, reason })
}
