//! Requirements on the value of a claim.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::glob::Glob;
use super::json;
use crate::text::{Escaped, printable};

/// The most alternatives that a text lists.
const MAX_LISTED: usize = 20;

/// A requirement on the value of a claim, for [`Policy::require_claim`](crate::Policy::require_claim) and
/// [`Issuer::require_claim`](crate::Issuer::require_claim).
///
/// | in code | in a file | a claim matches if it is |
/// | --- | --- | --- |
/// | `"a"`, `true`, `1`, `json!([1, 2])` | `a`, `true`, `1`, `[1, 2]` | this value |
/// | [`one_of(["a", "b"])`](Self::one_of) | `{ one_of: [a, b] }` | one of these values, or matches one of these matchers |
/// | [`prefix("refs/tags/")`](Self::prefix) | `{ prefix: refs/tags/ }` | a text that begins with this one |
/// | [`glob("web-*")`](Self::glob) | `{ glob: "web-*" }` | a text that this pattern matches as a whole |
/// | [`contains("admins")`](Self::contains) | `{ contains: admins }` | an array with such an element |
/// | [`all_of([…, …])`](Self::all_of) | `{ all_of: […, …] }`, or several fields: `{ prefix: a, glob: "*z" }` | a value that all of these matchers match |
/// | [`equals(json!({"a": 1}))`](Self::equals) | `{ equals: { a: 1 } }` | this value, which may be an object |
///
/// Matchers can be nested: `contains(one_of(["admins", "operators"]))` matches an array with at least one of the two, and
/// `all_of([contains("admins"), contains("operators")])` one with both.
///
/// # Types
///
/// Values of different types are different: the text `"1"`, the number `1` and the array `["1"]` do not match each other, and
/// `prefix` and `glob` match texts only. Integers of up to 64 bits are compared exactly, other numbers as `f64`; the order of
/// fields in an object does not matter. No matcher matches `null` or a missing claim. An object that repeats the name of one of
/// its members does not match.
///
/// # Patterns
///
/// In a `glob`, `*` stands for any number of characters, **including `/` and `:`**, `?` for exactly one, and `\` makes the next
/// `*`, `?` or `\` an ordinary character. The whole text has to match, upper and lower case are different, and there are no
/// other special characters. The time is proportional to the length of the text, whatever the pattern; a pattern has at most
/// 255 characters.
///
/// A pattern or prefix that ends within a name, or that leaves more of a value open than its author sees, admits others:
///
/// | pattern for `sub` of GitHub Actions | also matches |
/// | --- | --- |
/// | `repo:octo-org*` | `repo:octo-org-evil/x:ref:refs/heads/main`, which belongs to somebody else |
/// | `repo:octo-org/*` | every workflow of every repository of `octo-org`, including those of pull requests |
/// | `repo:octo-org/web:*` | every branch, tag, environment and pull request of that repository |
///
/// Match the claims with the parts of a subject instead, such as `repository_id` and `ref`.
///
/// # Examples
///
/// ```
/// use tower_oidc_guard::{ClaimMatcher, Policy};
///
/// let policy = Policy::any_verified_caller()
///     .require_claim("repository_id", "1296269")
///     .require_claim("event_name", "push")
///     .require_claim("ref", ClaimMatcher::one_of([ClaimMatcher::equals("refs/heads/main"), ClaimMatcher::prefix("refs/tags/v")]))
///     .require_claim("groups", ClaimMatcher::contains("deployers"))
///     .require_claim("/kubernetes.io/pod/name", ClaimMatcher::glob("web-*"));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct ClaimMatcher(Matcher);

#[derive(Debug, Clone)]
enum Matcher {
    Equals(Value),
    OneOf(OneOf),
    Prefix(String),
    Glob(Glob),
    Contains(Box<ClaimMatcher>),
    AllOf(Vec<ClaimMatcher>),
}

/// Alternatives. The texts are kept separately, because there may be many.
#[derive(Debug, Clone, Default)]
struct OneOf {
    texts: BTreeSet<String>,
    others: Vec<ClaimMatcher>,
}

