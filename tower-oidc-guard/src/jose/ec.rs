//! Elliptic-curve public keys: ECDSA (RFC 7518, section 6.2.1) and Ed25519 (RFC 8037, section 2).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, VerificationAlgorithm,
};

use super::algorithm::Algorithm;

/// An ECDSA curve and the algorithm that uses it.
pub(crate) struct Curve {
    pub(crate) algorithm: Algorithm,
    coordinate_bytes: usize,
    verification: &'static dyn VerificationAlgorithm,
}

impl Curve {
    /// Returns the curve with this name, or `None` if it is not supported.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "P-256" => Self {
                algorithm: Algorithm::ES256,
                coordinate_bytes: 32,
                verification: &ECDSA_P256_SHA256_FIXED,
            },
            "P-384" => Self {
                algorithm: Algorithm::ES384,
                coordinate_bytes: 48,
                verification: &ECDSA_P384_SHA384_FIXED,
            },
            "P-521" => Self {
                algorithm: Algorithm::ES512,
                coordinate_bytes: 66,
                verification: &ECDSA_P521_SHA512_FIXED,
            },
            _ => return None,
        })
    }

    /// Creates the key of a point on the curve. Each coordinate must have the full length (RFC 7518, section 6.2.1.2).
    pub(crate) fn parse(&self, x: &[u8], y: &[u8]) -> Result<ParsedPublicKey, &'static str> {
        if x.len() != self.coordinate_bytes || y.len() != self.coordinate_bytes {
            return Err("EC coordinate of the wrong length");
        }
        let mut point = Vec::with_capacity(1 + 2 * self.coordinate_bytes);
        point.push(0x04);
        point.extend_from_slice(x);
        point.extend_from_slice(y);
        ParsedPublicKey::new(self.verification, point)
            .map_err(|_| "EC point that is not on its curve")
    }
}

/// Creates an Ed25519 key from its 32 bytes.
pub(crate) fn parse_ed25519(x: &[u8]) -> Result<ParsedPublicKey, &'static str> {
    ParsedPublicKey::new(&ED25519, x).map_err(|_| "invalid Ed25519 key")
}
