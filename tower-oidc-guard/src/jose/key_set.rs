//! The keys of an issuer, and which of them may have made a signature.

use std::collections::{HashMap, HashSet};
use std::fmt;

use openidconnect::{JsonWebKey as _, JsonWebKeySet};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::algorithm::{Algorithm, Algorithms};
use super::error::SignatureError;
use super::jwk::{Jwk, UnusableKey};

/// The maximum number of keys that a signature is verified with if an issuer publishes several different keys with one `kid`.
pub(crate) const MAX_CANDIDATES: usize = 4;

/// The keys of an issuer and the algorithms that are allowed for them.
pub(crate) struct KeySet {
    keys: JsonWebKeySet<Jwk>,
    skipped: Vec<UnusableKey>,
    /// The indices of the keys with each `kid`.
    by_kid: HashMap<String, Vec<usize>>,
    without_kid: Vec<usize>,
    pub(crate) algorithms: Algorithms,
}

impl KeySet {
    /// Parses a JSON Web Key Set (RFC 7517, section 5). A key that cannot be used is skipped.
    ///
    /// # Errors
    ///
    /// Returns an error unless the text is one JSON object with one member `keys` that is an array.
    pub(crate) fn from_json(
        json: &[u8],
        algorithms: Algorithms,
    ) -> Result<Self, serde_json::Error> {
        let Document(keys) = serde_json::from_slice(json)?;
        let keys = keys.into_iter().map(|key| Jwk::from_json(key.get()));
        Ok(Self::new(keys.collect(), algorithms))
    }

    /// Creates a set of keys that are allowed for the given algorithms.
    pub(crate) fn new(published: Vec<Result<Jwk, UnusableKey>>, algorithms: Algorithms) -> Self {
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        let mut by_kid: HashMap<String, Vec<usize>> = HashMap::new();
        let mut without_kid = Vec::new();
        for key in published {
            let key = match key {
                Ok(key) => key,
                Err(unusable) => {
                    skipped.push(unusable);
                    continue;
                }
            };
            match key.kid() {
                Some(kid) => by_kid.entry(kid.to_owned()).or_default().push(keys.len()),
                None => without_kid.push(keys.len()),
            }
            keys.push(key);
        }
        Self {
            keys: JsonWebKeySet::new(keys),
            skipped,
            by_kid,
            without_kid,
            algorithms,
        }
    }

    /// Returns the number of keys, including those that are skipped.
    pub(crate) fn len(&self) -> usize {
        self.keys.keys().len() + self.skipped.len()
    }

    /// Returns the number of different usable keys. A key that is published twice with one `kid` counts once.
    pub(crate) fn usable(&self) -> usize {
        let groups = self.by_kid.values().chain([&self.without_kid]);
        groups.map(|group| self.different(group).count()).sum()
    }

    /// Returns the `kid` of each skipped key, if it has one, and the reason.
    pub(crate) fn skipped(&self) -> impl Iterator<Item = (Option<&str>, &'static str)> {
        let skipped = self.skipped.iter();
        skipped.map(|key| (key.kid.as_deref(), key.reason))
    }

    /// Returns each `kid` that several different keys for one algorithm share, and their number.
    pub(crate) fn shared_kids(&self) -> impl Iterator<Item = (&str, usize)> {
        let most = |group: &[usize]| {
            let supporting = |algorithm| {
                let keys = self.different(group);
                keys.filter(|key| key.supports(algorithm)).count()
            };
            Algorithm::ALL
                .into_iter()
                .map(supporting)
                .max()
                .unwrap_or(0)
        };
        let kids = self.by_kid.iter();
        kids.map(move |(kid, group)| (kid.as_str(), most(group)))
            .filter(|(_, count)| *count > 1)
    }