/// The order of alternatives, and of matchers that all have to match, makes no difference.
impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Equals(own), Self::Equals(other)) => own == other,
            (Self::OneOf(own), Self::OneOf(other)) => {
                own.texts == other.texts && have_same_matchers(&own.others, &other.others)
            }
            (Self::Prefix(own), Self::Prefix(other)) => own == other,
            (Self::Glob(own), Self::Glob(other)) => own == other,
            (Self::Contains(own), Self::Contains(other)) => own == other,
            (Self::AllOf(own), Self::AllOf(other)) => have_same_matchers(own, other),
            _ => false,
        }
    }
}

fn have_same_matchers(own: &[ClaimMatcher], other: &[ClaimMatcher]) -> bool {
    let mut unpaired: Vec<_> = other.iter().collect();
    own.len() == other.len()
        && own.iter().all(|matcher| {
            let found = unpaired.iter().position(|other| *other == matcher);
            found.map(|index| unpaired.remove(index)).is_some()
        })
}

/// The known part of a text that matches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Beginning<'m> {
    /// The text.
    Whole(&'m str),
    /// How the text begins.
    Start(&'m str),
}

/// A value in a token.
struct Found<'p> {
    json: &'p str,
    /// The value, if it is a text.
    text: Option<Cow<'p, str>>,
}

impl<T: Into<Value>> From<T> for ClaimMatcher {
    fn from(value: T) -> Self {
        Self::equals(value)
    }
}

impl ClaimMatcher {
    /// Creates a matcher for exactly this value: a text, number, truth value, array or object. A null value does not build.
    ///
    /// Where a matcher is expected, the value alone is enough, so this is needed only among other matchers.
    ///
    /// ```
    /// # use tower_oidc_guard::{ClaimMatcher, Policy};
    /// let policy = Policy::any_verified_caller().require_claim("ref_protected", ClaimMatcher::equals("true"));
    /// ```
    pub fn equals(value: impl Into<Value>) -> Self {
        Self(Matcher::Equals(value.into()))
    }

    /// Creates a matcher for one of several values, or of several matchers. An empty list does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{ClaimMatcher, Policy};
    /// let policy = Policy::any_verified_caller()
    ///     .require_claim("event_name", ClaimMatcher::one_of(["push", "workflow_dispatch"]));
    /// ```
    pub fn one_of<M: Into<Self>>(matchers: impl IntoIterator<Item = M>) -> Self {
        let mut one_of = OneOf::default();
        for matcher in matchers {
            match matcher.into().0 {
                Matcher::Equals(Value::String(text)) => drop(one_of.texts.insert(text)),
                other => one_of.others.push(Self(other)),
            }
        }
        Self(Matcher::OneOf(one_of))
    }

    /// Creates a matcher for texts that begin with this one. An empty prefix does not build, because every text begins with it.
    ///
    /// End the prefix with the separator of the format, such as `/` or `:`; see [Patterns](Self#patterns).
    ///
    /// ```
    /// # use tower_oidc_guard::{ClaimMatcher, Policy};
    /// let policy = Policy::any_verified_caller().require_claim("ref", ClaimMatcher::prefix("refs/tags/"));
    /// ```
    pub fn prefix(prefix: impl Into<String>) -> Self {
        Self(Matcher::Prefix(prefix.into()))
    }

    /// Creates a matcher for texts that a pattern with `*` and `?` matches as a whole; see [Patterns](Self#patterns). A pattern
    /// that is empty, has more than 255 characters, or has a `\` before anything but `*`, `?` and `\` does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{ClaimMatcher, Policy};
    /// // Matches `refs/heads/release/1.2`, and `refs/heads/release/1.2/x`, since `*` includes `/`.
    /// let policy = Policy::any_verified_caller().require_claim("ref", ClaimMatcher::glob("refs/heads/release/*"));
    /// ```
    pub fn glob(pattern: impl Into<String>) -> Self {
        Self(Matcher::Glob(Glob::parse(pattern.into())))
    }

