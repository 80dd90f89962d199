//! The scopes of a token: the claims `scope` (RFC 8693, section 4.2) and `scp`.

use serde_json::value::RawValue;

use super::json;

/// The scopes of a token.
///
/// They are kept as one text, so that a token with thousands of scopes is not many times as large in memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Scopes(Option<Box<str>>);

impl Scopes {
    /// Reads the scopes in the values of `scope` and `scp`: each a text with the scopes separated by spaces, or an array of
    /// scopes. A value of another type, an array with an element of another type, and a text that cannot be a scope grant
    /// nothing.
    pub(crate) fn parse<'p>(claims: impl IntoIterator<Item = Option<&'p RawValue>>) -> Self {
        let mut all = String::new();
        for claim in claims.into_iter().flatten() {
            if let Ok(text) = json::parse_string(claim) {
                text.split(' ').for_each(|scope| push(&mut all, scope));
                continue;
            }
            let before = all.len();
            let mut are_texts = true;
            let read =
                json::for_each_element(claim.get(), |element| match json::parse_string(element) {
                    Ok(scope) => push(&mut all, &scope),
                    Err(_) => are_texts = false,
                });
            if read.is_err() || !are_texts {
                all.truncate(before);
            }
        }
        Self((!all.is_empty()).then(|| all.into_boxed_str()))
    }

    /// Returns each scope, in the order of the token.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|all| all.split(' '))
    }

    /// Returns the size of the text in bytes.
    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }
}

fn push(all: &mut String, scope: &str) {
    if scope_fault(scope).is_some() {
        return;
    }
    if !all.is_empty() {
        all.push(' ');
    }
    all.push_str(scope);
}

/// Returns why a text is not a scope (`scope-token`, RFC 6749, section 3.3), or `None` if it is one.
pub(crate) fn scope_fault(scope: &str) -> Option<&'static str> {
    let is_allowed = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    if scope.is_empty() {
        Some("it is empty")
    } else if scope.contains(' ') {
        Some("it contains a space, which separates scopes; require each scope by itself")
    } else if !scope.bytes().all(is_allowed) {
        Some(
            "a scope consists of printable ASCII characters except `\"` and `\\` (RFC 6749, section 3.3)",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(scope: Option<&str>, scp: Option<&str>) -> Vec<String> {
        let raw =
            |json: Option<&str>| json.map(|json| RawValue::from_string(json.to_owned()).unwrap());
        let (scope, scp) = (raw(scope), raw(scp));
        let scopes = Scopes::parse([scope.as_deref(), scp.as_deref()]);
        scopes.iter().map(str::to_owned).collect()
    }

    #[test]
    fn scopes_are_a_text_with_spaces_or_an_array_in_either_claim() {
        for json in [
            r#""a b.c""#,
            r#"["a","b.c"]"#,
            r#"" a  b.c ""#,
            r#"["\u0061","","b.c"]"#,
        ] {
            assert_eq!(scopes(Some(json), None), ["a", "b.c"], "{json}");
            assert_eq!(scopes(None, Some(json)), ["a", "b.c"], "{json}");
        }
        assert_eq!(scopes(Some(r#""a""#), Some(r#"["b"]"#)), ["a", "b"]);
    }

    #[test]
    fn anything_else_grants_nothing() {
        for json in [
            "null",
            "true",
            "1",
            "{}",
            r#"{"a":"a"}"#,
            "[]",
            r#""""#,
            r#"["a",1]"#,
            r#"[["a"]]"#,
            r#"["a",null]"#,
            // A scope has no space, and an element is never split.
            r#"["a b"]"#,
            // Only a space separates.
            r#""a\tb""#,
            r#""a\nb""#,
            r#""a\u00a0b""#,
            r#""\"a\"""#,
            r#""\\""#,
            r#""\u00e9""#,
            r#""a\u0000""#,
        ] {
            assert_eq!(scopes(Some(json), None), [""; 0], "{json}");
            assert_eq!(scopes(None, Some(json)), [""; 0], "{json}");
        }
        assert_eq!(scopes(Some(r#""a""#), Some(r#"["b",1]"#)), ["a"]);
    }
}
