//! Patterns with `*` and `?`.

use std::ops::{BitAnd, BitOr};

/// The most characters of a pattern. A set of states has one bit for each, and one for the end.
const MAX_CHARACTERS: usize = 255;
const WORDS: usize = 4;

/// A pattern in which `*` stands for any number of characters and `?` for one. The whole text has to match.
///
/// The pattern is run as a nondeterministic automaton whose states are the positions in the pattern, all of them at once as the
/// bits of a [`States`]. Each character of the text is read once and costs the same, whatever the pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    text: String,
    /// The elements other than `*`.
    elements: Vec<Element>,
    /// For each character of the pattern, the positions that it leads on from. Sorted.
    literals: Vec<(char, States)>,
    /// The positions of a `?`.
    any_character: States,
    /// The positions that have a `*` before them.
    repeats: States,
    fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element {
    Literal(char),
    AnyCharacter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Empty,
    TooLong,
    Escape,
}

/// A set of positions in a pattern.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct States([u64; WORDS]);

impl Glob {
    /// Parses a pattern. An invalid one has a [`fault`](Self::fault) and matches nothing.
    pub(super) fn parse(text: String) -> Self {
        let mut glob = Self {
            text,
            elements: Vec::new(),
            literals: Vec::new(),
            any_character: States::default(),
            repeats: States::default(),
            fault: None,
        };
        glob.fault = glob.read().err();
        glob
    }

    fn read(&mut self) -> Result<(), Fault> {
        if self.text.is_empty() {
            return Err(Fault::Empty);
        }
        if self.text.chars().nth(MAX_CHARACTERS).is_some() {
            return Err(Fault::TooLong);
        }
        let mut characters = self.text.chars();
        while let Some(character) = characters.next() {
            let position = self.elements.len();
            let literal = match character {
                '*' => {
                    self.repeats.insert(position);
                    continue;
                }
                '?' => {
                    self.any_character.insert(position);
                    self.elements.push(Element::AnyCharacter);
                    continue;
                }
                '\\' => {
                    let escaped = characters
                        .next()
                        .filter(|next| matches!(next, '*' | '?' | '\\'));
                    escaped.ok_or(Fault::Escape)?
                }
                other => other,
            };
            self.elements.push(Element::Literal(literal));
            match self
                .literals
                .binary_search_by_key(&literal, |(own, _)| *own)
            {
                Ok(index) => {
                    if let Some((_, positions)) = self.literals.get_mut(index) {
                        positions.insert(position);
                    }
                }
                Err(index) => self
                    .literals
                    .insert(index, (literal, States::single(position))),
            }
        }
        Ok(())
    }

    /// Returns the pattern as written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns why the pattern is invalid, or `None` if it is valid.
    pub(super) fn fault(&self) -> Option<String> {
        Some(match self.fault? {
            Fault::Empty => "its `glob` is empty; write a pattern, or leave the claim out".to_owned(),
            Fault::TooLong => {
                let length = self.text.chars().count();
                format!("its `glob` has {length} characters; at most {MAX_CHARACTERS} are supported")
            }
            Fault::Escape => r"its `glob` has a `\` that is not followed by `*`, `?` or `\`; write `\\` for a backslash".to_owned(),
        })
    }

    /// Returns whether the whole text matches.
    pub(super) fn matches(&self, text: &str) -> bool {
        if self.fault.is_some() {
            return false;
        }
        let mut current = States::single(0);
        for character in text.chars() {
            let consumed = (current & self.consuming(character)).next();
            current = consumed | (current & self.repeats);
            if current == States::default() {
                return false;
            }
        }
        current.contains(self.elements.len())
    }

    /// Returns the positions that a character leads on from.
    fn consuming(&self, character: char) -> States {
        let found = self.literals.binary_search_by(|(own, _)| {
            count_operation();
            own.cmp(&character)
        });
        let literal = found.ok().and_then(|index| self.literals.get(index));
        literal.map_or(self.any_character, |(_, positions)| {
            *positions | self.any_character
        })
    }

    /// Returns whether every text matches.
    pub(super) fn matches_every_text(&self) -> bool {
        self.fault.is_none() && self.elements.is_empty()
    }

    /// Returns the characters that every matching text begins with.
    pub(super) fn literal_start(&self) -> String {
        let elements = self.elements.iter().enumerate();
        let literal = elements.map_while(|(position, element)| match element {
            Element::Literal(character) if !self.repeats.contains(position) => Some(*character),
            _ => None,
        });
        literal.collect()
    }

    /// Returns the prefix that the pattern stands for, if it is one followed by `*`.
    #[cfg(feature = "policy-file")]
    pub(super) fn as_prefix(&self) -> Option<String> {
        let start = self.literal_start();
        let is_prefix = self.fault.is_none()
            && start.chars().count() == self.elements.len()
            && self.repeats.contains(self.elements.len());
        is_prefix.then_some(start)
    }
}

impl States {
    fn single(position: usize) -> Self {
        let mut states = Self::default();
        states.insert(position);
        states
    }

    fn insert(&mut self, position: usize) {
        if let Some(word) = self.0.get_mut(position / 64) {
            *word |= 1 << (position % 64);
        }
    }

