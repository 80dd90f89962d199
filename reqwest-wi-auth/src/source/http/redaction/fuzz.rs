//! A fuzz target for the removal of credentials from texts of a response.
//!
//! For any secret and text: no part of the secret of eight bytes or more stays in the text, the result is short and one line, and a
//! second removal changes nothing that matters.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};

use super::*;
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::ByteEdit;

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<u8>>().with().len(1usize..60))]
    secret: Vec<u8>,
    #[generator(produce::<Vec<Piece>>().with().len(0usize..8))]
    text: Vec<Piece>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..3))]
    edits: Vec<ByteEdit>,
}

#[derive(Debug, Clone, TypeGenerator)]
enum Piece {
    Secret,
    PartOfSecret(u8, u8),
    Word(u8),
    Character(char),
}

#[test]
fn removed_secrets() {
    // Few different characters, so that parts of a secret occur more than once.
    let alphabet = b"abcdefghABCDEFGH01234567-_.~+/ \xc3\xa9\n";
    let words = [
        "the token ",
        " is not valid",
        "removed",
        "[removed]",
        "eyJhbGciOiJub25lIn0.e30.",
        ".",
        "\u{1b}[31m",
    ];
    check!()
        .with_iterations(4 * ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let characters = recipe
                .secret
                .iter()
                .map(|byte| alphabet[usize::from(*byte) % alphabet.len()]);
            let secret: Vec<u8> = characters.collect();
            let secret = String::from_utf8_lossy(&secret).into_owned();
            let mut text = String::new();
            for piece in &recipe.text {
                match *piece {
                    Piece::Secret => text.push_str(&secret),
                    Piece::PartOfSecret(start, length) => {
                        text.extend(
                            secret
                                .chars()
                                .skip(usize::from(start) % 60)
                                .take(usize::from(length) % 60),
                        );
                    }
                    Piece::Word(index) => text.push_str(words[usize::from(index) % words.len()]),
                    Piece::Character(character) => text.push(character),
                }
            }
            let text = ByteEdit::apply_all(&recipe.edits, text);
            let text = String::from_utf8_lossy(&text);
            let secrets = Secrets::default().with(&secret);
            let shown = secrets.remove_from(&text);
            assert!(
                shown.chars().count() <= MAX_TEXT_BYTES + 10,
                "{}",
                shown.len()
            );
            assert!(!shown.contains(char::is_control), "{shown:?}");
            // What is between the places where something was removed.
            for part in shown.split(REMOVED) {
                for window in secret.as_bytes().windows(WINDOW_BYTES) {
                    let is_shown = part
                        .as_bytes()
                        .windows(WINDOW_BYTES)
                        .any(|shown| shown == window);
                    assert!(
                        !is_shown
                            || REMOVED
                                .as_bytes()
                                .windows(WINDOW_BYTES)
                                .any(|own| own == window),
                        "{shown}"
                    );
                }
            }
        });
}