    /// Verifies a signature with the keys that may have made it:
    ///
    /// - the keys with that `kid`, at most [`MAX_CANDIDATES`];
    /// - if no key has that `kid`, the only key without a `kid`;
    /// - for a token without a `kid`, the only key that supports the algorithm.
    ///
    /// # Errors
    ///
    /// Returns an error if the algorithm is not allowed, no key matches, or no matching key verifies the signature.
    pub(crate) fn verify(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureError> {
        if !self.algorithms.contains(algorithm) {
            return Err(SignatureError::AlgorithmNotAllowed);
        }
        let candidates = self.candidates(kid, algorithm);
        let algorithm = algorithm.into();
        let mut error = SignatureError::UnknownKey;
        for key in candidates.into_iter().map_while(|key| key) {
            if key.verify_signature(&algorithm, message, signature).is_ok() {
                return Ok(());
            }
            error = SignatureError::BadSignature;
        }
        Err(error)
    }

    /// Returns the `kid` of each usable key, or `None` for one that has none, in the order of publication.
    pub(crate) fn kids(&self) -> impl Iterator<Item = Option<&str>> {
        self.keys.keys().iter().map(Jwk::kid)
    }

    /// Returns the keys that may have signed a token with that header.
    fn candidates(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> [Option<&Jwk>; MAX_CANDIDATES] {
        let with_kid = kid.and_then(|kid| self.by_kid.get(kid));
        match (kid, with_kid) {
            (_, Some(group)) => {
                first_different(self.group(group).filter(|key| key.supports(algorithm)))
            }
            (Some(_), None) => only_supporting(self.group(&self.without_kid), algorithm),
            (None, _) => only_supporting(self.keys.keys().iter(), algorithm),
        }
    }

    /// Returns the keys at these indices.
    fn group<'k>(&'k self, group: &'k [usize]) -> impl Iterator<Item = &'k Jwk> {
        group
            .iter()
            .filter_map(|&index| self.keys.keys().get(index))
    }

    /// Returns the keys of a group without the repeated ones.
    fn different<'k>(&'k self, group: &'k [usize]) -> impl Iterator<Item = &'k Jwk> {
        let mut seen = HashSet::new();
        let keys = self.group(group);
        keys.filter(move |key| seen.insert(key.fingerprint()))
    }
}

/// Returns the first keys that differ from each other, followed by `None`.
fn first_different<'k>(keys: impl Iterator<Item = &'k Jwk>) -> [Option<&'k Jwk>; MAX_CANDIDATES] {
    let mut found = [None; MAX_CANDIDATES];
    let mut count = 0;
    for key in keys {
        let Some(free) = found.get_mut(count) else {
            break;
        };
        *free = Some(key);
        let is_new = |known: &Option<&Jwk>| !known.is_some_and(|known| known.is_same_key(key));
        if found[..count].iter().all(is_new) {
            count += 1;
        } else {
            found[count] = None;
        }
    }
    found
}

/// Returns the only key that supports the algorithm, or none if several different ones do.
fn only_supporting<'k>(
    keys: impl Iterator<Item = &'k Jwk>,
    algorithm: Algorithm,
) -> [Option<&'k Jwk>; MAX_CANDIDATES] {
    let found = first_different(keys.filter(|key| key.supports(algorithm)));
    match found {
        [Some(_), None, ..] => found,
        _ => [None; MAX_CANDIDATES],
    }
}

