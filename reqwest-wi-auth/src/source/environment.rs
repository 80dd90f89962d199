//! The environment variables that configure sources.

use std::fmt;
use std::sync::Arc;

/// Returns the value of a variable.
type VariableFn = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Returns the values of environment variables: those of the process, or of a function in tests.
#[derive(Clone)]
pub(crate) struct Environment(Arc<VariableFn>);

impl Environment {
    /// Creates an environment whose variables have the values that a function returns.
    pub(crate) fn new(variable: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(variable))
    }

    /// Returns the value of a variable without the white space around it, or `None` if it is not set, empty or not Unicode.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let value = (self.0)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// Returns the environment of the process.
impl Default for Environment {
    fn default() -> Self {
        Self::new(|name| std::env::var(name).ok())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secret.
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}

/// Returns a list of names for a message: `A`, `A and B`, or `A, B and C`.
pub(crate) fn name_list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_without_a_value_is_not_set() {
        let environment = Environment::new(|name| match name {
            "EMPTY" => Some(String::new()),
            "BLANK" => Some(" \n".to_owned()),
            "LINE" => Some("value\n".to_owned()),
            _ => None,
        });
        for name in ["EMPTY", "BLANK", "UNSET"] {
            assert_eq!(environment.get(name), None, "{name}");
        }
        assert_eq!(environment.get("LINE").as_deref(), Some("value"));
    }

    #[test]
    fn names_are_listed_in_a_sentence() {
        assert_eq!(name_list(&["A"]), "A");
        assert_eq!(name_list(&["A", "B"]), "A and B");
        assert_eq!(name_list(&["A", "B", "C"]), "A, B and C");
    }
}
