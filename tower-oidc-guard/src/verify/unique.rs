//! JSON objects of which each member may stand once only.

use std::borrow::Cow;

/// More members than any sound header or claims set has. It keeps what is remembered of a refused token
/// within a fraction of the token's own size.
const MAX_MEMBERS: usize = 64;

/// Remembers the names met in one JSON object.
#[derive(Default)]
pub(super) struct Names<'de>(Vec<Cow<'de, str>>);

impl<'de> Names<'de> {
    /// Takes a member's name, or says what is wrong with it.
    pub(super) fn take(&mut self, name: Cow<'de, str>) -> Result<(), &'static str> {
        if self.0.contains(&name) {
            return Err("repeated member");
        }
        if self.0.len() == MAX_MEMBERS {
            return Err("too many members");
        }
        self.0.push(name);
        Ok(())
    }
}

/// A string that borrows from its input where no escape stands in the way.
#[derive(serde::Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(count: usize) -> Names<'static> {
        let mut names = Names::default();
        for i in 0..count {
            assert_eq!(names.take(Cow::Owned(format!("n{i}"))), Ok(()));
        }
        names
    }

    #[test]
    fn the_second_of_a_name_is_refused() {
        let mut names = taken(50);
        for i in 0..50 {
            assert!(names.take(Cow::Owned(format!("n{i}"))).is_err(), "{i}");
        }
    }

    #[test]
    fn no_more_members_are_taken_than_a_sound_token_has() {
        assert!(taken(MAX_MEMBERS).take("one more".into()).is_err());
    }
}
