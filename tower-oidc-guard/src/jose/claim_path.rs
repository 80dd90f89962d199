//! Names of claims: the name of a top-level claim, or a JSON pointer to a nested one (RFC 6901).

use super::json;

/// The most parts of a pointer. Each part reads the value that it is in once.
const MAX_PARTS: usize = 32;

/// The name of a claim.
///
/// A name that begins with `/` is a JSON pointer, whose parts are separated by `/`; in a part, `~1` stands for `/` and `~0` for
/// `~`. Any other name is that of a top-level claim, whatever characters it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClaimPath {
    text: String,
    /// The name of the top-level claim.
    top: String,
    /// The parts of the pointer after it.
    rest: Vec<String>,
}

impl ClaimPath {
    /// Parses a name. An invalid one has a [`fault`](Self::fault).
    pub(crate) fn parse(text: impl Into<String>) -> Self {
        let text = text.into();
        let Some(pointer) = text.strip_prefix('/') else {
            return Self {
                top: text.clone(),
                text,
                rest: Vec::new(),
            };
        };
        // `~1` first: `~01` is `~1`, and not `/`.
        let mut parts = pointer
            .split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"));
        Self {
            top: parts.next().unwrap_or_default(),
            rest: parts.collect(),
            text,
        }
    }

    /// Returns why no claim can have this name, or `None` if one can.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        if self.text.is_empty() {
            return Some("its name is empty");
        }
        let pointer = self.text.strip_prefix('/')?;
        let mut after_tildes = pointer.split('~').skip(1);
        if after_tildes.any(|rest| !rest.starts_with(['0', '1'])) {
            return Some(
                "a name that begins with `/` is a JSON pointer, in which `~` is written `~0` and `/` in the name of a member `~1`",
            );
        }
        if self.rest.len() >= MAX_PARTS {
            return Some("the JSON pointer has more than 32 parts");
        }
        None
    }

    /// Returns the name as written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the claim is not nested.
    pub(super) fn is_top_level(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the name of the top-level claim that the value is in.
    pub(super) fn top(&self) -> &str {
        &self.top
    }

    /// Returns the JSON text of the value, given that of the top-level claim, or `None` if there is no such value.
    pub(super) fn resolve<'p>(&self, top: &'p str) -> Option<&'p str> {
        let mut parts = self.rest.iter();
        parts.try_fold(top, |json, part| member(json, part))
    }
}

/// Returns a member of an object, or an element of an array.
///
/// A member whose name occurs more than once is none: other readers of the token may use the first one or the last.
fn member<'p>(json: &'p str, part: &str) -> Option<&'p str> {
    let mut found = None;
    match json.as_bytes().first()? {
        b'{' => {
            let mut is_repeated = false;
            let read = json::for_each_member(json, |name, value| {
                if name == part {
                    is_repeated = found.replace(value.get()).is_some();
                }
            });
            read.ok().filter(|()| !is_repeated)?;
        }
        b'[' => {
            let (index, mut next) = (index(part)?, 0);
            let read = json::for_each_element(json, |element| {
                if next == index {
                    found = Some(element.get());
                }
                next += 1;
            });
            read.ok()?;
        }
        _ => {}
    }
    found
}

