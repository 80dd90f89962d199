//! How issuers are configured, and what that makes of their tokens.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use support::forge::Forge;
use support::{AUDIENCE, FORGED_ISSUER, HEADER, NOW, canned, claims, seconds};
use tower_oidc_guard::{
    Algorithm, BuildError, Issuer, OidcGuard, Platform, Rejection, TokenVerifier,
};

/// A verifier of that issuer, to whom these documents are served, and nothing else.
fn verifier(issuer: Issuer, documents: &[(&str, Value)]) -> TokenVerifier {
    build(issuer, documents).unwrap().verifier().clone()
}

fn build(issuer: Issuer, documents: &[(&str, Value)]) -> Result<OidcGuard, BuildError> {
    let owned = |(url, json): &(&str, Value)| ((*url).to_owned(), json.to_string().into_bytes());
    OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE).leeway(Duration::ZERO))
        .any_verified_caller()
        .http_client(canned(
            documents.iter().map(owned).collect::<HashMap<_, _>>(),
        ))
        .clock(|| seconds(NOW))
        .build()
}

fn keys(forge: &Forge) -> Value {
    json!({ "keys": [forge.jwk()] })
}

/// An issuer whose keys are given, so that nobody is asked.
fn given(forge: &Forge) -> Issuer {
    let issuer = Issuer::discover(FORGED_ISSUER).algorithms([Algorithm::ES256]);
    issuer.keys_json(keys(forge).to_string())
}

async fn verdict(issuer: Issuer, token: &str) -> Result<(), Rejection> {
    verifier(issuer, &[]).verify(token).await.map(drop)
}

#[tokio::test]
async fn keys_that_are_given_are_used_and_nobody_is_asked() {
    let (forge, other) = (Forge::new(), Forge::new());
    assert_eq!(
        verdict(given(&forge), &forge.sign(HEADER, &claims(json!({})))).await,
        Ok(())
    );
    let forged = other.sign(HEADER, &claims(json!({})));
    assert_eq!(
        verdict(given(&forge), &forged).await,
        Err(Rejection::BadSignature)
    );
}

#[test]
fn keys_that_are_none_do_not_build() {
    for json in [
        "",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AA"}]}"#,
    ] {
        let issuer = Issuer::discover(FORGED_ISSUER).keys_json(json);
        assert!(
            matches!(build(issuer, &[]), Err(BuildError::Issuer { .. })),
            "{json}"
        );
    }
}

#[tokio::test]
async fn keys_at_a_url_of_their_own_need_no_discovery() {
    let forge = Forge::new();
    let issuer = || {
        let issuer = Issuer::discover(FORGED_ISSUER).algorithms([Algorithm::ES256]);
        issuer.jwks_url("https://elsewhere.example/keys")
    };
    let documents = [("https://elsewhere.example/keys", keys(&forge))];
    let token = forge.sign(HEADER, &claims(json!({})));
    assert!(verifier(issuer(), &documents).verify(&token).await.is_ok());
    assert!(matches!(
        build(issuer().jwks_url("http://elsewhere.example/keys"), &[]),
        Err(BuildError::Issuer { .. })
    ));
}

