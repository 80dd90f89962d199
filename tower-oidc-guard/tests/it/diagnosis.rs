//! `OidcGuard::diagnose`: each fault with what was found and expected, and the same decision as that on a request.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::{ServiceExt as _, service_fn};
use tower_layer::Layer as _;
use tower_oidc_guard::testing::MemoryIssuer;
use tower_oidc_guard::{
    Check, CheckResult, Diagnosis, Issuer, OidcGuard, OidcGuardBuilder, OidcGuardLayer, Policy,
};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::support::logs::CapturedLogs;
use crate::support::mock_client::{document_client, mock_client};
use crate::support::process::{is_child_process, run_in_child_process};
use crate::support::signer::{Signer, base64url};
use crate::support::{
    AUDIENCE, Body, HEADER, ISSUER_URL, NOW, body_text, claims, echo_subject,
    guard_builder_with_keys, issuer_settings, unix_time,
};

/// The names of all checks, in order.
const NAMES: [&str; 19] = [
    "format",
    "header",
    "algorithm",
    "claims",
    "issuer",
    "type",
    "audience",
    "sender constraint",
    "lifetime",
    "expiry",
    "not before",
    "time of issue",
    "allowed algorithm",
    "keys",
    "key",
    "signature",
    "required claims",
    "claim conditions",
    "policy",
];

/// Makes the response to a rejected request consist of the reason.
fn with_reason(builder: OidcGuardBuilder) -> OidcGuardBuilder {
    builder.rejection_response(|rejection, response| response.map(|_| rejection.reason().into()))
}

/// Returns what a layer decides on a request with this token: `None` if it is admitted, and otherwise the reason. A token that
/// no request can contain is malformed.
async fn decision(layer: &OidcGuardLayer, token: &[u8]) -> Option<String> {
    let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", token].concat()) else {
        return Some("malformed_request".to_owned());
    };
    let mut request = Request::new(Body::new());
    request.headers_mut().insert(header::AUTHORIZATION, value);
    let response = layer.layer(service_fn(echo_subject)).oneshot(request).await;
    let response = response.unwrap();
    if response.status() == StatusCode::OK {
        return None;
    }
    Some(body_text(response).await)
}

/// Returns the reason of the first check that failed.
fn first_reason(diagnosis: &Diagnosis) -> Option<String> {
    let first = diagnosis.failed_checks().next()?;
    match first.result() {
        CheckResult::Failed { reason } => Some(reason.to_owned()),
        _ => None,
    }
}

/// Asserts that a diagnosis agrees with a decision and with itself.
fn assert_agrees(diagnosis: &Diagnosis, decided: Option<&str>) {
    let rejection = diagnosis.rejection();
    assert_eq!(
        rejection.map(|rejection| rejection.reason()),
        decided,
        "{diagnosis}"
    );
    assert_eq!(diagnosis.is_admitted(), decided.is_none(), "{diagnosis}");
    assert_eq!(first_reason(diagnosis).as_deref(), decided, "{diagnosis}");
    let names: Vec<_> = diagnosis.checks().iter().map(Check::name).collect();
    assert_eq!(names, NAMES);
    if decided.is_none() {
        let is_passed = |check: &Check| check.result() == CheckResult::Passed;
        assert!(diagnosis.checks().iter().all(is_passed), "{diagnosis}");
    }
}

/// Returns the line of the table for a check, and the hint in the next line, if there is one.
fn line(diagnosis: &Diagnosis, name: &str) -> String {
    let table = diagnosis.to_string();
    let is_meant = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with("  ") || name.ends_with(": "))
    };
    let mut lines = table.lines().skip_while(|line| !is_meant(line));
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("no line {name}: {table}"));
    let hint = lines
        .next()
        .filter(|line| line.trim_start().starts_with("hint: "));
    [Some(line), hint].into_iter().flatten().collect()
}

