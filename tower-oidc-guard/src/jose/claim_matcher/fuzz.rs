//! A fuzz target for the matchers of claims.
//!
//! For any two matchers and any text:
//!
//! - A matcher matches exactly the texts that a naive evaluation matches, which tries every length for a `*`.
//! - If one covers another, it matches each text that the other matches.
//! - A matcher that matches every text matches this one.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::Value;

use super::*;
use crate::fuzz::ITERATIONS;

/// Characters with a meaning in patterns or in JSON, and few others, so that texts often match.
const CHARACTERS: [char; 10] = ['a', 'b', '/', '*', '?', '\\', '"', 'é', '\u{1f600}', '\n'];

#[derive(Debug, Clone, TypeGenerator)]
struct Text(#[generator(produce::<Vec<u8>>().with().len(0usize..8))] Vec<u8>);

impl Text {
    fn get(&self) -> String {
        let character = |index: &u8| CHARACTERS[usize::from(*index) % CHARACTERS.len()];
        self.0.iter().map(character).collect()
    }
}

#[derive(Debug, Clone, TypeGenerator)]
enum Recipe {
    Equals(Text),
    Prefix(Text),
    Glob(Text),
    OneOf(#[generator(produce::<Vec<Recipe>>().with().len(1usize..4))] Vec<Recipe>),
    AllOf(#[generator(produce::<Vec<Recipe>>().with().len(1usize..4))] Vec<Recipe>),
}

impl Recipe {
    fn matcher(&self) -> ClaimMatcher {
        match self {
            Self::Equals(text) => ClaimMatcher::equals(text.get()),
            Self::Prefix(text) => ClaimMatcher::prefix(text.get()),
            Self::Glob(text) => ClaimMatcher::glob(text.get()),
            Self::OneOf(all) => ClaimMatcher::one_of(all.iter().map(Self::matcher)),
            Self::AllOf(all) => ClaimMatcher::all_of(all.iter().map(Self::matcher)),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Equals(own) => own.get() == text,
            Self::Prefix(own) => text.starts_with(&own.get()),
            Self::Glob(own) => {
                let (pattern, text): (Vec<_>, Vec<_>) =
                    (own.get().chars().collect(), text.chars().collect());
                matches_glob(&pattern, &text)
            }
            Self::OneOf(all) => all.iter().any(|own| own.matches(text)),
            Self::AllOf(all) => all.iter().all(|own| own.matches(text)),
        }
    }
}

fn matches_glob(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], _) => text.is_empty(),
        (['*', rest @ ..], _) => (0..=text.len()).any(|start| matches_glob(rest, &text[start..])),
        (['?', rest @ ..], [_, after @ ..]) => matches_glob(rest, after),
        (['\\', escaped, rest @ ..], [first, after @ ..]) => {
            escaped == first && matches_glob(rest, after)
        }
        ([literal, rest @ ..], [first, after @ ..]) => {
            literal == first && matches_glob(rest, after)
        }
        _ => false,
    }
}

#[test]
fn matchers() {
    check!()
        .with_iterations(4 * ITERATIONS)
        .with_type::<(Recipe, Recipe, Text)>()
        .for_each(|(first, second, text)| {
            let (one, two) = (first.matcher(), second.matcher());
            if one.fault().is_some() || two.fault().is_some() {
                return;
            }
            let text = text.get();
            let json = Value::from(text.as_str()).to_string();
            assert_eq!(one.matches(&json), first.matches(&text), "{text:?}");
            assert_eq!(two.matches(&json), second.matches(&text), "{text:?}");
            assert!(!one.matches_every_text() || one.matches(&json));
            #[cfg(feature = "policy-file")]
            assert!(
                !one.covers(&two) || !two.matches(&json) || one.matches(&json),
                "{text:?}"
            );
        });
}
