//! The supported signature algorithms. All are asymmetric, so a public key can never be used as a shared secret.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A JWS signature algorithm (RFC 7518, section 3.1; RFC 8037 for `EdDSA`; RFC 9864 for `Ed25519`).
///
/// `none` and HMAC cannot be represented, so they cannot be allowed by mistake.
///
/// [`EdDSA`](Self::EdDSA) and [`Ed25519`](Self::Ed25519) are two names of one algorithm, because `EdDSA` is supported with
/// Ed25519 keys only. If the settings or a discovery document allow one of them, both are allowed, and a key with either as its
/// `alg` verifies tokens with both. `Ed448` is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RS256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512,
    /// RSASSA-PSS with SHA-256.
    PS256,
    /// RSASSA-PSS with SHA-384.
    PS384,
    /// RSASSA-PSS with SHA-512.
    PS512,
    /// ECDSA on P-256 with SHA-256.
    ES256,
    /// ECDSA on P-384 with SHA-384.
    ES384,
    /// ECDSA on P-521 with SHA-512.
    ES512,
    /// EdDSA with an Ed25519 key, as named by RFC 8037.
    EdDSA,
    /// EdDSA with an Ed25519 key, as named by RFC 9864, which deprecates `EdDSA`.
    Ed25519,
}

impl Algorithm {
    /// All algorithms.
    pub(crate) const ALL: [Self; 11] = [
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
        Self::Ed25519,
    ];

    /// Returns the algorithm with this JOSE name, or `None` if it is not supported.
    ///
    /// The name is case-sensitive (RFC 7515, section 4.1.1).
    ///
    /// ```
    /// # use tower_oidc_guard::Algorithm;
    /// assert_eq!(Algorithm::from_name("ES256"), Some(Algorithm::ES256));
    /// assert_eq!(Algorithm::from_name("none"), None);
    /// ```
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// Returns `EdDSA` for `Ed25519`, and any other algorithm unchanged.
    pub(crate) fn canonical(self) -> Self {
        match self {
            Self::Ed25519 => Self::EdDSA,
            other => other,
        }
    }

    /// Returns the JOSE name.
    ///
    /// ```
    /// # use tower_oidc_guard::Algorithm;
    /// assert_eq!(Algorithm::ES256.name(), "ES256");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
            Self::Ed25519 => "Ed25519",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of algorithms, with one bit for each. `EdDSA` and `Ed25519` have the same bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Algorithms(u16);

impl Algorithms {
    pub(crate) fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & Self::bit(algorithm) != 0
    }

    /// Returns the algorithms of the set. `EdDSA` stands for `Ed25519` as well.
    pub(crate) fn iter(self) -> impl Iterator<Item = Algorithm> {
        let all = Algorithm::ALL.into_iter();
        all.filter(move |algorithm| {
            self.contains(*algorithm) && algorithm.canonical() == *algorithm
        })
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(algorithm: Algorithm) -> u16 {
        1 << algorithm.canonical() as u16
    }
}

impl FromIterator<Algorithm> for Algorithms {
    fn from_iter<I: IntoIterator<Item = Algorithm>>(algorithms: I) -> Self {
        let bits = algorithms.into_iter().map(Self::bit);
        Self(bits.fold(0, |bits, bit| bits | bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_found_by_its_exact_name() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::from_name(&algorithm.name().to_lowercase()), None);
        }
    }

    #[test]
    fn symmetric_algorithms_and_none_are_not_supported() {
        for name in ["none", "HS256", "HS384", "HS512", "RSA-OAEP", "dir", ""] {
            assert_eq!(Algorithm::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_set_contains_the_algorithms_that_it_was_made_of() {
        let set: Algorithms = [Algorithm::RS256, Algorithm::EdDSA].into_iter().collect();
        let held: Vec<_> = Algorithm::ALL
            .into_iter()
            .filter(|a| set.contains(*a))
            .collect();
        assert_eq!(
            held,
            [Algorithm::RS256, Algorithm::EdDSA, Algorithm::Ed25519]
        );
        assert!(Algorithms::default().is_empty());
    }

    #[test]
    fn the_two_names_of_eddsa_are_one_algorithm_in_a_set() {
        let set = |algorithm| Algorithms::from_iter([algorithm]);
        assert_eq!(set(Algorithm::EdDSA), set(Algorithm::Ed25519));
        for name in ["Ed448", "ed25519", "EDDSA", "ESP256", "ED25519"] {
            assert_eq!(Algorithm::from_name(name), None, "{name}");
        }
    }
}