/// Returns the index of an array's element: digits without leading zeros (RFC 6901, section 4). `-` is the element after the
/// last one, which does not exist.
fn index(part: &str) -> Option<usize> {
    let is_index =
        part == "0" || !part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit());
    part.parse().ok().filter(|_| is_index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Returns what a name refers to in the claims.
    fn find(claims: &str, name: &str) -> Option<String> {
        let path = ClaimPath::parse(name);
        let mut found = None;
        json::for_each_member(claims, |name, value| {
            if name == path.top() {
                found = path.resolve(value.get()).map(str::to_owned);
            }
        })
        .unwrap();
        found
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a~/\"\u{e9}]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any_name(), inner, 0..4)
                    .prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof!["[ab~/]{0,2}", "[0-2]{1,2}", Just("-".to_owned())]
    }

    /// Returns the pointers to all values in an object.
    fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
        let parts: Vec<_> = match value {
            Value::Object(map) => map
                .iter()
                .map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value))
                .collect(),
            Value::Array(list) => list
                .iter()
                .enumerate()
                .map(|(index, value)| (index.to_string(), value))
                .collect(),
            _ => Vec::new(),
        };
        for (part, value) in parts {
            let pointer = format!("{at}/{part}");
            pointers(value, &pointer, all);
            all.push(pointer);
        }
    }

    proptest! {
        #[test]
        fn pointers_refer_to_the_same_values_as_those_of_serde_json(
            claims in prop::collection::btree_map(any_name(), any_json(), 0..5),
            others in prop::collection::vec("(/([ab0-2-]|~0|~1){0,2}){1,4}", 0..8),
        ) {
            let claims: Value = claims.into_iter().collect();
            let text = claims.to_string();
            let mut all = others;
            pointers(&claims, "", &mut all);
            for pointer in all {
                prop_assert_eq!(ClaimPath::parse(pointer.as_str()).fault(), None);
                let expected = claims.pointer(&pointer).map(Value::to_string);
                prop_assert_eq!(find(&text, &pointer), expected, "{}", pointer);
            }
        }
    }

    #[test]
    fn names_that_do_not_begin_with_a_slash_are_top_level_claims() {
        let claims = r#"{"https://a.example/b":1,"a/b":2,"~2":3,"a":{"b":4},"/c":5,"":{"":6}}"#;
        for (name, found) in [
            ("https://a.example/b", Some("1")),
            ("a/b", Some("2")),
            ("~2", Some("3")),
            ("/a/b", Some("4")),
            ("/https:~1~1a.example~1b", Some("1")),
            ("/~1c", Some("5")),
            ("/c", None),
            ("//", Some("6")),
            ("/", Some(r#"{"":6}"#)),
            ("/a", Some(r#"{"b":4}"#)),
            ("/a/b/", None),
            ("/a/", None),
        ] {
            assert_eq!(find(claims, name).as_deref(), found, "{name}");
        }
    }

    #[test]
    fn indices_have_no_sign_and_no_leading_zeros() {
        let claims = r#"{"a":[10,[20]],"o":{"01":1,"-":2}}"#;
        for (name, found) in [
            ("/a/0", Some("10")),
            ("/a/1/0", Some("20")),
            ("/a/2", None),
            ("/a/00", None),
            ("/a/01", None),
            ("/a/+1", None),
            ("/a/-", None),
            ("/a/-1", None),
            ("/a/", None),
            ("/a/18446744073709551616", None),
            ("/o/01", Some("1")),
            ("/o/-", Some("2")),
        ] {
            assert_eq!(find(claims, name).as_deref(), found, "{name}");
        }
    }

    #[test]
    fn a_member_that_occurs_more_than_once_is_not_found() {
        for claims in [
            r#"{"a":{"b":{"c":1},"b":{"c":1}}}"#,
            r#"{"a":{"b":{"c":2},"x":0,"\u0062":{"c":1}}}"#,
            r#"{"a":{"b":{"c":1,"c":2}}}"#,
            r#"{"a":{"b":{"c":1,"c":2,"c":1}}}"#,
        ] {
            assert_eq!(find(claims, "/a/b/c"), None, "{claims}");
        }
        let others = r#"{"a":{"x":1,"b":{"c":1},"x":2}}"#;
        assert_eq!(find(others, "/a/b/c").as_deref(), Some("1"));
    }

    #[test]
    fn invalid_pointers_are_faults() {
        for name in ["", "/a~", "/a~2", "/~", "/a/~/b", &"/a".repeat(33)] {
            assert!(ClaimPath::parse(name).fault().is_some(), "{name}");
        }
        for name in ["/~0", "/~01", "/", "a~2", "~", &"/a".repeat(32)] {
            assert_eq!(ClaimPath::parse(name).fault(), None, "{name}");
        }
    }
}
