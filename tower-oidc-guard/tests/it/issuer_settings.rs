//! Settings of an issuer, and which tokens they accept.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tower_oidc_guard::{
    Algorithm, BuildError, Issuer, OidcGuard, Platform, Policy, TokenError, TokenVerifier,
    VerifyError,
};

use crate::support::mock_client::{document_client, unused_client};
use crate::support::signer::Signer;
use crate::support::{AUDIENCE, HEADER, ISSUER_URL, NOW, claims, guard_with_client, unix_time};

/// Creates a verifier of this issuer that can fetch these documents only.
fn verifier(issuer: Issuer, documents: &[(&str, Value)]) -> TokenVerifier {
    build(issuer, documents).unwrap().verifier().clone()
}

fn build(issuer: Issuer, documents: &[(&str, Value)]) -> Result<OidcGuard, BuildError> {
    let owned = |(url, json): &(&str, Value)| ((*url).to_owned(), json.to_string().into_bytes());
    OidcGuard::builder()
        .issuer(issuer.audience(AUDIENCE).leeway(Duration::ZERO))
        .any_verified_caller()
        .http_client(document_client(
            documents.iter().map(owned).collect::<HashMap<_, _>>(),
        ))
        .clock(|| unix_time(NOW))
        .build()
}

fn keys(signer: &Signer) -> Value {
    json!({ "keys": [signer.jwk()] })
}

/// Returns an issuer whose keys are configured, so that none are fetched.
fn with_keys(signer: &Signer) -> Issuer {
    let issuer = Issuer::oidc(ISSUER_URL).algorithms([Algorithm::ES256]);
    issuer.keys_json(keys(signer).to_string())
}

async fn verify(issuer: Issuer, token: &str) -> Result<(), VerifyError> {
    verifier(issuer, &[]).verify(token).await.map(drop)
}

#[tokio::test]
async fn configured_keys_are_used_without_any_request() {
    let (signer, other) = (Signer::new(), Signer::new());
    assert_eq!(
        verify(with_keys(&signer), &signer.sign(HEADER, &claims(json!({})))).await,
        Ok(())
    );
    let forged = other.sign(HEADER, &claims(json!({})));
    assert_eq!(
        verify(with_keys(&signer), &forged).await,
        Err(VerifyError::InvalidToken(TokenError::BadSignature))
    );
}

#[test]
fn unusable_configured_keys_do_not_build() {
    for json in [
        "",
        "{}",
        r#"{"keys":[]}"#,
        r#"{"keys":[{"kty":"oct","k":"AA"}]}"#,
    ] {
        let issuer = Issuer::oidc(ISSUER_URL).keys_json(json);
        assert!(
            matches!(build(issuer, &[]), Err(BuildError::Issuer { .. })),
            "{json}"
        );
    }
}

#[tokio::test]
async fn configured_jwks_url_skips_discovery() {
    let signer = Signer::new();
    let issuer = |url: &str| {
        let issuer = Issuer::oidc(ISSUER_URL).algorithms([Algorithm::ES256]);
        issuer.jwks_url(url)
    };
    let documents = [("https://elsewhere.example/keys", keys(&signer))];
    let token = signer.sign(HEADER, &claims(json!({})));
    let verifier = verifier(issuer("https://elsewhere.example/keys"), &documents);
    assert!(verifier.verify(&token).await.is_ok());
    for url in [
        "http://elsewhere.example/keys",
        "https://elsewhere.example/ke ys",
        " https://elsewhere.example/keys",
        "https://u:p@elsewhere.example/keys",
        "elsewhere.example",
        "",
    ] {
        let built = build(issuer(url), &[]);
        assert!(matches!(built, Err(BuildError::Issuer { .. })), "{url:?}");
    }
}