/// Diagnoses a token with a guard, and asserts that the first failed check has this name, and that its text contains this.
async fn assert_fails(guard: &OidcGuard, token: &str, name: &str, texts: &[&str]) -> Diagnosis {
    let diagnosis = guard.diagnose(token).await;
    let first = diagnosis.failed_checks().next().map(Check::name);
    assert_eq!(first, Some(name), "{diagnosis}");
    let line = line(&diagnosis, name);
    for text in texts {
        assert!(line.contains(text), "{text:?} is not in {line:?}");
    }
    assert_secret(&diagnosis, token);
    diagnosis
}

/// Asserts that neither the table nor the debug output contains a part of the token.
fn assert_secret(diagnosis: &Diagnosis, token: &str) {
    for text in [diagnosis.to_string(), format!("{diagnosis:?}")] {
        for part in token.split(['.', ' ', '"']).filter(|part| part.len() > 8) {
            let start = part.get(..16).unwrap_or(part);
            assert!(!text.contains(start), "{start} in {text}");
        }
        let is_printable = |byte: u8| matches!(byte, b' '..=b'~' | b'\n') || !byte.is_ascii();
        assert!(text.bytes().all(is_printable), "{text:?}");
    }
}

fn es256_guard(signer: &Signer, issuer: Issuer) -> OidcGuard {
    let builder = guard_builder_with_keys(&[signer.jwk()], issuer);
    builder.any_verified_caller().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_admitted_token_passes_all_checks() {
    let signer = Signer::new();
    let guard = es256_guard(&signer, issuer_settings());
    let token = signer.sign(HEADER, &claims(json!({ "jti": "id-1" })));
    let diagnosis = guard.diagnose(&token).await;
    assert_agrees(&diagnosis, None);
    assert_secret(&diagnosis, &token);
    for (name, text) in [
        ("header", r#"alg "ES256", kid "k", no typ"#),
        ("claims", r#"sub "caller", jti "id-1""#),
        ("expiry", "expires in 600 s"),
        ("time of issue", "issued 10 s ago"),
        (
            "keys",
            "1 key fetched 0 s ago from https://keys.example/jwks",
        ),
        ("policy", "allAuthenticatedUsers is an allowed member"),
        ("admitted: ", r#""caller" of "https://issuer.example""#),
    ] {
        let line = line(&diagnosis, name);
        assert!(line.contains(text), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn all_faults_are_found_not_only_the_first() {
    let signer = Signer::new();
    let guard = es256_guard(&signer, issuer_settings());
    let changes = json!({ "aud": "https://b", "exp": NOW - 118, "iss": format!("{ISSUER_URL}/") });
    let token = Signer::new().sign(HEADER, &claims(changes));
    let quoted = format!("\"{token}\"");
    let diagnosis = guard.diagnose(&quoted).await;
    let failed: Vec<_> = diagnosis.failed_checks().map(Check::name).collect();
    assert_eq!(
        failed,
        ["format", "issuer", "audience", "expiry", "signature"]
    );
    assert_eq!(diagnosis.rejection().unwrap().reason(), "malformed");
    assert_secret(&diagnosis, &token);
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_shown_with_what_was_found_and_expected() {
    let signer = Signer::new();
    let guard = es256_guard(&signer, issuer_settings());
    let signed = |changes: Value| signer.sign(HEADER, &claims(changes));
    let with_header = |header: &str| signer.sign(header, &claims(json!({})));
    let valid = signed(json!({}));
    let five_parts = format!("{valid}.a.b");
    let json_file = json!({ "status": { "token": valid } }).to_string();
    for (token, name, texts) in [
        (
            format!("\"{valid}\""),
            "format",
            &["in quotes; remove them"][..],
        ),
        (
            format!("Bearer {valid}"),
            "format",
            &["remove the prefix `Bearer`"],
        ),
        (
            valid.replace('.', "\n."),
            "format",
            &["line break or a space"],
        ),
        (format!("{valid}\n"), "format", &["white space around"]),
        (
            json_file,
            "format",
            &["JSON document", "value of `status.token`"],
        ),
        (five_parts, "format", &["encrypted token (JWE)"]),
        (
            "ya29.a0AfB".to_owned(),
            "format",
            &["opaque access token of Google"],
        ),
        (String::new(), "format", &["0 bytes", "the token is empty"]),
        (
            "a".repeat(20_000),
            "format",
            &["20000 bytes", "at most 16384 bytes (`max_token_bytes`)"],
        ),
        (
            with_header(r#"{"alg":"HS256"}"#),
            "algorithm",
            &[r#"found "HS256""#, "RS256, ", "symmetric"],
        ),
        (
            with_header(r#"{"alg":"none"}"#),
            "algorithm",
            &["not signed"],
        ),
        (
            with_header(r#"{"alg":"ES256","crit":[]}"#),
            "header",
            &["without `crit`"],
        ),
        (
            signed(json!({ "exp": null })),
            "claims",
            &["the claim `exp` is missing"],
        ),
        (
            signed(json!({ "iss": format!("{ISSUER_URL}/") })),
            "issuer",
            &[
                r#"found "https://issuer.example/", expected one of the trusted issuers ["https://issuer.example"]"#,
                r#"differs from the trusted "https://issuer.example" by a trailing slash"#,
            ],
        ),
        (
            signed(json!({ "iss": "https://Issuer.example" })),
            "issuer",
            &["in upper and lower case"],
        ),
        (
            signed(json!({ "iss": "http://issuer.example" })),
            "issuer",
            &["in the scheme"],
        ),
        (
            signed(json!({ "iss": "https://issuer.example/v2" })),
            "issuer",
            &["in the path"],
        ),
        (
            signed(json!({ "iss": "https://other.example" })),
            "issuer",
            &["from another issuer"],
        ),
        (
            with_header(r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#),
            "type",
            &[r#"found "at+jwt", expected "JWT" or no typ"#, "token_types"],
        ),
        (
            signed(json!({ "aud": "https://b" })),
            "audience",
            &[r#"found ["https://b"], expected one of ["https://auth-server.example"]"#],
        ),
        (
            signed(json!({ "aud": [format!("{AUDIENCE}/"), "x"] })),
            "audience",
            &["differs from the accepted", "by a trailing slash"],
        ),
        (
            signed(json!({ "aud": [] })),
            "audience",
            &["found []", "the token has no audience"],
        ),
        (
            signed(json!({ "aud": "https://kubernetes.default.svc.cluster.local" })),
            "audience",
            &["token for the API server"],
        ),
        (
            signed(json!({ "cnf": { "jkt": "x" } })),
            "sender constraint",
            &["a claim `cnf`"],
        ),
        (
            signed(json!({ "exp": NOW - 118 })),
            "expiry",
            &[
                "expired 118 s ago by this clock (leeway 0 s)",
                "after each rotation",
            ],
        ),
        (
            signed(json!({ "nbf": NOW + 118 })),
            "not before",
            &["valid in 118 s by this clock (leeway 0 s)"],
        ),
        (
            signed(json!({ "iat": NOW + 118, "nbf": null })),
            "time of issue",
            &["issued 118 s from now by this clock"],
        ),
        (
            with_header(r#"{"alg":"PS256","kid":"k"}"#),
            "allowed algorithm",
            &["found PS256, expected one of [RS256, ES256]"],
        ),
        (
            with_header(r#"{"alg":"ES256","kid":"new"}"#),
            "key",
            &[
                r#"kid "new", which is not among the 1 key fetched"#,
                "from https://keys.example/jwks",
                r#"publishes ["k"]"#,
            ],
        ),
        (
            with_header(r#"{"alg":"RS256","kid":"k"}"#),
            "key",
            &[r#"a published key that is not for "RS256""#],
        ),
        (
            Signer::new().sign(HEADER, &claims(json!({}))),
            "signature",
            &["does not verify with the key", "was changed"],
        ),
        (
            format!(
                "{}.SIGNATURE_REMOVED_BY_GOOGLE",
                valid.rsplit_once('.').unwrap().0
            ),
            "signature",
            &["removed its signature"],
        ),
    ] {
        assert_fails(&guard, &token, name, texts).await;
    }
}

#[tokio::test(start_paused = true)]
async fn requirements_of_the_issuer_are_shown_with_the_claims() {
    let signer = Signer::new();
    let issuer = issuer_settings()
        .require_claim("repository", "a/b")
        .require_claim("ref", "main")
        .require(|claims| claims.get("ok") == Some(&true.into()))
        .max_lifetime(Duration::from_secs(3600))
        .token_types(["at+jwt"]);
    let guard = es256_guard(&signer, issuer);
    let header = r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#;
    let token = |changes: Value| {
        let mut all = json!({ "repository": "a/b", "ref": "main", "ok": true });
        for (name, value) in changes.as_object().unwrap() {
            all[name] = value.clone();
        }
        signer.sign(header, &claims(all))
    };
    assert!(guard.diagnose(token(json!({}))).await.is_admitted());
    let unmet = token(json!({ "repository": "a/c\u{202e}", "ref": null }));
    let expected = r#"found "repository": "a/c\u{202e}", no claim "ref", expected "repository": "a/b", "ref": "main""#;
    assert_fails(&guard, &unmet, "required claims", &[expected]).await;
    let not_ok = token(json!({ "ok": false }));
    assert_fails(&guard, &not_ok, "claim conditions", &["returned false"]).await;
    let long = token(json!({ "exp": NOW + 7200 }));
    assert_fails(
        &guard,
        &long,
        "lifetime",
        &["found 7210 s", "expected at most 3600 s"],
    )
    .await;
    let untyped = signer.sign(HEADER, &claims(json!({})));
    assert_fails(
        &guard,
        &untyped,
        "type",
        &[r#"found no typ, expected one of ["at+jwt"]"#],
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_policy_is_shown_with_the_rule_and_similar_members() {
    let issuer = MemoryIssuer::new("https://cluster.example").unwrap();
    let guard = OidcGuard::builder()
        .issuer(Issuer::kubernetes(issuer.url()).audience("me"))
        .policy(
            Policy::members([
                "system:serviceaccount:shop:web",
                "system:serviceaccounts:shop-admin",
            ])
            .deny(["system:serviceaccount:shop:legacy"]),
        )
        .http_client(issuer.client())
        .build()
        .unwrap();
    let token = |namespace, name| {
        let token = issuer.token().audience("me");
        token.service_account(namespace, name).mint()
    };
    let web = token("shop", "web");
    assert!(guard.diagnose(&web).await.is_admitted());
    for (token, texts) in [
        (
            token("shop", "weeb"),
            &[
                "system:serviceaccount:shop:weeb of https://cluster.example is not an allowed member",
                r#"among others, ["system:serviceaccount:shop:web"]"#,
            ][..],
        ),
        (
            token("stage", "web"),
            &[r#"["system:serviceaccount:shop:web"]"#],
        ),
        (
            token("shop-admins", "x"),
            &[r#"["system:serviceaccounts:shop-admin"]"#],
        ),
        (
            token("shop", "legacy"),
            &["system:serviceaccount:shop:legacy is denied"],
        ),
    ] {
        assert_fails(&guard, &token, "policy", texts).await;
    }
    // The policy is evaluated for a caller whose token has another fault, too, if its signature is valid.
    let expired = issuer
        .token()
        .audience("me")
        .service_account("shop", "legacy");
    let expired = expired.issued_at(unix_time(NOW - 100_000_000)).mint();
    let diagnosis = assert_fails(&guard, &expired, "expiry", &["expired"]).await;
    assert!(
        line(&diagnosis, "policy").contains("is denied"),
        "{diagnosis}"
    );

    let other = guard
        .layer_with(Policy::members(["system:serviceaccounts:ops"]))
        .unwrap();
    let diagnosis = other.diagnose(&web).await;
    assert_eq!(diagnosis.rejection().unwrap().reason(), "not_allowed");
    assert!(decision(&other, web.as_bytes()).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn missing_keys_are_shown_with_the_whole_cause() {
    let signer = Signer::new();
    let token = signer.sign(HEADER, &claims(json!({})));
    let guard = with_reason(OidcGuard::builder())
        .issuer(issuer_settings())
        .any_verified_caller()
        .http_client(document_client(HashMap::new()))
        .clock(|| unix_time(NOW))
        .build()
        .unwrap();
    let url = "https://issuer.example/.well-known/openid-configuration";
    let texts = [
        &format!("GET {url} returned 404 Not Found"),
        "usable keys of \"https://issuer.example\"",
    ];
    let diagnosis = assert_fails(&guard, &token, "keys", &texts).await;
    assert_agrees(
        &diagnosis,
        decision(&guard.layer(), token.as_bytes()).await.as_deref(),
    );
    for name in ["allowed algorithm", "key", "signature", "policy"] {
        let line = line(&diagnosis, name);
        assert!(line.contains("not checked"), "{line}");
    }
}

/// Creates a guard whose issuer states this time in its responses.
fn guard_with_date(signer: &Signer, date: &'static str, leeway: u64) -> OidcGuard {
    let discovery = json!({ "issuer": ISSUER_URL, "jwks_uri": "https://keys.example/jwks",
        "id_token_signing_alg_values_supported": ["ES256"] });
    let keys = json!({ "keys": [signer.jwk()] }).to_string();
    let client = mock_client(move |request| {
        let is_keys = request.url().path() == "/jwks";
        let body = if is_keys {
            keys.clone()
        } else {
            discovery.to_string()
        };
        let response = Response::builder().header("date", date);
        response.body(body.into_bytes()).unwrap()
    });
    OidcGuard::builder()
        .issuer(
            Issuer::oidc(ISSUER_URL)
                .audience(AUDIENCE)
                .leeway(Duration::from_secs(leeway)),
        )
        .any_verified_caller()
        .http_client(client)
        .clock(|| unix_time(NOW))
        .build()
        .unwrap()
}

/// 121 s before [`NOW`].
const BEHIND: &str = "Fri, 15 Jan 2027 07:57:59 GMT";

#[tokio::test(start_paused = true)]
async fn a_difference_between_the_clocks_is_shown_with_the_times_and_in_the_health() {
    let signer = Signer::new();
    let guard = guard_with_date(&signer, BEHIND, 60);
    assert_eq!(guard.health()[0].clock_offset, None);
    let token = signer.sign(HEADER, &claims(json!({ "exp": NOW - 118 })));
    let text = "expired 118 s ago by this clock (leeway 60 s); the issuer's clock, by its `Date` header, is 121 s behind this machine's";
    assert_fails(&guard, &token, "expiry", &[text, "synchronize the clocks"]).await;
    assert_eq!(guard.health()[0].clock_offset.unwrap().seconds(), -121);
}

#[test]
fn a_large_difference_between_the_clocks_is_logged_with_a_warning() {
    if !is_child_process() {
        return run_in_child_process(
            "diagnosis::a_large_difference_between_the_clocks_is_logged_with_a_warning",
            &[],
        );
    }
    let logs = CapturedLogs::default();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_span_events(FmtSpan::NONE)
        .with_writer(logs.clone())
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let signer = Signer::new();
    runtime.block_on(async {
        guard_with_date(&signer, BEHIND, 60).ready().await.unwrap();
        let text = logs.text();
        let warning = text.lines().find(|line| line.contains("WARN")).unwrap();
        for part in [
            "the issuer's clock is 121 s behind this machine's, by the `Date` header of its response",
            "issuer=\"https://issuer.example\"",
            "clock_offset_seconds=-121",
            "leeway_seconds=60",
        ] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
        logs.clear();
        let close = "Fri, 15 Jan 2027 07:59:40 GMT";
        guard_with_date(&signer, close, 60).ready().await.unwrap();
        assert!(!logs.text().contains("WARN"), "{}", logs.text());
        guard_with_date(&signer, close, 10).ready().await.unwrap();
        assert!(logs.text().contains("20 s behind"), "{}", logs.text());
    });
}

/// A value for a claim: the accepted one, a similar one, or one of a wrong type.
fn variants(values: impl IntoIterator<Item = Value>) -> impl Strategy<Value = Option<Value>> {
    let values: Vec<_> = values.into_iter().map(Some).collect();
    // Most are left as they are, so that tokens with one fault and without any are frequent.
    prop_oneof![8 => Just(None), 3 => prop::sample::select(values)]
}

prop_compose! {
    /// Changes to valid claims.
    fn changes()(
        iss in variants([json!("https://issuer.example/"), json!("https://other.example"), json!("x"), json!(1), Value::Null]),
        aud in variants([json!([]), json!("https://b"), json!([AUDIENCE, "b"]), json!(1), Value::Null]),
        exp in variants([json!(NOW - 1), json!(NOW), json!(NOW + 1), json!(NOW + 90_000), json!("soon"), Value::Null]),
        nbf in variants([json!(NOW), json!(NOW + 1), json!(1e300), Value::Null]),
        iat in variants([json!(NOW + 1), json!(NOW - 90_000), Value::Null]),
        sub in variants([json!("other"), json!("denied"), json!(1), Value::Null]),
        cnf in variants([json!({}), Value::Null]),
        role in variants([json!("user"), json!(["admin"]), Value::Null]),
        ok in variants([json!(false), Value::Null]),
    ) -> Value {
        let mut changes = json!({ "role": "admin", "ok": true });
        let all = [("iss", iss), ("aud", aud), ("exp", exp), ("nbf", nbf), ("iat", iat), ("sub", sub), ("cnf", cnf), ("role", role), ("ok", ok)];
        for (name, value) in all {
            if let Some(value) = value {
                changes[name] = value;
            }
        }
        changes
    }
}

fn headers() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        10 => Just(HEADER),
        5 => prop::sample::select(vec![
            r#"{"alg":"ES256"}"#,
            r#"{"alg":"ES256","kid":"new"}"#,
            r#"{"alg":"RS256","kid":"k"}"#,
            r#"{"alg":"PS256","kid":"k"}"#,
            r#"{"alg":"HS256","kid":"k"}"#,
            r#"{"alg":"none"}"#,
            r#"{"alg":"ES256","kid":"k","typ":"at+jwt"}"#,
            r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#,
            r#"{"alg":"ES256","kid":"k","crit":[]}"#,
            r#"{"alg":"ES256","kid":1}"#,
            r#"{"kid":"k"}"#,
            "nonsense",
        ]),
    ]
}

/// A change to a token before it is sent.
#[derive(Debug, Clone)]
enum Wrapping {
    None,
    Around(&'static str, &'static str),
    Replaced(&'static str, &'static str),
    Cut(prop::sample::Index),
    OtherSignature,
    TooLong,
    Bytes(Vec<u8>),
}

fn wrappings() -> impl Strategy<Value = Wrapping> {
    let around = prop::sample::select(vec![
        ("\"", "\""),
        ("'", ""),
        ("Bearer ", ""),
        (" ", ""),
        ("", " "),
        ("", "\t "),
        ("", "\n"),
        ("", ","),
        ("", "="),
        ("{\"token\":\"", "\"}"),
        ("", ".a.b"),
        ("\u{feff}", ""),
    ]);
    let replaced = prop::sample::select(vec![
        (".", ". "),
        (".", ".."),
        (".", "\n"),
        ("e", "+"),
        (".", ""),
    ]);
    prop_oneof![
        20 => Just(Wrapping::None),
        3 => around.prop_map(|(before, after)| Wrapping::Around(before, after)),
        2 => replaced.prop_map(|(from, to)| Wrapping::Replaced(from, to)),
        2 => any::<prop::sample::Index>().prop_map(Wrapping::Cut),
        2 => Just(Wrapping::OtherSignature),
        1 => Just(Wrapping::TooLong),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Wrapping::Bytes),
    ]
}

impl Wrapping {
    fn apply(&self, token: &str) -> Vec<u8> {
        match self {
            Self::None => token.into(),
            Self::Around(before, after) => format!("{before}{token}{after}").into(),
            Self::Replaced(from, to) => token.replacen(from, to, 1).into(),
            Self::Cut(index) => token[..index.index(token.len())].into(),
            Self::OtherSignature => {
                let (input, _) = token.rsplit_once('.').unwrap();
                format!("{input}.{}", base64url(&[1; 64])).into()
            }
            Self::TooLong => format!("{token}{}", "A".repeat(17_000)).into(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

#[test]
fn the_decision_and_the_first_failed_check_are_those_on_a_request_whatever_the_token() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let _context = runtime.enter();
    let signer = Signer::new();
    let strict = || {
        issuer_settings()
            .require_claim("role", "admin")
            .require(|claims| claims.get("ok") == Some(&true.into()))
            .max_lifetime(Duration::from_secs(3600))
    };
    let policy = || Policy::members([format!("principal:{ISSUER_URL}#caller")]);
    let principal = format!("principal:{ISSUER_URL}#denied");
    let with_keys = |keys: &[Value], issuer| with_reason(guard_builder_with_keys(keys, issuer));
    let unreachable = with_reason(OidcGuard::builder().clock(|| unix_time(NOW)))
        .http_client(document_client(HashMap::new()));
    let second = Issuer::oidc("https://second.example")
        .audience("x")
        .keys_json(json!({ "keys": [signer.jwk()] }).to_string())
        .algorithms([tower_oidc_guard::Algorithm::ES256]);
    let guards = [
        with_keys(&[signer.jwk()], issuer_settings()).any_verified_caller(),
        with_keys(&[signer.jwk()], strict()).policy(policy().deny([principal])),
        with_keys(&[signer.jwk()], issuer_settings())
            .without_cache()
            .policy(policy())
            .issuer(second),
        with_keys(&[], issuer_settings()).any_verified_caller(),
        with_keys(
            &[signer.jwk()],
            issuer_settings().algorithms([tower_oidc_guard::Algorithm::RS256]),
        )
        .any_verified_caller(),
        unreachable.issuer(strict()).any_verified_caller(),
        with_keys(&[signer.jwk()], issuer_settings().token_types(["at+jwt"])).any_verified_caller(),
    ];
    let guards = guards.map(|builder| builder.build().unwrap());
    let seen = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let config = ProptestConfig::with_cases(1500);
    proptest!(config, |(header in headers(), changes in changes(), wrapping in wrappings(), guard in 0..guards.len())| {
        let guard = &guards[guard];
        let token = wrapping.apply(&signer.sign(header, &claims(changes)));
        runtime.block_on(async {
            let diagnosis = guard.diagnose(&token).await;
            let decided = decision(&guard.layer(), &token).await;
            assert_agrees(&diagnosis, decided.as_deref());
            assert_secret(&diagnosis, &String::from_utf8_lossy(&token));
            seen.borrow_mut().insert(decided);
        });
    });
    let seen = seen.into_inner();
    // There are 19 decisions, some of which are rare.
    assert!(seen.len() >= 16, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_reads_another_header_and_has_no_runtime_agrees_as_well() {
    let signer = Signer::new();
    let builder = guard_builder_with_keys(&[signer.jwk()], issuer_settings())
        .token_from([http::HeaderName::from_static("x-serverless-authorization")]);
    let guard = builder.any_verified_caller().build().unwrap();
    let token = signer.sign(HEADER, &claims(json!({})));
    assert_agrees(&guard.diagnose(&token).await, None);
    let thread = std::thread::spawn(move || {
        let guard = es256_guard(&signer, issuer_settings());
        let diagnosis = tokio_test_block_on(guard.diagnose(&token));
        assert_agrees(&diagnosis, Some("keys_unavailable"));
        assert!(
            line(&diagnosis, "keys").contains("no keys yet"),
            "{diagnosis}"
        );
    });
    thread.join().unwrap();
}

/// Polls a future that has nothing to wait for, outside a tokio runtime.
fn tokio_test_block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the future waits"),
    }
}