#[tokio::test]
async fn a_discovery_document_from_elsewhere_must_be_the_issuer_s_all_the_same() {
    let forge = Forge::new();
    let at = "https://mirror.example/openid-configuration";
    let document = |issuer: &str| {
        json!({
            "issuer": issuer,
            "jwks_uri": "https://mirror.example/keys",
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    };
    let token = forge.sign(HEADER, &claims(json!({})));
    for (name, is_taken) in [(FORGED_ISSUER, true), ("https://evil.example", false)] {
        let documents = [
            (at, document(name)),
            ("https://mirror.example/keys", keys(&forge)),
        ];
        let issuer = Issuer::discover(FORGED_ISSUER).discovery_url(at);
        assert_eq!(
            verifier(issuer, &documents).verify(&token).await.is_ok(),
            is_taken,
            "{name}"
        );
    }
}

#[tokio::test]
async fn google_is_known_by_both_of_its_names() {
    let forge = Forge::new();
    let google = Issuer::google()
        .algorithms([Algorithm::ES256])
        .keys_json(keys(&forge).to_string());
    let verifier = verifier(google, &[]);
    for iss in ["https://accounts.google.com", "accounts.google.com"] {
        let token = forge.sign(HEADER, &claims(json!({ "iss": iss })));
        let identity = verifier.verify(token).await.unwrap();
        assert_eq!(identity.issuer(), "https://accounts.google.com");
        assert_eq!(identity.platform(), Platform::Google);
        assert!(identity.kubernetes().is_none());
    }
    let token = forge.sign(
        HEADER,
        &claims(json!({ "iss": "http://accounts.google.com" })),
    );
    assert_eq!(
        verifier.verify(token).await.err(),
        Some(Rejection::UnknownIssuer)
    );
}

#[tokio::test]
async fn clusters_of_the_clouds_are_known_by_their_issuers_names() {
    let forge = Forge::new();
    for (issuer, name) in [
        (
            Issuer::gke("p", "europe-west1", "c"),
            "https://container.googleapis.com/v1/projects/p/locations/europe-west1/clusters/c",
        ),
        (
            Issuer::eks("eu-west-1", "ABC"),
            "https://oidc.eks.eu-west-1.amazonaws.com/id/ABC",
        ),
        (
            Issuer::aks("westeurope", "t", "i"),
            "https://westeurope.oic.prod-aks.azure.com/t/i/",
        ),
        (
            Issuer::github_actions(),
            "https://token.actions.githubusercontent.com",
        ),
    ] {
        let issuer = issuer
            .algorithms([Algorithm::ES256])
            .keys_json(keys(&forge).to_string());
        let token = forge.sign(HEADER, &claims(json!({ "iss": name })));
        let identity = verifier(issuer, &[]).verify(token).await.unwrap();
        assert_eq!(identity.issuer(), name);
    }
}

#[tokio::test]
async fn a_type_that_is_asked_for_must_be_named() {
    let forge = Forge::new();
    let issuer = || given(&forge).token_types(["at+jwt"]);
    for (typ, expected) in [
        (Some("at+jwt"), Ok(())),
        (Some("AT+JWT"), Ok(())),
        (Some("application/at+jwt"), Ok(())),
        (Some("JWT"), Err(Rejection::WrongType)),
        (None, Err(Rejection::WrongType)),
    ] {
        let mut header: Value = serde_json::from_str(HEADER).unwrap();
        if let Some(typ) = typ {
            header["typ"] = typ.into();
        }
        let token = forge.sign(&header.to_string(), &claims(json!({})));
        assert_eq!(verdict(issuer(), &token).await, expected, "{typ:?}");
    }
}

#[tokio::test]
async fn a_token_that_lives_longer_than_it_may_is_refused() {
    let forge = Forge::new();
    let issuer = || given(&forge).max_lifetime(Duration::from_secs(3600));
    for (changes, expected) in [
        (json!({ "iat": NOW, "exp": NOW + 3600 }), Ok(())),
        (
            json!({ "iat": NOW, "exp": NOW + 3601 }),
            Err(Rejection::LivesTooLong),
        ),
        (json!({ "iat": null }), Err(Rejection::LivesTooLong)),
    ] {
        let token = forge.sign(HEADER, &claims(changes.clone()));
        assert_eq!(verdict(issuer(), &token).await, expected, "{changes}");
    }
}

#[tokio::test]
async fn claims_that_are_asked_for_must_have_their_values() {
    let forge = Forge::new();
    let issuer = || {
        given(&forge)
            .require_claim("repository", "a/b")
            .require_claim("count", 1)
    };
    for (changes, expected) in [
        (json!({ "repository": "a/b", "count": 1 }), Ok(())),
        (
            json!({ "repository": "a/b", "count": "1" }),
            Err(Rejection::UnmetClaim),
        ),
        (
            json!({ "repository": "a/B", "count": 1 }),
            Err(Rejection::UnmetClaim),
        ),
        (json!({ "count": 1 }), Err(Rejection::UnmetClaim)),
    ] {
        let token = forge.sign(HEADER, &claims(changes.clone()));
        assert_eq!(verdict(issuer(), &token).await, expected, "{changes}");
    }
}

#[tokio::test]
async fn a_function_sees_the_claims_of_verified_tokens_only() {
    let (forge, other) = (Forge::new(), Forge::new());
    let issuer = || {
        given(&forge).check_claims(|claims| {
            assert_ne!(
                claims.get("forged"),
                Some(&json!(true)),
                "it must not see this one"
            );
            claims.get("event").is_some_and(|event| event == "push")
        })
    };
    for (event, expected) in [("push", Ok(())), ("pull", Err(Rejection::UnmetClaim))] {
        let token = forge.sign(HEADER, &claims(json!({ "event": event })));
        assert_eq!(verdict(issuer(), &token).await, expected, "{event}");
    }
    let forged = other.sign(HEADER, &claims(json!({ "event": "push", "forged": true })));
    assert_eq!(
        verdict(issuer(), &forged).await,
        Err(Rejection::BadSignature)
    );
}

#[test]
fn an_issuer_named_twice_does_not_build_by_any_of_its_names() {
    let twice = |one: Issuer, two: Issuer| {
        let builder = OidcGuard::builder()
            .issuer(one.audience("a"))
            .issuer(two.audience("b"));
        builder.any_verified_caller().build()
    };
    let error = twice(Issuer::google(), Issuer::google()).unwrap_err();
    assert!(matches!(error, BuildError::SameIssuer { .. }));
}
