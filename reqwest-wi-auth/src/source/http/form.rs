//! The body of a form, in memory that is wiped.

use std::fmt::Write as _;

use bytes::Bytes;
use zeroize::Zeroizing;

/// Encodes pairs as a form (`application/x-www-form-urlencoded`). Its memory is wiped when the last clone is dropped.
pub(crate) fn form_body<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Bytes {
    let pairs: Vec<_> = pairs.into_iter().collect();
    // Each byte takes up to three, so the memory is never moved, which would leave a copy.
    let length = |(name, value): &(&str, &str)| 3 * (name.len() + value.len()) + 2;
    let mut body = Zeroizing::new(String::with_capacity(pairs.iter().map(length).sum()));
    for (name, value) in pairs {
        if !body.is_empty() {
            body.push('&');
        }
        encode(name, &mut body);
        body.push('=');
        encode(value, &mut body);
    }
    Bytes::from_owner(Wiped(body))
}

/// Text that is wiped when it is dropped.
struct Wiped(Zeroizing<String>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn encode(text: &str, body: &mut String) {
    for byte in text.bytes() {
        match byte {
            b' ' => body.push('+'),
            b'*' | b'-' | b'.' | b'_' => body.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => body.push(char::from(byte)),
            // Writing to a String does not fail.
            _ => {
                let _ = write!(body, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded_as_a_url_encodes_its_query() {
        let pairs = [("a b", "ä&=+%/:~*-._"), ("", "x"), ("y", "")];
        let mut url = reqwest::Url::parse("https://a.example/").unwrap();
        url.query_pairs_mut().extend_pairs(pairs);
        let body = form_body(pairs);
        assert_eq!(body, url.query().unwrap().as_bytes());
    }
}
