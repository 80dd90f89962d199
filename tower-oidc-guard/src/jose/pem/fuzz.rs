//! Fuzz targets for public keys in PEM.
//!
//! For each input:
//!
//! - The parser does not panic.
//! - A text with the label of a private key is refused, with an error that does not quote the text.
//! - There are at most as many keys as there are blocks, and one without a `kid` only if it is alone.
//! - aws-lc parses the DER encoding of each key that is used.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::engine::general_purpose::STANDARD;
use bolero::generator::produce;
use bolero::{TypeGenerator, check};

use super::*;
use crate::fuzz::ITERATIONS;
use crate::fuzz::edits::ByteEdit;
use crate::jose::algorithm::Algorithm;

fn block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

/// Parses a text and asserts everything that the module states.
fn check(text: &[u8]) {
    let parsed = parse(text);
    let is_private = labels(text).any(|label| label.contains("PRIVATE KEY"));
    let Ok(keys) = parsed else {
        let error = parsed.unwrap_err();
        assert!(error.len() < 300, "{error}");
        return;
    };
    assert!(!is_private, "a private key is accepted");
    assert!(is_pem(text));
    let blocks = text
        .windows(BEGIN.len())
        .filter(|window| *window == BEGIN)
        .count();
    assert!(
        keys.len() <= blocks,
        "{} keys in {blocks} blocks",
        keys.len()
    );
    let usable: Vec<_> = keys.iter().filter_map(|key| key.as_ref().ok()).collect();
    let without_kid = usable.iter().filter(|key| key.kid().is_none()).count();
    assert!(without_kid == 0 || usable.len() == 1);
    // The encodings of all blocks, as another implementation of PEM finds them.
    let ders: Vec<_> = <(SectionKind, Vec<u8>)>::pem_slice_iter(text)
        .filter_map(Result::ok)
        .collect();
    let accepted_by_aws_lc = |algorithm: &'static dyn signature::VerificationAlgorithm| {
        let is_key = |(_, der): &(SectionKind, Vec<u8>)| {
            let der = public_key(der).unwrap_or_else(|_| der.clone());
            signature::ParsedPublicKey::new(algorithm, &der).is_ok()
        };
        ders.iter().any(is_key)
    };
    for key in usable {
        if key.supports(Algorithm::ES256) {
            assert!(accepted_by_aws_lc(&signature::ECDSA_P256_SHA256_FIXED));
        }
        if key.supports(Algorithm::EdDSA) {
            assert!(accepted_by_aws_lc(&signature::ED25519));
        }
    }
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    blocks: [bool; 3],
    label: u8,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..3))]
    der: Vec<ByteEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..4))]
    text: Vec<ByteEdit>,
}

#[test]
fn edited_pem() {
    let es256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let ed25519 = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let der: PublicKeyX509Der<'_> = es256.public_key().as_der().unwrap();
    let es256 = der.as_ref().to_vec();
    let der: PublicKeyX509Der<'_> = ed25519.public_key().as_der().unwrap();
    let ed25519 = der.as_ref().to_vec();
    let labels = [
        "PUBLIC KEY",
        "CERTIFICATE",
        "PRIVATE KEY",
        "EC PRIVATE KEY",
        "RSA PUBLIC KEY",
        "X509 CRL",
    ];
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let label = labels[usize::from(recipe.label) % labels.len()];
            let edited = ByteEdit::apply_all(&recipe.der, es256.clone());
            let blocks = [
                block("PUBLIC KEY", &es256),
                block("PUBLIC KEY", &ed25519),
                block(label, &edited),
            ];
            let included = blocks
                .iter()
                .zip(recipe.blocks)
                .filter(|(_, is_included)| *is_included);
            let text: String = included.map(|(block, _)| block.as_str()).collect();
            check(&ByteEdit::apply_all(&recipe.text, text));
        });
}

#[test]
fn pem_bytes() {
    check!().with_iterations(ITERATIONS).for_each(check);
}
