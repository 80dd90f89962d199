//! Parses the challenges of a response: the header `WWW-Authenticate` (RFC 9110, section 11.6.1).
//!
//! The values are text from a server. They are bounded here, and have to be escaped before they
//! are printed. The parser is not that of the crate `http-auth`, which rejects a whole header if one of its challenges has
//! a `token68`, as `Negotiate` does, or a character outside ASCII.

use super::redaction::without_tokens;
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// The largest part of the headers that is parsed, in bytes.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// The largest number of challenges that are parsed.
const MAX_CHALLENGES: usize = 16;
/// The largest length of a value, in characters. A longer one is cut.
const MAX_CHARACTERS: usize = 300;

/// The challenges of a response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Challenges {
    /// The first challenge with the scheme `Bearer`.
    pub bearer: Option<BearerChallenge>,
    /// The names of the other schemes.
    pub other_schemes: Vec<String>,
}

/// A challenge with the scheme `Bearer` (RFC 6750, section 3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BearerChallenge {
    /// The protected realm.
    pub realm: Option<String>,
    /// The error code, such as `invalid_token`. A server that found no token in the request sends none.
    pub error: Option<String>,
    /// The error in words.
    pub error_description: Option<String>,
    /// The scopes that the token needs, separated by spaces.
    pub scope: Option<String>,
}

impl Challenges {
    /// Parses the challenges in a response's headers. What does not conform to the grammar is skipped.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut challenges = Self::default();
        let (mut bytes, mut count) = (MAX_HEADER_BYTES, 0);
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let value = &value.as_bytes()[..value.len().min(bytes)];
            bytes -= value.len();
            let value = String::from_utf8_lossy(value);
            let value = without_tokens(&value);
            for (scheme, parameters) in parse(&value) {
                count += 1;
                if count > MAX_CHALLENGES {
                    return challenges;
                }
                if !scheme.eq_ignore_ascii_case("bearer") {
                    challenges.other_schemes.push(bounded(scheme));
                } else if challenges.bearer.is_none() {
                    challenges.bearer = Some(BearerChallenge::new(&parameters));
                }
            }
        }
        challenges
    }
}

impl BearerChallenge {
    fn new(parameters: &[(&str, String)]) -> Self {
        let parameter = |name: &str| {
            let mut found = parameters.iter();
            let found = found.find(|(other, _)| other.eq_ignore_ascii_case(name));
            found
                .map(|(_, value)| bounded(value.trim()))
                .filter(|value| !value.is_empty())
        };
        Self {
            realm: parameter("realm"),
            error: parameter("error"),
            error_description: parameter("error_description"),
            scope: parameter("scope"),
        }
    }
}

/// Returns text from a server with at most 300 characters, and an ellipsis if it was longer.
pub(crate) fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A challenge: the name of its scheme, and its parameters.
type Parsed<'h> = (&'h str, Vec<(&'h str, String)>);

/// Parses a list of challenges, up to the first character that does not conform to the grammar.
fn parse(header: &str) -> Vec<Parsed<'_>> {
    let mut input = Input(header);
    let mut challenges: Vec<Parsed<'_>> = Vec::new();
    loop {
        input.skip(|character| matches!(character, ' ' | '\t' | ','));
        let name = input.take(is_token_character);
        if name.is_empty() {
            return challenges;
        }
        let had_space = input.skip_spaces();
        if input.0.starts_with('=')
            && let Some((_, parameters)) = challenges.last_mut()
        {
            input.skip_first();
            input.skip_spaces();
            match input.value() {
                Some(value) => parameters.push((name, value)),
                None => return challenges,
            }
            continue;
        }
        challenges.push((name, Vec::new()));
        if had_space {
            input.skip_token68();
        }
    }
}

/// The part of a header that has not been parsed yet.
struct Input<'h>(&'h str);

impl<'h> Input<'h> {
    fn take(&mut self, is_included: impl Fn(char) -> bool) -> &'h str {
        let end = self.0.find(|character| !is_included(character));
        let (taken, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        taken
    }

    fn skip(&mut self, is_skipped: impl Fn(char) -> bool) {
        self.0 = self.0.trim_start_matches(is_skipped);
    }

    /// Skips white space, and returns whether there was any.
    fn skip_spaces(&mut self) -> bool {
        !self
            .take(|character| matches!(character, ' ' | '\t'))
            .is_empty()
    }

    fn skip_first(&mut self) {
        let mut characters = self.0.chars();
        characters.next();
        self.0 = characters.as_str();
    }

