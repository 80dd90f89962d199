//! Public keys in PEM: `PUBLIC KEY` blocks (RFC 7468, section 13) and the keys of `CERTIFICATE` blocks (section 5).

use std::collections::HashSet;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Map, Value, json};
use spki::der::asn1::{ObjectIdentifier, UintRef};
use spki::der::{Decode as _, Encode as _, Reader as _, SliceReader};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};
use x509_cert::Certificate;

use super::jwk::{Jwk, UnusableKey};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const CURVES: [(ObjectIdentifier, &str); 3] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), "P-256"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), "P-384"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), "P-521"),
];

const BEGIN: &[u8] = b"-----BEGIN ";

/// Returns whether a text contains the first line of a PEM block. Text before it is allowed (RFC 7468, section 5.2).
pub(crate) fn is_pem(text: &[u8]) -> bool {
    labels(text).next().is_some()
}

/// Parses the public keys of a text. Repeated keys are returned once.
///
/// A single key has no `kid`, so it is used for every token. Several keys have the `kid` that Kubernetes gives its keys: the
/// SHA-256 of their DER encoding. Only the key of a certificate is used, and its validity and issuer are not checked, because
/// the key is trusted by being configured.
///
/// # Errors
///
/// Returns an error if the text contains a private key, a malformed block, or no block of a type that contains a public key.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Result<Jwk, UnusableKey>>, String> {
    let labels: Vec<_> = labels(text).collect();
    if let Some(private) = labels.iter().find(|label| label.contains("PRIVATE KEY")) {
        return Err(format!(
            "found a PEM block {private}, expected only public keys; extract the public key, for example with `openssl pkey -pubout`"
        ));
    }
    let is_read = |label: &&String| matches!(label.as_str(), "PUBLIC KEY" | "CERTIFICATE");
    let others = labels.iter().filter(|label| !is_read(label)).count();
    if others == labels.len() {
        let found = labels.first().map_or("nothing", String::as_str);
        return Err(format!(
            "expected a PEM block PUBLIC KEY or CERTIFICATE, found {found}"
        ));
    }
    let (mut ders, mut seen) = (Vec::new(), HashSet::new());
    for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = block.map_err(|_| "found a PEM block that is not well-formed")?;
        let der = match kind {
            SectionKind::PublicKey => der,
            SectionKind::Certificate => public_key(&der)?,
            _ => continue,
        };
        if seen.insert(der.clone()) {
            ders.push(der);
        }
    }
    let is_only = ders.len() == 1;
    let mut keys = Vec::with_capacity(ders.len() + others);
    for der in &ders {
        keys.push(match to_jwk(der)? {
            Ok(mut members) => {
                if !is_only {
                    let kid = URL_SAFE_NO_PAD.encode(digest(&SHA256, der));
                    members.insert("kid".to_owned(), kid.into());
                }
                Jwk::from_members(members)
            }
            Err(reason) => Err(reason.into()),
        });
    }
    let other = || Err("PEM block other than PUBLIC KEY and CERTIFICATE".into());
    keys.extend(std::iter::repeat_with(other).take(others));
    Ok(keys)
}

/// Returns the label of each block.
fn labels(text: &[u8]) -> impl Iterator<Item = String> {
    let lines = text.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.filter_map(|line| {
        let label = line.trim_ascii().strip_prefix(BEGIN)?;
        let label = label.strip_suffix(b"-----").unwrap_or(label);
        let label = label.get(..label.len().min(64))?;
        Some(String::from_utf8_lossy(label).into_owned())
    })
}

/// Returns the SubjectPublicKeyInfo of a certificate.
fn public_key(certificate: &[u8]) -> Result<Vec<u8>, &'static str> {
    let broken = |_: spki::der::Error| "found a CERTIFICATE that is not valid DER";
    let certificate = Certificate::from_der(certificate).map_err(broken)?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    key.to_der().map_err(broken)
}

/// Converts a public key in DER into the members of a JSON Web Key, or returns why the key cannot be used.
///
/// # Errors
///
/// Returns an error if the DER is malformed.
fn to_jwk(der: &[u8]) -> Result<Result<Map<String, Value>, &'static str>, &'static str> {
    const BROKEN: &str = "found a public key that is not valid DER";
    let key = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| BROKEN)?;
    let bits = key.subject_public_key.as_bytes().ok_or(BROKEN)?;
    let text = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    let key = match key.algorithm.oid {
        RSA => {
            let (n, e) = rsa_components(bits).map_err(|_| BROKEN)?;
            json!({ "kty": "RSA", "n": text(n.as_bytes()), "e": text(e.as_bytes()) })
        }
        EC => {
            let Some(curve) = curve(&key.algorithm) else {
                return Ok(Err("unsupported curve"));
            };
            // An uncompressed point (SEC 1, section 2.3.3). Whether its length is right is checked with the curve.
            let Some(point) = bits.strip_prefix(&[0x04]) else {
                return Ok(Err("compressed EC point"));
            };
            let (x, y) = point.split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
        }
        ED25519 => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(bits) }),
        _ => return Ok(Err("unsupported key type")),
    };
    match key {
        Value::Object(members) => Ok(Ok(members)),
        _ => Err(BROKEN),
    }
}

fn rsa_components(der: &[u8]) -> spki::der::Result<(UintRef<'_>, UintRef<'_>)> {
    let mut reader = SliceReader::new(der)?;
    let components = reader.sequence(|reader| {
        let (n, e) = (UintRef::decode(reader)?, UintRef::decode(reader)?);
        spki::der::Result::Ok((n, e))
    })?;
    reader.finish()?;
    Ok(components)
}

fn curve(algorithm: &AlgorithmIdentifierRef<'_>) -> Option<&'static str> {
    let named = algorithm.parameters_oid().ok();
    let found = CURVES.iter().find(|(oid, _)| Some(*oid) == named);
    found.map(|(_, name)| *name)
}

#[cfg(test)]
mod fuzz;
