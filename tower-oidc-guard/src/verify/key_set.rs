//! The usable keys of one issuer, found by `kid`.

use std::collections::HashMap;

use openidconnect::{JsonWebKey as _, JsonWebKeySet};

use super::algorithm::{Algorithm, Algorithms};
use super::jwk::{Jwk, SigningAlgorithm};
use crate::rejection::Rejection;

/// Keys as an issuer published them, and the algorithms it is trusted for.
pub(crate) struct KeySet {
    keys: JsonWebKeySet<Jwk>,
    by_kid: HashMap<String, Vec<usize>>,
    without_kid: Vec<usize>,
    pub(crate) algorithms: Algorithms,
}

/// What a token's `kid` and `alg` come to in a key set.
pub(crate) enum Selection<'k> {
    /// This key, and no other, can have signed the token.
    Key(&'k Jwk),
    /// The set has keys of that name, and none or several fit: a newer set would hardly help.
    Unfit,
    /// The set has no such key: a newer one may.
    Absent,
}

impl KeySet {
    /// Reads a set; a key that cannot be used is passed over.
    pub(crate) fn from_json(
        json: &[u8],
        algorithms: Algorithms,
    ) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(|keys| Self::new(keys, algorithms))
    }

    pub(crate) fn new(keys: JsonWebKeySet<Jwk>, algorithms: Algorithms) -> Self {
        let mut by_kid: HashMap<String, Vec<usize>> = HashMap::new();
        let mut without_kid = Vec::new();
        for (index, key) in keys
            .keys()
            .iter()
            .enumerate()
            .filter(|(_, key)| key.unusable().is_none())
        {
            match key.kid() {
                Some(kid) => by_kid.entry(kid.to_owned()).or_default().push(index),
                None => without_kid.push(index),
            }
        }
        Self {
            keys,
            by_kid,
            without_kid,
            algorithms,
        }
    }

    /// How many keys there are, usable or not.
    pub(crate) fn len(&self) -> usize {
        self.keys.keys().len()
    }

    /// How many keys can verify something.
    pub(crate) fn usable(&self) -> usize {
        self.keys
            .keys()
            .iter()
            .filter(|key| key.unusable().is_none())
            .count()
    }

    /// The keys that are passed over, and why.
    pub(crate) fn passed_over(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.keys.keys().iter().filter_map(Jwk::unusable)
    }

    /// The one key that can have signed a token of that header.
    pub(crate) fn select(&self, kid: Option<&str>, algorithm: Algorithm) -> Selection<'_> {
        let named = kid.and_then(|kid| self.by_kid.get(kid));
        let mut fitting = match (kid, named) {
            (_, Some(named)) => self.fitting(named, algorithm),
            (Some(_), None) => self.fitting(&self.without_kid, algorithm),
            (None, _) => {
                let all = self.keys.keys().iter().filter(|key| key.fits(algorithm));
                return one_of(all, false);
            }
        };
        one_of(&mut fitting, named.is_some())
    }

    fn fitting<'k>(
        &'k self,
        indices: &'k [usize],
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'k Jwk> {
        let keys = indices
            .iter()
            .filter_map(|&index| self.keys.keys().get(index));
        keys.filter(move |key| key.fits(algorithm))
    }

    /// Verifies a signature with that key and nothing else.
    pub(crate) fn verify(
        key: &Jwk,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), Rejection> {
        key.verify_signature(&SigningAlgorithm(algorithm), message, signature)
            .map_err(|_| Rejection::BadSignature)
    }
}

fn one_of<'k>(mut keys: impl Iterator<Item = &'k Jwk>, named: bool) -> Selection<'k> {
    match (keys.next(), keys.next()) {
        (Some(key), None) => Selection::Key(key),
        (None, None) if !named => Selection::Absent,
        _ => Selection::Unfit,
    }
}
