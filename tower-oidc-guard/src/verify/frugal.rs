//! What it costs to read a token's claims, found out before they are read.
//!
//! Texts without escapes are borrowed, so reading costs little beyond the payload itself. Texts with escapes
//! are copied, and nested values are kept track of: a payload made of those could cost a multiple of its size.

/// What may be held for a token that is refused: the longest token, less what is held beside its payload
/// (the names of its members, its audiences, its `kid` and `typ`).
const BUDGET: usize = 16 * 1024 - 5 * 1024;

/// So many times its length is held of a text with escapes: once as scratch, with room to grow, and once as a
/// copy.
const COPIES: usize = 3;

/// Whether reading the payload keeps within the budget.
pub(super) fn is_cheap_to_read(payload: &[u8]) -> bool {
    let left = BUDGET.saturating_sub(payload.len()) / COPIES;
    payload.len() <= left || costly_bytes(payload) <= left
}

/// Bytes of texts with escapes, and the deepest nesting.
fn costly_bytes(payload: &[u8]) -> usize {
    let (mut escaped, mut depth, mut deepest) = (0, 0_usize, 0);
    let mut text: Option<Text> = None;
    for &byte in payload {
        match (&mut text, byte) {
            (None, b'"') => text = Some(Text::default()),
            (None, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, b']' | b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
            (Some(inside), _) => {
                inside.length += 1;
                if std::mem::take(&mut inside.after_escape) {
                    continue;
                }
                match byte {
                    b'\\' => (inside.escaped, inside.after_escape) = (true, true),
                    b'"' => {
                        escaped += if inside.escaped { inside.length } else { 0 };
                        text = None;
                    }
                    _ => {}
                }
            }
        }
    }
    escaped + deepest
}

/// A text that is being read.
#[derive(Default)]
struct Text {
    length: usize,
    escaped: bool,
    after_escape: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_escapes_and_deep_nesting_are_what_costs() {
        assert_eq!(costly_bytes(br#"{"a":"bcd"}"#), 1);
        assert_eq!(costly_bytes(br#"{"a":"b\"d"}"#), 1 + 5);
        assert_eq!(costly_bytes(br#"{"a\\":[[{}]]}"#), 4 + 4);
        assert_eq!(costly_bytes(br#"[["]]\n"#), 2);
    }

    #[test]
    fn a_short_payload_may_be_anything_and_a_long_one_may_not() {
        assert!(is_cheap_to_read(&[b'['; 2000]));
        assert!(!is_cheap_to_read(&[b'['; 8000]));
        let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(11_000));
        assert!(is_cheap_to_read(long.as_bytes()));
        let escaped = format!(r#"{{"x":"\n{}"}}"#, "y".repeat(11_000));
        assert!(!is_cheap_to_read(escaped.as_bytes()));
    }
}
