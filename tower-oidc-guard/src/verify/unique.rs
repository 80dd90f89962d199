//! JSON objects of which each member may stand once only.

use std::borrow::Cow;
use std::collections::HashSet;

/// How many names are compared one by one before a set takes over.
const FEW: usize = 16;

/// Remembers the names met in one JSON object, to tell the second of a kind.
#[derive(Default)]
pub(super) struct Names<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Names<'de> {
    /// Whether this is the first member of that name.
    pub(super) fn first(&mut self, name: Cow<'de, str>) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < FEW {
            self.few.push(name);
            return true;
        }
        self.many.insert(name)
    }
}

/// A string that borrows from its input where no escape stands in the way.
#[derive(serde::Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_a_name_is_told_among_few_and_among_many() {
        for count in [1, FEW, FEW + 1, 200] {
            let mut names = Names::default();
            for i in 0..count {
                assert!(names.first(Cow::Owned(format!("n{i}"))));
            }
            for i in 0..count {
                assert!(!names.first(Cow::Owned(format!("n{i}"))), "{i} of {count}");
            }
        }
    }
}
