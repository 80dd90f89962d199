//! Fuzz targets for discovery documents.
//!
//! For each input:
//!
//! - The parser does not panic.
//! - It accepts only JSON objects whose members have the values that it returns, and accepts all that have valid ones.
//! - An error is one short line.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::Value;

use super::*;
use crate::fuzz::edits::{ByteEdit, JsonEdit};
use crate::fuzz::{ITERATIONS, may_be_ignored};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Parses a document and asserts everything that the module states.
fn check(json: &[u8]) {
    let url = Url::parse("https://issuer.example/.well-known/openid-configuration").unwrap();
    let parsed = DiscoveryDocument::parse(json, &url);
    let document = match parsed {
        Ok(document) => document,
        Err(error) => {
            let error = error.to_string();
            assert!(
                error.len() < 1000 && !error.contains(char::is_control),
                "{error}"
            );
            if let Ok(value) = serde_json::from_slice::<Value>(json) {
                let text = |name| {
                    value
                        .get(name)
                        .and_then(Value::as_str)
                        .filter(|text| text.len() <= MAX_URL_BYTES)
                };
                let listed = value
                    .get("id_token_signing_alg_values_supported")
                    .unwrap_or(&Value::Null);
                let is_list = |value: &Value| {
                    value
                        .as_array()
                        .is_some_and(|list| list.iter().all(Value::is_string))
                };
                let is_valid = value.is_object()
                    && text("issuer").is_some()
                    && text("jwks_uri").is_some_and(|uri| Url::parse(uri).is_ok())
                    && (listed.is_null() || is_list(listed));
                // `Value` keeps the last of repeated members, whatever the others are.
                let text = String::from_utf8_lossy(json);
                let is_repeated = |name: &str| text.matches(&format!("\"{name}\"")).count() > 1;
                let has_repeated = [
                    "issuer",
                    "jwks_uri",
                    "id_token_signing_alg_values_supported",
                ]
                .into_iter()
                .any(is_repeated);
                assert!(
                    !is_valid || has_repeated || text.contains('\\'),
                    "refused: {error}"
                );
            }
            return;
        }
    };
    let value: Value = serde_json::from_slice(json).unwrap_or_else(|error| {
        // Ignored members may contain what `Value` cannot represent.
        assert!(may_be_ignored(&error), "accepted: {error}");
        Value::Null
    });
    let issuer_matches = document.check_issuer(ISSUER, &[], &url).is_ok();
    assert_eq!(issuer_matches, document.issuer == ISSUER);
    if value.is_null() {
        return;
    }
    assert_eq!(value["issuer"], document.issuer);
    assert!(document.issuer.len() <= MAX_URL_BYTES);
    assert_eq!(value["jwks_uri"], document.jwks_uri.as_str());
    let listed: Option<Vec<&str>> = value["id_token_signing_alg_values_supported"]
        .as_array()
        .map(|list| list.iter().map(|name| name.as_str().unwrap()).collect());
    let listed = listed.filter(|listed| !listed.is_empty());
    assert_eq!(listed.is_some(), document.algorithms.is_some());
    for algorithm in Algorithm::ALL {
        let is_listed = listed.as_ref().is_some_and(|listed| {
            let mut names = listed.iter().filter_map(|name| Algorithm::from_name(name));
            names.any(|listed| listed.canonical() == algorithm.canonical())
        });
        assert_eq!(
            is_listed,
            document
                .algorithms
                .is_some_and(|found| found.contains(algorithm))
        );
    }
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..5))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    bytes: Vec<ByteEdit>,
}

#[test]
fn edited_discovery_documents() {
    let recorded = include_str!("../../../tests/data/kubernetes/v1.36/rs256/discovery.json");
    let base: Value = serde_json::from_str(recorded).unwrap();
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let text = JsonEdit::apply_all(&recipe.edits, &base);
            check(&ByteEdit::apply_all(&recipe.bytes, text));
        });
}

#[test]
fn discovery_bytes() {
    check!().with_iterations(ITERATIONS).for_each(check);
}