    /// Skips the credentials-like value that some schemes have instead of parameters. It ends at a comma or at the end of
    /// the header, and its padding distinguishes it from a parameter, which has a value after its equals sign.
    fn skip_token68(&mut self) {
        let length = self.0.find([',', ' ', '\t']).unwrap_or(self.0.len());
        let word = &self.0[..length];
        let unpadded = word.trim_end_matches('=');
        let is_token68 = !unpadded.is_empty()
            && unpadded
                .chars()
                .all(|character| character.is_ascii_alphanumeric() || "-._~+/".contains(character));
        let rest = self.0[length..].trim_start_matches([' ', '\t']);
        let is_last = rest.is_empty() || rest.starts_with(',');
        if is_token68 && is_last {
            self.0 = rest;
        }
    }

    /// Parses the value of a parameter: a token or a quoted string. Returns `None` if it is neither.
    fn value(&mut self) -> Option<String> {
        if !self.0.starts_with('"') {
            let token = self.take(is_token_character);
            return (!token.is_empty()).then(|| token.to_owned());
        }
        let mut value = String::new();
        let mut characters = self.0.chars();
        characters.next();
        while let Some(character) = characters.next() {
            match character {
                '"' => {
                    self.0 = characters.as_str();
                    return Some(value);
                }
                '\\' => value.extend(characters.next()),
                other => value.push(other),
            }
        }
        // The closing quote is missing, perhaps because the header was cut.
        self.0 = "";
        Some(value)
    }
}

fn is_token_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(headers: &[&str]) -> Challenges {
        let mut map = HeaderMap::new();
        for header in headers {
            let value = http::HeaderValue::from_bytes(header.as_bytes()).unwrap();
            map.append(WWW_AUTHENTICATE, value);
        }
        Challenges::from_headers(&map)
    }

    fn bearer(error: Option<&str>, description: Option<&str>) -> Option<BearerChallenge> {
        Some(BearerChallenge {
            realm: None,
            error: error.map(str::to_owned),
            error_description: description.map(str::to_owned),
            scope: None,
        })
    }

    #[test]
    fn error_and_description_are_found_in_each_form_of_the_header() {
        let expected = bearer(Some("invalid_token"), Some("it, \"expired\" = \\"));
        let quoted = r#"error_description="it, \"expired\" = \\""#;
        for headers in [
            &[&*format!("Bearer error=\"invalid_token\", {quoted}")][..],
            &[&format!("bearer {quoted},error=invalid_token")],
            &[&format!("BEARER ERROR = \"invalid_token\" ,, {quoted} ,")],
            &[&format!(
                "Basic realm=\"a, b\", Bearer error=invalid_token, {quoted}"
            )],
            &[&format!(
                "Negotiate, Bearer error=invalid_token, {quoted}, Basic realm=x"
            )],
            &[&format!(
                "Negotiate YIIabc/+==, Bearer error=invalid_token, {quoted}"
            )],
            &[&format!(
                "Negotiate YIIabc, Bearer error=invalid_token, {quoted}"
            )],
            &[
                "Basic realm=x",
                &format!("Bearer error=invalid_token, {quoted}"),
            ],
            &[
                &format!("Bearer error=invalid_token, error=other, {quoted}"),
                "Bearer error=third",
            ],
            &[&format!("Bearer error=invalid_token, {quoted}, broken=, x")],
        ] {
            assert_eq!(challenges(headers).bearer, expected, "{headers:?}");
        }
    }

    #[test]
    fn a_challenge_may_have_no_parameters_and_other_schemes_are_named() {
        let found = challenges(&["Bearer, Basic realm=\"Bearer\", Negotiate"]);
        assert_eq!(found.bearer, bearer(None, None));
        assert_eq!(found.other_schemes, ["Basic", "Negotiate"]);
        assert_eq!(challenges(&["Basic realm=x"]).bearer, None);
        assert_eq!(challenges(&[]), Challenges::default());
        let found = challenges(&["Bearer realm=\"gate\", error=\"\""]);
        assert_eq!(found.bearer.unwrap().realm.as_deref(), Some("gate"));
    }

    #[test]
    fn characters_outside_ascii_and_missing_quotes_are_tolerated() {
        let found = challenges(&["Bearer error_description=\"für é"]);
        assert_eq!(found.bearer, bearer(None, Some("für é")));
        for broken in [
            "=",
            "\"",
            "Bearer =",
            "Bearer error=\"\\",
            "a b c",
            "\\",
            "é",
        ] {
            challenges(&[broken]);
        }
    }

    #[test]
    fn length_and_number_are_bounded() {
        let long = format!("Bearer error_description=\"{}\"", "é".repeat(1000));
        let description = challenges(&[&long]).bearer.unwrap().error_description;
        assert_eq!(description.unwrap().chars().count(), MAX_CHARACTERS + 1);
        let many = "Basic, ".repeat(1000);
        assert_eq!(challenges(&[&many]).other_schemes.len(), MAX_CHALLENGES);
        let huge = format!("Bearer error_description=\"{}", "a".repeat(100_000));
        assert!(challenges(&[&huge, "Basic"]).other_schemes.is_empty());
    }
}
