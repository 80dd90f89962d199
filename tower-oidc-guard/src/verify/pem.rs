//! Public keys in PEM (RFC 7468, section 13), as a JSON Web Key Set.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use spki::der::asn1::{ObjectIdentifier, UintRef};
use spki::der::{Decode as _, Reader as _, SliceReader};
use spki::{AlgorithmIdentifierRef, SubjectPublicKeyInfoRef};

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const CURVES: [(ObjectIdentifier, &str); 3] = [
    (ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7"), "P-256"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.34"), "P-384"),
    (ObjectIdentifier::new_unwrap("1.3.132.0.35"), "P-521"),
];

/// Whether this is PEM rather than JSON.
pub(crate) fn is_pem(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"-----BEGIN")
}

/// The `PUBLIC KEY`s of a text as a key set. One key has no `kid`, and so fits any; several are named as
/// Kubernetes names its keys, by the SHA-256 of their DER form.
pub(crate) fn to_jwks(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    let ders: Result<Vec<_>, _> = SubjectPublicKeyInfoDer::pem_slice_iter(text).collect();
    let ders = ders.map_err(|_| "a PEM block that is not one")?;
    let is_only = ders.len() == 1;
    let keys: Result<Vec<Value>, &'static str> = ders
        .iter()
        .map(|der| {
            let mut key = to_jwk(der.as_ref())?;
            if !is_only {
                key["kid"] = URL_SAFE_NO_PAD.encode(digest(&SHA256, der.as_ref())).into();
            }
            Ok::<_, &'static str>(key)
        })
        .collect();
    match keys? {
        keys if keys.is_empty() => Err("no PUBLIC KEY in the PEM text"),
        keys => Ok(json!({ "keys": keys }).to_string().into()),
    }
}

fn to_jwk(der: &[u8]) -> Result<Value, &'static str> {
    let broken = |_: spki::der::Error| "a public key that is not sound DER";
    let key = SubjectPublicKeyInfoRef::from_der(der).map_err(broken)?;
    let bits = key.subject_public_key.as_bytes();
    let bits = bits.ok_or("a public key that is not sound DER")?;
    let text = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
    Ok(match key.algorithm.oid {
        RSA => {
            let (n, e) = rsa_components(bits).map_err(broken)?;
            json!({ "kty": "RSA", "n": text(n.as_bytes()), "e": text(e.as_bytes()) })
        }
        EC => {
            // An uncompressed point (SEC 1, section 2.3.3); which length is right is seen later.
            let point = bits.strip_prefix(&[0x04]).ok_or("a compressed EC point")?;
            let (x, y) = point.split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve(&key.algorithm)?, "x": text(x), "y": text(y) })
        }
        ED25519 => json!({ "kty": "OKP", "crv": "Ed25519", "x": text(bits) }),
        _ => return Err("a key type that is not served"),
    })
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

fn curve(algorithm: &AlgorithmIdentifierRef<'_>) -> Result<&'static str, &'static str> {
    let named = algorithm.parameters_oid().ok();
    let found = CURVES.iter().find(|(oid, _)| Some(*oid) == named);
    found
        .map(|(_, name)| *name)
        .ok_or("a curve that is not served")
}
