//! RSA public keys (RFC 7518, section 6.3.1), without those that are known to be weak.

use aws_lc_rs::signature::{
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents,
};

use super::algorithm::Algorithm;

/// Accepted sizes of the modulus in bits. A smaller one is too weak (RFC 7518, section 3.3); a larger one only costs time.
const MODULUS_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The maximum size of the exponent in bytes. 65537 has three; larger ones only cost time.
const MAX_EXPONENT_BYTES: usize = 4;

/// A validated modulus and exponent, big-endian, without leading zeros.
pub(crate) struct Components<'a> {
    n: &'a [u8],
    e: &'a [u8],
}

impl<'a> Components<'a> {
    /// Validates a modulus and an exponent, or returns why the key cannot be used.
    pub(crate) fn check(n: &'a [u8], e: &'a [u8]) -> Result<Self, &'static str> {
        let (n, e) = (without_leading_zeros(n), without_leading_zeros(e));
        if !MODULUS_BITS.contains(&bits(n)) {
            return Err("RSA modulus outside 2048 to 8192 bits");
        }
        if n.last().is_none_or(|low| low % 2 == 0) {
            return Err("even RSA modulus");
        }
        if e.len() > MAX_EXPONENT_BYTES || e.last().is_none_or(|low| low % 2 == 0) || e == [1] {
            return Err("RSA exponent that is not an odd number of at least 3 and at most 4 bytes");
        }
        if is_roca(n) {
            return Err("RSA modulus with the ROCA weakness (CVE-2017-15361)");
        }
        Ok(Self { n, e })
    }

    /// Returns the modulus.
    pub(crate) fn n(&self) -> &'a [u8] {
        self.n
    }

    /// Returns the exponent.
    pub(crate) fn e(&self) -> &'a [u8] {
        self.e
    }

    /// Creates a key that verifies signatures of an algorithm. Returns `None` if the algorithm is not an RSA one.
    pub(crate) fn parse(&self, algorithm: Algorithm) -> Option<ParsedPublicKey> {
        let components = RsaPublicKeyComponents {
            n: self.n,
            e: self.e,
        };
        components.to_parsed_public_key(parameters(algorithm)?).ok()
    }
}

fn parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|&&byte| byte == 0).count()..]
}

fn bits(number: &[u8]) -> usize {
    number
        .first()
        .map_or(0, |high| number.len() * 8 - high.leading_zeros() as usize)
}

/// The small primes of the fingerprint of Nemec et al., "The Return of Coppersmith's Attack" (2017).
const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Returns whether a modulus was made by the faulty library: it is then a power of 65537 modulo each of these primes. The
/// probability that this is true of another modulus is about 2^-27.
fn is_roca(n: &[u8]) -> bool {
    ROCA_PRIMES
        .iter()
        .all(|&prime| is_power_of_65537(remainder(n, prime), prime))
}

fn remainder(n: &[u8], prime: u32) -> u32 {
    n.iter()
        .fold(0, |rest, &byte| (rest * 256 + u32::from(byte)) % prime)
}

fn is_power_of_65537(value: u32, prime: u32) -> bool {
    let mut power = 1;
    loop {
        if power == value {
            return true;
        }
        power = power * (65537 % prime) % prime;
        if power <= 1 {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modulus(len: usize) -> Vec<u8> {
        let mut n = vec![0xa5; len];
        n[len - 1] = 0x01;
        n
    }

    #[test]
    fn a_modulus_has_2048_to_8192_bits() {
        for (len, is_accepted) in [
            (128, false),
            (255, false),
            (256, true),
            (512, true),
            (1024, true),
            (1025, false),
        ] {
            assert_eq!(
                Components::check(&modulus(len), &[1, 0, 1]).is_ok(),
                is_accepted,
                "{len} bytes"
            );
        }
        let mut zeros = vec![0; 300];
        zeros.extend(modulus(128));
        assert!(
            Components::check(&zeros, &[1, 0, 1]).is_err(),
            "zeros do not lengthen a key"
        );
    }

    #[test]
    fn an_exponent_is_odd_and_at_least_three() {
        let n = modulus(256);
        for (e, is_accepted) in [
            (&[][..], false),
            (&[0], false),
            (&[1], false),
            (&[2], false),
            (&[3], true),
            (&[1, 0, 1], true),
            (&[1, 0, 0], false),
            (&[1, 0, 0, 0, 1], false),
        ] {
            assert_eq!(Components::check(&n, e).is_ok(), is_accepted, "{e:?}");
        }
    }

    #[test]
    fn an_even_modulus_is_refused() {
        let mut n = modulus(256);
        n[255] = 2;
        assert!(Components::check(&n, &[1, 0, 1]).is_err());
    }

    #[test]
    fn a_modulus_with_the_roca_fingerprint_is_refused() {
        // 65537^128 has 2049 bits and is a power of 65537 modulo every prime.
        let mut n = vec![1_u8];
        for _ in 0..128 {
            let mut product = vec![0_u32; n.len() + 2];
            for (i, &digit) in n.iter().enumerate() {
                product[i] += u32::from(digit);
                product[i + 2] += u32::from(digit);
            }
            let mut carry = 0;
            n = product
                .iter()
                .map(|&sum| {
                    let all = sum + carry;
                    carry = all >> 8;
                    (all & 0xff) as u8
                })
                .collect();
            if carry > 0 {
                n.push(carry as u8);
            }
        }
        while n.last() == Some(&0) {
            n.pop();
        }
        n.reverse();
        assert!(bits(&n) >= 2048);
        assert_eq!(
            Components::check(&n, &[1, 0, 1]).err(),
            Some("RSA modulus with the ROCA weakness (CVE-2017-15361)")
        );
    }
}
