//! Fuzz targets for credential configuration files.
//!
//! For each input:
//!
//! - The parser does not panic, and an error is one short line that does not contain a secret.
//! - The settings of an accepted file are those that `serde_json` reads from it.
//! - No accepted file names a program to run, and no header that determines the framing or the server of a request is accepted.

use bolero::generator::produce;
use bolero::{TypeGenerator, check};
use serde_json::{Value, json};

use super::*;
use crate::fuzz::edits::{ByteEdit, JsonEdit};
use crate::fuzz::{ITERATIONS, SECRET, assert_is_safe_message};

fn check(text: &[u8]) {
    let config = match CredentialConfig::parse(text) {
        Ok(config) => config,
        Err(error) => {
            // Names and types in the file are quoted, but escaped and shortened. No secret belongs there.
            let own_words: String = error.split('"').step_by(2).collect();
            assert!(
                error.len() < 1000 && !error.contains(char::is_control),
                "{error:?}"
            );
            return assert_is_safe_message(&own_words);
        }
    };
    let Ok(value) = serde_json::from_slice::<Value>(text) else {
        return;
    };
    assert_eq!(value["type"], "external_account");
    assert_eq!(value["audience"], config.audience);
    assert!(!config.audience.is_empty());
    assert_eq!(value["subject_token_type"], config.subject_token_type.uri());
    let optional = |name: &str| value[name].as_str().filter(|text| !text.is_empty());
    assert_eq!(optional("token_url"), config.token_url.as_deref());
    assert_eq!(
        optional("universe_domain"),
        config.universe_domain.as_deref()
    );
    assert!(
        config
            .token_lifetime
            .is_none_or(|lifetime| LIFETIMES.contains(&lifetime.as_secs()))
    );
    assert_eq!(
        optional("client_id"),
        config.client.as_ref().map(|client| &*client.id)
    );
    let source = &value["credential_source"];
    for unsupported in ["executable", "environment_id", "certificate"] {
        assert!(source[unsupported].is_null());
    }
    match &config.source {
        CredentialSource::File { path, .. } => assert_eq!(source["file"], *path.to_str().unwrap()),
        CredentialSource::Url { url, headers, .. } => {
            assert_eq!(source["url"], *url);
            assert!(headers.values().all(HeaderValue::is_sensitive));
            for name in [
                "host",
                "connection",
                "content-length",
                "transfer-encoding",
                "te",
                "trailer",
                "upgrade",
                "proxy-authorization",
            ] {
                assert!(!headers.contains_key(name), "{name}");
            }
        }
    }
}

#[derive(Debug, Clone, TypeGenerator)]
struct Recipe {
    has_url: bool,
    #[generator(produce::<Vec<JsonEdit>>().with().len(0usize..4))]
    edits: Vec<JsonEdit>,
    #[generator(produce::<Vec<ByteEdit>>().with().len(0usize..2))]
    bytes: Vec<ByteEdit>,
}

fn example(has_url: bool) -> Value {
    let source = if has_url {
        json!({
            "url": "https://169.254.169.254/token", "headers": { "Metadata": SECRET, "Accept": "*/*" },
            "format": { "type": "json", "subject_token_field_name": "token" },
        })
    } else {
        json!({ "file": "/var/run/secrets/token", "format": { "type": "text" } })
    };
    json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "service_account_impersonation_url":
            "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/a@p.iam.gserviceaccount.com:generateAccessToken",
        "service_account_impersonation": { "token_lifetime_seconds": 3600 },
        "universe_domain": "googleapis.com",
        "client_id": "client",
        "client_secret": SECRET,
        "credential_source": source,
    })
}

#[test]
fn edited_configurations() {
    let examples = [example(false), example(true)];
    for valid in &examples {
        assert!(CredentialConfig::parse(valid.to_string().as_bytes()).is_ok());
    }
    check!()
        .with_iterations(ITERATIONS)
        .with_type::<Recipe>()
        .for_each(|recipe| {
            let text = JsonEdit::apply_all(&recipe.edits, &examples[usize::from(recipe.has_url)]);
            check(&ByteEdit::apply_all(&recipe.bytes, text));
        });
}

#[test]
fn configuration_bytes() {
    check!().with_iterations(ITERATIONS).for_each(check);
}

#[test]
fn an_array_in_place_of_an_object_is_not_a_configuration() {
    for name in ["credential_source", "service_account_impersonation"] {
        let mut config = example(false);
        config[name] = json!([null, null, null, null, null, null, null]);
        assert!(
            CredentialConfig::parse(config.to_string().as_bytes()).is_err(),
            "{name}"
        );
    }
}