    /// Creates a matcher for arrays with at least one element that is this value, or that matches this matcher.
    ///
    /// ```
    /// # use tower_oidc_guard::{ClaimMatcher, Policy};
    /// let operators = Policy::any_verified_caller().require_claim("groups", ClaimMatcher::contains("operators"));
    /// let any_of_two = ClaimMatcher::contains(ClaimMatcher::one_of(["operators", "admins"]));
    /// let both = ClaimMatcher::all_of([ClaimMatcher::contains("operators"), ClaimMatcher::contains("admins")]);
    /// ```
    pub fn contains(element: impl Into<Self>) -> Self {
        Self(Matcher::Contains(Box::new(element.into())))
    }

    /// Creates a matcher for values that all of several matchers match. An empty list does not build.
    ///
    /// ```
    /// # use tower_oidc_guard::{ClaimMatcher, Policy};
    /// let both = ClaimMatcher::all_of([ClaimMatcher::contains("operators"), ClaimMatcher::contains("on-call")]);
    /// let policy = Policy::any_verified_caller().require_claim("groups", both);
    /// ```
    pub fn all_of<M: Into<Self>>(matchers: impl IntoIterator<Item = M>) -> Self {
        Self(Matcher::AllOf(
            matchers.into_iter().map(Into::into).collect(),
        ))
    }

    /// Returns whether a JSON text matches, which must be part of a verified payload.
    pub(crate) fn matches(&self, json: &str) -> bool {
        self.matches_found(&Found {
            json,
            text: json::parse_text(json).ok(),
        })
    }

    fn matches_found(&self, found: &Found<'_>) -> bool {
        match &self.0 {
            Matcher::Equals(Value::String(expected)) => found.text.as_deref() == Some(expected),
            Matcher::Equals(expected) => {
                !expected.is_null() && json::is_equal(found.json, expected)
            }
            Matcher::OneOf(OneOf { texts, others }) => {
                found
                    .text
                    .as_deref()
                    .is_some_and(|text| texts.contains(text))
                    || others.iter().any(|other| other.matches_found(found))
            }
            Matcher::Prefix(prefix) => {
                let text = found.text.as_deref();
                text.is_some_and(|text| text.starts_with(prefix))
            }
            Matcher::Glob(glob) => found.text.as_deref().is_some_and(|text| glob.matches(text)),
            Matcher::Contains(element) => {
                let mut is_contained = false;
                let read = json::for_each_element(found.json, |found| {
                    is_contained = is_contained || element.matches(found.get());
                });
                read.is_ok() && is_contained
            }
            Matcher::AllOf(all) => all.iter().all(|matcher| matcher.matches_found(found)),
        }
    }

    /// Returns why a claim cannot be required to match, or `None` if it can.
    pub(crate) fn fault(&self) -> Option<String> {
        let fixed = match &self.0 {
            Matcher::Equals(Value::Null) => {
                "its required value is null; require another value, or leave the claim out"
            }
            Matcher::Equals(_) => return None,
            Matcher::OneOf(OneOf { texts, others }) if texts.is_empty() && others.is_empty() => {
                "`one_of` lists no value, so no token would have one of them; list one, or leave the claim out"
            }
            Matcher::OneOf(OneOf { others: all, .. }) => return all.iter().find_map(Self::fault),
            Matcher::Prefix(prefix) if prefix.is_empty() => {
                "its `prefix` is empty, and every text begins with it; write how the claim has to begin, or leave the claim out"
            }
            Matcher::Prefix(_) => return None,
            Matcher::Glob(glob) => return glob.fault(),
            Matcher::Contains(element) => return element.fault(),
            Matcher::AllOf(all) if all.is_empty() => {
                "`all_of` lists no matcher, so every value would match; list one, or leave the claim out"
            }
            Matcher::AllOf(all) => return all.iter().find_map(Self::fault),
        };
        Some(fixed.to_owned())
    }