    fn contains(self, position: usize) -> bool {
        let word = self.0.get(position / 64);
        word.is_some_and(|word| word >> (position % 64) & 1 == 1)
    }

    /// Returns the positions that follow these.
    fn next(self) -> Self {
        count_operation();
        let mut carry = 0;
        Self(self.0.map(|word| {
            let shifted = word << 1 | carry;
            carry = word >> 63;
            shifted
        }))
    }
}

impl BitAnd for States {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        count_operation();
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a & e, b & f, c & g, d & h])
    }
}

impl BitOr for States {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        count_operation();
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Self([a | e, b | f, c | g, d | h])
    }
}

/// Counts what a match costs, for tests.
#[cfg(test)]
fn count_operation() {
    OPERATIONS.set(OPERATIONS.get() + 1);
}

#[cfg(not(test))]
const fn count_operation() {}

#[cfg(test)]
thread_local! {
    static OPERATIONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Matches by trying every length for every `*`.
    fn matches_naively(pattern: &[char], text: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['*', rest @ ..] => {
                (0..=text.len()).any(|skipped| matches_naively(rest, &text[skipped..]))
            }
            ['?', rest @ ..] => !text.is_empty() && matches_naively(rest, &text[1..]),
            ['\\', escaped, rest @ ..] => {
                text.first() == Some(escaped) && matches_naively(rest, &text[1..])
            }
            [literal, rest @ ..] => {
                text.first() == Some(literal) && matches_naively(rest, &text[1..])
            }
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_a_naive_matcher_does(
            pattern in "([ab/\u{e9}?*]|\\\\[*?\\\\]){1,10}",
            texts in prop::collection::vec("[ab/\u{e9}*?\\\\]{0,10}", 1..8),
        ) {
            let glob = Glob::parse(pattern.clone());
            prop_assert_eq!(glob.fault(), None);
            let pattern: Vec<_> = pattern.chars().collect();
            for text in texts {
                let characters: Vec<_> = text.chars().collect();
                prop_assert_eq!(glob.matches(&text), matches_naively(&pattern, &characters), "{}", text);
            }
        }

        #[test]
        fn patterns_across_the_words_of_a_set_match(
            before in 0..254_usize,
            text in "[ab]{0,6}",
        ) {
            let (start, end) = ("x".repeat(before), "y".repeat(254 - before));
            let glob = Glob::parse(format!("{start}*{end}"));
            prop_assert_eq!(glob.fault(), None);
            let whole = format!("{}{}{}", start, text, end);
            prop_assert!(glob.matches(&whole));
            let (longer, before_it) = (format!("{}z", whole), format!("z{}", whole));
            prop_assert!(!glob.matches(&longer));
            prop_assert_eq!(glob.matches(&before_it), before == 0);
        }
    }

    /// Patterns for which matchers that go back take quadratic or exponential time.
    #[test]
    fn the_operations_are_proportional_to_the_length_of_the_text_whatever_the_pattern() {
        for pattern in [
            "a*".repeat(100) + "b",
            "*?".repeat(120),
            "*a?*a?*a?b".into(),
            "*a".repeat(127),
            "*".into(),
            "*b*".into(),
        ] {
            let glob = Glob::parse(pattern.clone());
            assert_eq!(glob.fault(), None, "{pattern}");
            let operations = |length: usize| {
                let before = OPERATIONS.get();
                glob.matches(&"a".repeat(length));
                OPERATIONS.get() - before
            };
            let (short, long) = (operations(1_000), operations(100_000));
            // Each character costs four operations on sets, and finding it a comparison.
            assert!(short >= 1_000, "{pattern}: {short}");
            assert!(short <= 8 * 1_000, "{pattern}: {short}");
            assert_eq!(long, 100 * short, "{pattern}");
        }
    }

    #[test]
    fn patterns_are_anchored_and_a_star_includes_separators() {
        for (pattern, matching, others) in [
            (
                "web-*",
                &["web-", "web-7d9c/x:y\n"][..],
                &["xweb-1", "web", "Web-1"][..],
            ),
            ("*", &["", "/"], &[]),
            (
                "a?c",
                &["abc", "a/c", "a\u{1f600}c"],
                &["ac", "abbc", "abcd"],
            ),
            (r"a\*\?\\", &[r"a*?\"], &[r"ab?\", r"a\*\?\\"]),
            (
                "repo:octo-org/*",
                &["repo:octo-org/web:pull_request"],
                &["repo:octo-org-evil/web"],
            ),
            ("**a**", &["a", "xax"], &["", "b"]),
            ("[ab].{1}", &["[ab].{1}"], &["a.1", "[ab]x{1}"]),
        ] {
            let glob = Glob::parse(pattern.to_owned());
            for text in matching {
                assert!(glob.matches(text), "{pattern} {text}");
            }
            for text in others {
                assert!(!glob.matches(text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn an_invalid_pattern_matches_nothing() {
        for pattern in ["", "\\", r"\a", r"a*\", &"*".repeat(256)] {
            let glob = Glob::parse(pattern.to_owned());
            assert!(
                glob.fault().is_some() && !glob.matches("") && !glob.matches("a"),
                "{pattern}"
            );
        }
    }
}