#[tokio::test]
async fn discovery_document_from_another_url_must_name_the_issuer() {
    let signer = Signer::new();
    let at = "https://mirror.example/openid-configuration";
    let document = |issuer: &str| {
        json!({
            "issuer": issuer,
            "jwks_uri": "https://mirror.example/keys",
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    };
    let token = signer.sign(HEADER, &claims(json!({})));
    for (name, is_accepted) in [(ISSUER_URL, true), ("https://evil.example", false)] {
        let documents = [
            (at, document(name)),
            ("https://mirror.example/keys", keys(&signer)),
        ];
        let issuer = Issuer::oidc(ISSUER_URL).discovery_url(at);
        assert_eq!(
            verifier(issuer, &documents).verify(&token).await.is_ok(),
            is_accepted,
            "{name}"
        );
    }
}

#[tokio::test]
async fn google_is_accepted_under_both_of_its_names() {
    let signer = Signer::new();
    let google = Issuer::google()
        .algorithms([Algorithm::ES256])
        .keys_json(keys(&signer).to_string());
    let verifier = verifier(google, &[]);
    for iss in ["https://accounts.google.com", "accounts.google.com"] {
        let token = signer.sign(HEADER, &claims(json!({ "iss": iss })));
        let identity = verifier.verify(token).await.unwrap();
        assert_eq!(identity.issuer(), "https://accounts.google.com");
        assert_eq!(identity.platform(), Platform::Google);
        assert!(identity.kubernetes().is_none());
    }
    let token = signer.sign(
        HEADER,
        &claims(json!({ "iss": "http://accounts.google.com" })),
    );
    assert_eq!(
        verifier.verify(token).await.err(),
        Some(VerifyError::InvalidToken(TokenError::UnknownIssuer))
    );
}

#[tokio::test]
async fn cloud_presets_accept_their_issuer_names() {
    let signer = Signer::new();
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
            .keys_json(keys(&signer).to_string());
        let token = signer.sign(HEADER, &claims(json!({ "iss": name })));
        let identity = verifier(issuer, &[]).verify(token).await.unwrap();
        assert_eq!(identity.issuer(), name);
    }
}

#[tokio::test]
async fn required_token_type_must_be_present() {
    let signer = Signer::new();
    let issuer = || with_keys(&signer).token_types(["at+jwt"]);
    for (typ, expected) in [
        (Some("at+jwt"), Ok(())),
        (Some("AT+JWT"), Ok(())),
        (Some("application/at+jwt"), Ok(())),
        (
            Some("JWT"),
            Err(VerifyError::InvalidToken(TokenError::WrongType)),
        ),
        (None, Err(VerifyError::InvalidToken(TokenError::WrongType))),
    ] {
        let mut header: Value = serde_json::from_str(HEADER).unwrap();
        if let Some(typ) = typ {
            header["typ"] = typ.into();
        }
        let token = signer.sign(&header.to_string(), &claims(json!({})));
        assert_eq!(verify(issuer(), &token).await, expected, "{typ:?}");
    }
}

#[tokio::test]
async fn token_over_the_maximum_lifetime_is_rejected() {
    let signer = Signer::new();
    let issuer = || with_keys(&signer).max_lifetime(Duration::from_secs(3600));
    for (changes, expected) in [
        (json!({ "iat": NOW, "exp": NOW + 3600 }), Ok(())),
        (
            json!({ "iat": NOW, "exp": NOW + 3601 }),
            Err(VerifyError::InvalidToken(TokenError::LivesTooLong)),
        ),
        (
            json!({ "iat": null }),
            Err(VerifyError::InvalidToken(TokenError::LivesTooLong)),
        ),
    ] {
        let token = signer.sign(HEADER, &claims(changes.clone()));
        assert_eq!(verify(issuer(), &token).await, expected, "{changes}");
    }
}

#[tokio::test]
async fn required_claims_must_have_their_values() {
    let signer = Signer::new();
    let issuer = || {
        with_keys(&signer)
            .require_claim("repository", "a/b")
            .require_claim("count", 1)
    };
    for (changes, expected) in [
        (json!({ "repository": "a/b", "count": 1 }), Ok(())),
        (
            json!({ "repository": "a/b", "count": "1" }),
            Err(VerifyError::InvalidToken(TokenError::UnmetClaim)),
        ),
        (
            json!({ "repository": "a/B", "count": 1 }),
            Err(VerifyError::InvalidToken(TokenError::UnmetClaim)),
        ),
        (
            json!({ "count": 1 }),
            Err(VerifyError::InvalidToken(TokenError::UnmetClaim)),
        ),
    ] {
        let token = signer.sign(HEADER, &claims(changes.clone()));
        assert_eq!(verify(issuer(), &token).await, expected, "{changes}");
    }
}

#[tokio::test]
async fn claims_function_sees_only_claims_of_verified_tokens() {
    let (signer, other) = (Signer::new(), Signer::new());
    let issuer = || {
        with_keys(&signer).require(|claims| {
            assert_ne!(
                claims.get("forged"),
                Some(&json!(true)),
                "called for a token with an invalid signature"
            );
            claims.get("event").is_some_and(|event| event == "push")
        })
    };
    for (event, expected) in [
        ("push", Ok(())),
        (
            "pull",
            Err(VerifyError::InvalidToken(TokenError::UnmetClaim)),
        ),
    ] {
        let token = signer.sign(HEADER, &claims(json!({ "event": event })));
        assert_eq!(verify(issuer(), &token).await, expected, "{event}");
    }
    let forged = other.sign(HEADER, &claims(json!({ "event": "push", "forged": true })));
    assert_eq!(
        verify(issuer(), &forged).await,
        Err(VerifyError::InvalidToken(TokenError::BadSignature))
    );
}

#[test]
fn issuer_configured_twice_does_not_build() {
    let twice = |one: Issuer, two: Issuer| {
        let builder = OidcGuard::builder()
            .issuer(one.audience("a"))
            .issuer(two.audience("b"));
        builder.any_verified_caller().build()
    };
    let error = twice(Issuer::google(), Issuer::google()).unwrap_err();
    assert!(matches!(error, BuildError::DuplicateIssuer { .. }));
}

#[tokio::test]
async fn issuer_that_needs_no_discovery_may_be_any_valid_iss_string() {
    let signer = Signer::new();
    for name in [
        "kubernetes.default.svc",
        "kubernetes/serviceaccount",
        "my issuer",
        "urn:example:issuer",
        "kubernetes:default",
        "http://internal.example",
        "https://id.example/?tenant=1",
        "https://id.example/",
    ] {
        for platform in [Issuer::oidc, Issuer::kubernetes] {
            let issuer = || platform(name.to_owned()).algorithms([Algorithm::ES256]);
            let given = issuer().keys_json(keys(&signer).to_string());
            let subject = "system:serviceaccount:shop:web";
            let token = signer.sign(HEADER, &claims(json!({ "iss": name, "sub": subject })));
            let guard = build(given, &[]).unwrap();
            let caller = guard.verifier().verify(&token).await.unwrap();
            assert_eq!(caller.issuer(), name);
            let principal = format!("principal:{name}#{subject}");
            for (policy, expected) in [
                (Policy::members([principal.clone()]), true),
                (Policy::members([format!("principal:{name}#other")]), false),
                (Policy::members_of(name, ["allAuthenticatedUsers"]), true),
                (Policy::any_verified_caller().deny([principal]), false),
            ] {
                assert!(
                    guard.layer_with(policy.clone()).is_ok(),
                    "{name} {policy:?}"
                );
                assert_eq!(policy.explain(&caller).is_allowed(), expected, "{policy:?}");
            }
            let elsewhere = "https://mirror.example/x";
            for issuer in [
                issuer().jwks_url(elsewhere),
                issuer().discovery_url(elsewhere),
                issuer().keys_file("/etc/keys/jwks.json"),
            ] {
                assert!(build(issuer, &[]).is_ok(), "{name}");
            }
        }
    }
}

#[test]
fn issuer_with_discovery_must_be_a_url_and_the_error_suggests_keys_json() {
    for name in ["kubernetes.default.svc", "my-issuer"] {
        let text = build(Issuer::oidc(name), &[]).unwrap_err().to_string();
        assert!(
            text.contains("not a URL") && text.contains("keys_json"),
            "{text}"
        );
    }
    for name in [
        "urn:example:issuer",
        "http://id.example",
        "https://id.example/?tenant=1",
        "ftp://id.example",
    ] {
        let built = build(Issuer::oidc(name), &[]);
        assert!(matches!(built, Err(BuildError::Issuer { .. })), "{name}");
    }
}

#[test]
fn invalid_issuer_names_do_not_build_with_any_key_source() {
    let signer = Signer::new();
    for name in [
        "",
        " ",
        " https://id.example",
        "https://id.example ",
        "https://id.example\n",
        "https://id .example",
        "https://id.example/a b",
        "https://id.example/\u{200b}",
        "https://id.example/\u{e9}",
        "\thttps://id.example",
        "kubernetes.default.svc ",
        "\u{feff}kubernetes.default.svc",
        "a: b",
        "1:a",
        ":",
        "https:id.example",
        "https:/id.example",
        "https:\\\\id.example",
        "https://user@id.example",
        "https://user:password@id.example",
        "https://id.example/#x",
        "https://id.example/.well-known/openid-configuration",
        "https://id.example/.well-known/openid-configuration/",
        "https://id.example/tenant/.well-known/openid-configuration",
        "https://id.example/.well-known/oauth-authorization-server",
        "https://id.example/.well-known/openid-configuration/tenant",
        "https://id.example/.Well-Known/jwks.json",
        "https://id.example/.well-known",
    ] {
        for issuer in [
            Issuer::oidc(name),
            Issuer::kubernetes(name),
            Issuer::oidc(name).keys_json(keys(&signer).to_string()),
            Issuer::oidc(name).jwks_url("https://keys.example/jwks"),
        ] {
            let built = build(issuer, &[]);
            assert!(
                matches!(built, Err(BuildError::Issuer { .. })),
                "{name:?}: {built:?}"
            );
        }
    }
    let document = "https://id.example/tenant/.well-known/openid-configuration";
    let text = build(Issuer::oidc(document), &[]).unwrap_err().to_string();
    assert!(text.contains("\"https://id.example/tenant\""), "{text}");
}

#[test]
fn empty_repeated_or_white_space_audiences_do_not_build() {
    for audience in ["", " ", "a b", " a", "a\n", "a\u{a0}", "\u{200b}", AUDIENCE] {
        // `build` adds AUDIENCE.
        let built = build(Issuer::oidc(ISSUER_URL).audience(audience), &[]);
        assert!(
            matches!(built, Err(BuildError::Issuer { .. })),
            "{audience:?}"
        );
    }
}

#[test]
fn meaningless_or_repeated_issuer_settings_do_not_build() {
    let issuer = || Issuer::oidc(ISSUER_URL);
    let hour = Duration::from_secs(3600);
    for (issuer, said) in [
        (issuer().algorithms([]), "no algorithm"),
        (
            issuer()
                .algorithms([Algorithm::ES256])
                .algorithms([Algorithm::RS256]),
            "`algorithms` is set twice",
        ),
        (issuer().token_types([""; 0]), "lists no type"),
        (issuer().token_types([""]), "empty"),
        (issuer().token_types(["at+jwt "]), "white space"),
        (
            issuer().token_types(["at+jwt"]).token_types(["JWT"]),
            "`token_types` is set twice",
        ),
        (issuer().max_lifetime(Duration::ZERO), "zero"),
        (
            issuer().max_lifetime(hour).max_lifetime(24 * hour),
            "`max_lifetime` is set twice",
        ),
        (issuer().require_claim("tenant", Value::Null), "null"),
        (issuer().require_claim("", "x"), "empty"),
        (issuer().keys_file(""), "keys_file"),
        (issuer().max_keys(0), "`max_keys` is zero"),
        (
            issuer().max_document_bytes(0),
            "`max_document_bytes` is zero",
        ),
        (
            issuer().fetch_timeout(Duration::ZERO),
            "`fetch_timeout` is zero",
        ),
        (
            issuer().unknown_key_jitter(Duration::from_secs(4)),
            "`unknown_key_jitter` is more than 3 s",
        ),
        (
            issuer().api_token_file("/token"),
            "`api_token_file` is for `in_cluster`",
        ),
        (
            Issuer::kubernetes(ISSUER_URL).api_ca_file("/ca.crt"),
            "`api_ca_file` is for `in_cluster`",
        ),
        (
            Issuer::google().dangerous_accept_api_server_audience(),
            "for Kubernetes issuers",
        ),
    ] {
        match build(issuer, &[]) {
            Err(error @ BuildError::Issuer { .. }) => {
                assert!(error.to_string().contains(said), "{error}");
            }
            other => panic!("{said}: {other:?}"),
        }
    }
}

/// A timeout for keys that are not fetched, for example, would look as if it had an effect.
#[test]
fn settings_without_an_effect_on_where_the_keys_come_from_do_not_build() {
    type Setting = (&'static str, fn(Issuer) -> Issuer);
    let second = Duration::from_secs(1);
    let settings: [Setting; 5] = [
        ("stale_after", |issuer| {
            issuer.stale_after(Duration::from_secs(1))
        }),
        ("unknown_key_jitter", |issuer| {
            issuer.unknown_key_jitter(Duration::from_secs(1))
        }),
        ("fetch_timeout", |issuer| {
            issuer.fetch_timeout(Duration::from_secs(1))
        }),
        ("max_document_bytes", |issuer| issuer.max_document_bytes(1)),
        ("insecure_loopback_http", Issuer::insecure_loopback_http),
    ];
    let issuer = || Issuer::oidc(ISSUER_URL);
    let pem = "-----BEGIN PUBLIC KEY-----";
    for (keys, issuer, without_effect) in [
        ("keys_json", issuer().keys_json("{}"), &settings[..]),
        ("keys_pem", issuer().keys_pem(pem), &settings),
        ("keys_file", issuer().keys_file("/k"), &settings[2..]),
        (
            "in_cluster",
            Issuer::in_cluster_at("10.0.0.1", "443").unwrap(),
            &settings[4..],
        ),
    ] {
        for (setting, set) in without_effect {
            let error = build(set(issuer.clone()), &[]).unwrap_err().to_string();
            let expected = format!("`{setting}` has no effect with `{keys}`");
            assert!(error.contains(&expected), "{error}");
        }
    }
    let file = || issuer().keys_file("/k");
    assert!(build(file().stale_after(second).unknown_key_jitter(second), &[]).is_ok());
    for (_, set) in settings {
        let web = set(issuer().jwks_url("https://keys.example/jwks.json"));
        assert!(build(web, &[]).is_ok());
    }
}

#[test]
fn two_key_sources_do_not_build() {
    type Setting = (&'static str, fn(Issuer) -> Issuer);
    let settings: [Setting; 5] = [
        ("keys_json", |issuer| issuer.keys_json("{}")),
        ("keys_pem", |issuer| issuer.keys_pem("-----BEGIN")),
        ("keys_file", |issuer| issuer.keys_file("/k")),
        ("jwks_url", |issuer| issuer.jwks_url("https://x.example/k")),
        ("discovery_url", |issuer| {
            issuer.discovery_url("https://x.example/d")
        }),
    ];
    let text = |issuer: Issuer| build(issuer, &[]).unwrap_err().to_string();
    for (first, set_first) in settings {
        for (second, set_second) in settings {
            let text = text(set_second(set_first(Issuer::oidc(ISSUER_URL))));
            assert!(
                text.contains(&format!("`{second}` conflicts with `{first}`")),
                "{text}"
            );
        }
        let cluster = Issuer::in_cluster_at("10.0.0.1", "443").unwrap();
        let text = text(set_first(cluster));
        assert!(
            text.contains(first) && text.contains("in_cluster"),
            "{text}"
        );
    }
}

#[test]
fn api_server_audience_does_not_build_for_any_kubernetes_issuer() {
    let clusters: [(Issuer, &str); 5] = [
        (
            Issuer::gke("p", "l", "c"),
            "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c",
        ),
        (
            Issuer::eks("r", "i"),
            "https://oidc.eks.r.amazonaws.com/id/i",
        ),
        (
            Issuer::aks("r", "t", "i"),
            "https://r.oic.prod-aks.azure.com/t/i",
        ),
        (
            Issuer::kubernetes("https://c.example"),
            "https://c.example/",
        ),
        (
            Issuer::kubernetes("kubernetes.default.svc").jwks_url("https://c.example/keys"),
            "kubernetes.default.svc",
        ),
    ];
    for (issuer, name) in clusters {
        for audience in [
            name,
            "https://kubernetes.default.svc",
            "kubernetes.default.svc",
            "https://kubernetes.default.svc.cluster.local/",
            "https://kubernetes.default.svc.corp.example:443",
            "https://kubernetes.default",
            "https://kubernetes",
        ] {
            let issuer = issuer.clone().audience(audience);
            match build(issuer.clone(), &[]) {
                Err(error @ BuildError::ApiServerAudience { .. }) => {
                    let text = error.to_string();
                    assert!(
                        text.contains("dangerous_accept_api_server_audience"),
                        "{text}"
                    );
                }
                other => panic!("{audience}: {other:?}"),
            }
            let accepting = issuer.dangerous_accept_api_server_audience();
            assert!(build(accepting, &[]).is_ok(), "{audience}");
        }
    }
    // Other issuers may have this audience.
    let other = Issuer::oidc(ISSUER_URL).audience("https://kubernetes.default.svc");
    assert!(build(other, &[]).is_ok());
}

#[tokio::test]
async fn required_email_claim_rejects_other_google_accounts() {
    let signer = Signer::new();
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let google = || {
        Issuer::google()
            .algorithms([Algorithm::ES256])
            .keys_json(keys.clone())
    };
    let token = |email: &str| {
        let google = json!({ "iss": "https://accounts.google.com", "email": email });
        signer.sign(HEADER, &claims(google))
    };
    let any = guard_with_client(google(), unused_client());
    assert!(
        any.verifier()
            .verify(token("stranger@gmail.com"))
            .await
            .is_ok()
    );
    let known = google().require_claim("email", "known@project.iam.gserviceaccount.com");
    let known = guard_with_client(known, unused_client());
    let result = known.verifier().verify(token("stranger@gmail.com")).await;
    assert_eq!(
        result.err(),
        Some(VerifyError::InvalidToken(TokenError::UnmetClaim))
    );
    assert!(
        known
            .verifier()
            .verify(token("known@project.iam.gserviceaccount.com"))
            .await
            .is_ok()
    );
}

#[test]
fn issuer_without_audience_does_not_build() {
    let builder = OidcGuard::builder().issuer(Issuer::oidc(ISSUER_URL));
    let built = builder.any_verified_caller().build();
    assert!(matches!(built, Err(BuildError::NoAudience { .. })));
}