    /// Returns whether every text matches.
    pub(crate) fn matches_every_text(&self) -> bool {
        match &self.0 {
            Matcher::Glob(glob) => glob.matches_every_text(),
            Matcher::OneOf(one_of) => one_of.others.iter().any(Self::matches_every_text),
            Matcher::AllOf(all) => all.iter().all(Self::matches_every_text),
            Matcher::Equals(_) | Matcher::Prefix(_) | Matcher::Contains(_) => false,
        }
    }

    /// Returns whether every text that matches is known to have a beginning for which `is_enough` returns true.
    pub(crate) fn every_text_begins(&self, is_enough: &dyn Fn(Beginning<'_>) -> bool) -> bool {
        match &self.0 {
            Matcher::Equals(Value::String(text)) => is_enough(Beginning::Whole(text)),
            Matcher::Prefix(prefix) => is_enough(Beginning::Start(prefix)),
            Matcher::Glob(glob) => is_enough(Beginning::Start(&glob.literal_start())),
            Matcher::OneOf(OneOf { texts, others }) => {
                texts.iter().all(|text| is_enough(Beginning::Whole(text)))
                    && others
                        .iter()
                        .all(|other| other.every_text_begins(is_enough))
            }
            Matcher::AllOf(all) => all.iter().any(|own| own.every_text_begins(is_enough)),
            // No text matches.
            Matcher::Equals(_) | Matcher::Contains(_) => true,
        }
    }

    /// Returns whether every value that `other` matches is known to match this matcher, too.
    #[cfg(feature = "policy-file")]
    pub(crate) fn covers(&self, other: &Self) -> bool {
        if self == other {
            return true;
        }
        match (&self.0, &other.0) {
            (_, Matcher::OneOf(OneOf { texts, others })) => {
                let is_covered = |text: &String| self.covers(&Self::equals(text.as_str()));
                texts.iter().all(is_covered) && others.iter().all(|other| self.covers(other))
            }
            (Matcher::AllOf(all), _) => all.iter().all(|own| own.covers(other)),
            (_, Matcher::AllOf(all)) if all.iter().any(|other| self.covers(other)) => true,
            (_, Matcher::Equals(value)) => self.matches(&value.to_string()),
            (Matcher::OneOf(one_of), _) => one_of.others.iter().any(|own| own.covers(other)),
            (Matcher::Prefix(own), Matcher::Prefix(other)) => other.starts_with(own),
            (Matcher::Prefix(own), Matcher::Glob(other)) => other.literal_start().starts_with(own),
            (Matcher::Glob(own), Matcher::Prefix(other)) => {
                own.as_prefix().is_some_and(|own| other.starts_with(&own))
            }
            (Matcher::Glob(own), Matcher::Glob(other)) => own
                .as_prefix()
                .is_some_and(|own| other.literal_start().starts_with(&own)),
            (Matcher::Contains(own), Matcher::Contains(other)) => own.covers(other),
            _ => false,
        }
    }

    /// Returns the value if the matcher is for exactly one value.
    #[cfg(feature = "policy-file")]
    pub(crate) fn as_value(&self) -> Option<&Value> {
        match &self.0 {
            Matcher::Equals(value) => Some(value),
            _ => None,
        }
    }
}

/// The matcher in words, for operators: `"a"`, `one of "a", "b"`, `prefix "a"`, `glob "a*"`, `contains "a"` or
/// `all of (prefix "a", glob "*z")`. Everything but printable characters is escaped.
impl fmt::Display for ClaimMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Matcher::Equals(value) => f.write_str(&printable(&value.to_string())),
            Matcher::OneOf(OneOf { texts, others }) => {
                let texts = texts.iter().map(|text| Escaped(text).to_string());
                let all = texts.chain(others.iter().map(Self::to_string));
                write!(f, "one of {}", listed(all.collect()))
            }
            Matcher::Prefix(prefix) => write!(f, "prefix {}", Escaped(prefix)),
            Matcher::Glob(glob) => write!(f, "glob {}", Escaped(glob.as_str())),
            Matcher::Contains(element) => write!(f, "contains {element}"),
            Matcher::AllOf(all) => {
                let all = all.iter().map(Self::to_string).collect();
                write!(f, "all of ({})", listed(all))
            }
        }
    }
}