/// The JSON text of each key of a set. A key that cannot be parsed must not affect the others.
struct Document<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Document<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON Web Key Set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document<'de>, A::Error> {
        let mut keys = None;
        while let Some(name) = map.next_key::<String>()? {
            if name != "keys" {
                map.next_value::<IgnoredAny>()?;
            } else if keys.replace(map.next_value()?).is_some() {
                return Err(A::Error::duplicate_field("keys"));
            }
        }
        keys.map(Document)
            .ok_or_else(|| A::Error::missing_field("keys"))
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::{Value, json};

    use super::*;

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        /// Returns the public key with additional members.
        fn jwk(&self, extra: Value) -> Value {
            let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
            let encode = |bytes| URL_SAFE_NO_PAD.encode(bytes);
            let mut jwk = json!({ "kty": "EC", "crv": "P-256", "x": encode(x), "y": encode(y) });
            for (name, value) in extra.as_object().unwrap() {
                jwk[name] = value.clone();
            }
            jwk
        }

        /// Verifies a signature of this key with a set.
        fn verify(&self, keys: &KeySet, kid: Option<&str>) -> Result<(), SignatureError> {
            let signature = self.0.sign(&SystemRandom::new(), b"message").unwrap();
            keys.verify(kid, Algorithm::ES256, b"message", signature.as_ref())
        }
    }

    fn read(json: &str) -> Result<KeySet, serde_json::Error> {
        KeySet::from_json(json.as_bytes(), [Algorithm::ES256].into_iter().collect())
    }

    fn set(keys: &[Value]) -> KeySet {
        read(&json!({ "keys": keys }).to_string()).unwrap()
    }

    #[test]
    fn equal_keys_with_one_kid_count_once() {
        let signer = Signer::new();
        let kid = Some("k");
        for extra in [
            json!({ "kid": "k" }),
            json!({ "kid": "k", "alg": "ES256" }),
            json!({ "kid": "k", "use": "sig", "key_ops": ["verify"] }),
            json!({ "kid": "k", "x5c": ["AAAA"], "unknown": { "a": [1] } }),
            json!({ "kid": "k", "use": "enc" }),
        ] {
            let keys = set(&[signer.jwk(json!({ "kid": "k" })), signer.jwk(extra.clone())]);
            assert_eq!(signer.verify(&keys, kid), Ok(()), "{extra}");
            assert_eq!(signer.verify(&keys, None), Ok(()), "{extra}");
            assert_eq!(
                (keys.usable(), keys.shared_kids().count()),
                (1, 0),
                "{extra}"
            );
        }
        let keys = set(&[signer.jwk(json!({})), signer.jwk(json!({}))]);
        assert_eq!(signer.verify(&keys, kid), Ok(()), "without a kid");
        assert_eq!(signer.verify(&keys, None), Ok(()), "without a kid");
    }

    #[test]
    fn an_rsa_key_with_leading_zeros_is_equal_to_the_key_without_them() {
        let n = [&[0xa5; 255][..], &[1]].concat();
        let key = |n: &[u8], alg: &str| {
            let n = URL_SAFE_NO_PAD.encode(n);
            json!({ "kty": "RSA", "kid": "k", "n": n, "e": "AQAB", "alg": alg })
        };
        let twice = set(&[key(&n, "RS256"), key(&[&[0][..], &n].concat(), "PS256")]);
        assert_eq!((twice.usable(), twice.skipped().count()), (1, 0));
    }

    #[test]
    fn different_keys_with_one_kid_are_tried_up_to_the_limit() {
        let signers: Vec<_> = (0..MAX_CANDIDATES + 1).map(|_| Signer::new()).collect();
        let mut keys = Vec::new();
        for signer in &signers {
            // Repeated keys do not count.
            keys.extend([
                signer.jwk(json!({ "kid": "k" })),
                signer.jwk(json!({ "kid": "k" })),
            ]);
        }
        let keys = set(&keys);
        let (last, first) = signers.split_last().unwrap();
        for signer in first {
            assert_eq!(signer.verify(&keys, Some("k")), Ok(()));
        }
        for beyond in [last, &Signer::new()] {
            let result = beyond.verify(&keys, Some("k"));
            assert_eq!(result, Err(SignatureError::BadSignature));
        }
        let shared: Vec<_> = keys.shared_kids().collect();
        assert_eq!(shared, [("k", MAX_CANDIDATES + 1)]);
    }

    #[test]
    fn a_token_without_a_kid_is_verified_with_the_only_key() {
        let (one, two) = (Signer::new(), Signer::new());
        for (first, second) in [("a", "b"), ("k", "k")] {
            let keys = set(&[
                one.jwk(json!({ "kid": first })),
                two.jwk(json!({ "kid": second })),
            ]);
            assert_eq!(one.verify(&keys, None), Err(SignatureError::UnknownKey));
        }
        let keys = set(&[one.jwk(json!({})), two.jwk(json!({}))]);
        assert_eq!(
            one.verify(&keys, Some("k")),
            Err(SignatureError::UnknownKey)
        );
    }

    #[test]
    fn a_key_set_is_an_object_with_one_array_of_keys() {
        for malformed in [
            "",
            "[]",
            "[[]]",
            "{}",
            r#"{"keys":null}"#,
            r#"{"keys":{}}"#,
            r#"{"keys":"k"}"#,
            r#"{"keys":[]"#,
            r#"{"keys":[]} {}"#,
            r#"{"keys":[]}x"#,
            r#"{"keys":[],"keys":[]}"#,
            r#"{"keys":[],"\u006beys":[]}"#,
        ] {
            assert!(read(malformed).is_err(), "{malformed}");
        }
        let padded = " {\"a\":{\"keys\":1},\"keys\":[],\"b\":[]}\n";
        assert_eq!(read(padded).unwrap().len(), 0);
    }

    #[test]
    fn a_key_that_cannot_be_parsed_does_not_affect_the_others() {
        let signer = Signer::new();
        let valid = signer.jwk(json!({ "kid": "k" })).to_string();
        let deep = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for unusable in [
            "null".to_owned(),
            "1".to_owned(),
            "\"k\"".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
            r#"{"kty":"RSA","kid":"\ud800"}"#.to_owned(),
            r#"{"kty":"RSA","kid":"a","kid":"b"}"#.to_owned(),
            r#"{"kty":"RSA","n":1e999}"#.to_owned(),
            format!(r#"{{"kty":"RSA","kid":"a","n":{}}}"#, deep(100_000)),
            deep(100_000),
        ] {
            let set = read(&format!(r#"{{"keys":[{unusable},{valid}]}}"#)).unwrap();
            assert_eq!(signer.verify(&set, Some("k")), Ok(()));
            assert_eq!((set.usable(), set.skipped().count()), (1, 1));
        }
    }

    #[test]
    fn a_member_that_is_not_used_may_have_any_value_but_not_be_repeated() {
        let signer = Signer::new();
        let members = signer.jwk(json!({ "kid": "k" })).to_string();
        let with = |extra: &str| {
            let members = members.strip_suffix('}').unwrap();
            read(&format!(r#"{{"keys":[{members},{extra}}}]}}"#)).unwrap()
        };
        let deep = format!(r#""x":{}{}"#, "[".repeat(1000), "]".repeat(1000));
        for extra in [&deep.replace("\"x\"", "\"ext\""), r#""x5c":[1,null]"#] {
            assert_eq!(signer.verify(&with(extra), Some("k")), Ok(()));
        }
        for extra in [r#""a":1,"a":1"#, r#""kid":"k""#] {
            assert_eq!(with(extra).usable(), 0, "{extra}");
        }
    }
}