/// Joins the first texts, and states how many more there are.
fn listed(texts: Vec<String>) -> String {
    let shown = texts.get(..MAX_LISTED).unwrap_or(&texts);
    match texts.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_order_of_matchers_makes_no_difference() {
        let (prefix, glob) = (ClaimMatcher::prefix("a"), ClaimMatcher::glob("*z"));
        let contains = |matcher: &ClaimMatcher| ClaimMatcher::contains(matcher.clone());
        let (first, last) = ([&prefix, &glob], [&glob, &prefix]);
        for list in [ClaimMatcher::one_of, ClaimMatcher::all_of] {
            let of = |matchers: [&ClaimMatcher; 2]| list(matchers.map(Clone::clone).to_vec());
            assert_eq!(of(first), of(last));
            assert_eq!(contains(&of(first)), contains(&of(last)));
            assert_ne!(of([&prefix, &prefix]), of(first));
            assert_ne!(of(first), list(vec![prefix.clone()]));
        }
        assert_ne!(
            ClaimMatcher::all_of([prefix.clone(), glob.clone()]),
            ClaimMatcher::one_of([prefix, glob])
        );
    }

    #[test]
    fn matchers_do_not_convert_types() {
        let one = ClaimMatcher::one_of([json!("1"), json!(true)]);
        for (matcher, matching, others) in [
            (
                ClaimMatcher::equals("1"),
                vec![r#""1""#, r#""\u0031""#],
                vec!["1", "[\"1\"]", "true"],
            ),
            (
                ClaimMatcher::equals(1),
                vec!["1"],
                vec![r#""1""#, "1.0", "[1]", "true"],
            ),
            (
                ClaimMatcher::equals(true),
                vec!["true"],
                vec![r#""true""#, "1", "[true]"],
            ),
            (
                one,
                vec![r#""1""#, "true"],
                vec!["1", r#""true""#, "null", "{}"],
            ),
            (
                ClaimMatcher::prefix("1"),
                vec![r#""1""#, r#""12""#],
                vec!["1", "12", "[\"1\"]", "{\"1\":1}", "\"\"", "\"21\""],
            ),
            (
                ClaimMatcher::glob("*"),
                vec![r#""""#, r#""a/b""#],
                vec!["1", "true", "null", "[]", "[\"a\"]", "{}"],
            ),
            (
                ClaimMatcher::contains("a"),
                vec![r#"["a"]"#, r#"[1,{"x":[]},"\u0061"]"#],
                vec![r#""a""#, "[]", r#"[["a"]]"#, r#"{"a":"a"}"#, r#"["b"]"#],
            ),
            (
                ClaimMatcher::contains(ClaimMatcher::prefix("a")),
                vec![r#"["b","ab"]"#],
                vec![r#""ab""#, "[\"b\"]"],
            ),
            (
                ClaimMatcher::all_of([ClaimMatcher::contains("a"), ClaimMatcher::contains("b")]),
                vec![r#"["b","a"]"#],
                vec![r#"["a"]"#, "[]", r#""ab""#],
            ),
            (
                ClaimMatcher::equals(json!({ "a": { "b": 1 } })),
                vec![r#"{"a":{"b":1}}"#],
                vec![r#"{"a":{"b":1,"b":1}}"#, r#"{"a":{"b":2,"b":1}}"#, "[]"],
            ),
        ] {
            for json in matching {
                assert!(matcher.matches(json), "{matcher} and {json}");
            }
            for json in others {
                assert!(!matcher.matches(json), "{matcher} and {json}");
            }
        }
    }

    #[test]
    fn matchers_that_match_nothing_or_everything_by_mistake_are_faults() {
        for (matcher, text) in [
            (ClaimMatcher::equals(Value::Null), "null"),
            (ClaimMatcher::one_of([Value::Null]), "null"),
            (ClaimMatcher::contains(Value::Null), "null"),
            (ClaimMatcher::one_of([""; 0]), "`one_of` lists no value"),
            (ClaimMatcher::all_of([""; 0]), "`all_of` lists no matcher"),
            (ClaimMatcher::prefix(""), "`prefix` is empty"),
            (ClaimMatcher::glob(""), "`glob` is empty"),
            (
                ClaimMatcher::contains(ClaimMatcher::one_of([ClaimMatcher::prefix("")])),
                "`prefix` is empty",
            ),
            (ClaimMatcher::all_of([ClaimMatcher::glob("a\\")]), "\\"),
            (ClaimMatcher::glob("a".repeat(256)), "255"),
        ] {
            let fault = matcher.fault();
            assert!(
                fault.as_ref().is_some_and(|fault| fault.contains(text)),
                "{matcher}: {fault:?}"
            );
        }
        for matcher in [
            ClaimMatcher::equals(""),
            ClaimMatcher::one_of([""]),
            ClaimMatcher::glob("a".repeat(255)),
            ClaimMatcher::contains(json!([null])),
        ] {
            assert_eq!(matcher.fault(), None, "{matcher}");
        }
    }

    #[cfg(feature = "policy-file")]
    #[test]
    fn a_matcher_covers_what_it_is_known_to_match() {
        let (prefix, glob) = (
            |text: &str| ClaimMatcher::prefix(text),
            |text: &str| ClaimMatcher::glob(text),
        );
        let (a, b) = (ClaimMatcher::equals("ab"), ClaimMatcher::equals("b"));
        let both = ClaimMatcher::one_of(["ab", "b"]);
        let narrow = ClaimMatcher::all_of([prefix("a"), glob("*b")]);
        let groups = |element: &ClaimMatcher| ClaimMatcher::contains(element.clone());
        for (wide, narrow, is_covered) in [
            (&a, &a, true),
            (&a, &b, false),
            (&both, &a, true),
            (&a, &both, false),
            (&ClaimMatcher::one_of(["b", "ab", "c"]), &both, true),
            (&prefix("a"), &a, true),
            (&prefix("a"), &prefix("ab"), true),
            (&prefix("ab"), &prefix("a"), false),
            (&prefix("a"), &glob("a?*"), true),
            (&prefix("a"), &glob("*a"), false),
            (&glob("a*"), &prefix("ab"), true),
            (&glob("a*"), &prefix("b"), false),
            (&glob("a*"), &glob("ab*c"), true),
            (&glob("a*c"), &glob("ab*c"), false),
            (&glob("*"), &a, true),
            (&glob("a?"), &a, true),
            (&glob("a"), &a, false),
            (&prefix("a"), &narrow, true),
            (&narrow, &a, true),
            (&narrow, &prefix("a"), false),
            (&groups(&both), &groups(&a), true),
            (&groups(&a), &groups(&both), false),
            (&groups(&a), &a, false),
            (
                &ClaimMatcher::one_of([prefix("a"), prefix("b")]),
                &prefix("ba"),
                true,
            ),
            (&ClaimMatcher::equals(1), &ClaimMatcher::equals("1"), false),
        ] {
            assert_eq!(wide.covers(narrow), is_covered, "{wide} and {narrow}");
        }
    }

    #[test]
    fn the_text_of_a_matcher_is_one_printable_line() {
        for (matcher, text) in [
            (ClaimMatcher::equals("a\n"), r#""a\n""#),
            (
                ClaimMatcher::one_of(["b", "a\u{202e}"]),
                r#"one of "a\u{202e}", "b""#,
            ),
            (ClaimMatcher::prefix("\u{e9}"), r#"prefix "\u{e9}""#),
            (
                ClaimMatcher::contains(ClaimMatcher::glob("a*")),
                r#"contains glob "a*""#,
            ),
            (
                ClaimMatcher::all_of([ClaimMatcher::equals(1), ClaimMatcher::prefix("z")]),
                r#"all of (1, prefix "z")"#,
            ),
        ] {
            assert_eq!(matcher.to_string(), text);
        }
        let many = ClaimMatcher::one_of((0..30).map(|number| format!("{number:02}")));
        assert!(many.to_string().ends_with("\"19\" and 10 more"), "{many}");
    }
}
