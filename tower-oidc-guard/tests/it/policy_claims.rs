//! Required claims: nested ones, matchers, the same in code and in a file, and what explanations say.

use serde_json::{Value, json};
use tower_oidc_guard::testing::TestIdentity;
use tower_oidc_guard::{
    BuildError, ClaimMatcher, Identity, Issuer, OidcGuard, Policy, PolicyError, TokenError,
    VerifyError,
};

use crate::support::in_memory::policy_error;
use crate::support::signer::Signer;
use crate::support::{guard_builder_with_keys, issuer_settings};

/// A caller with these claims beside the registered ones.
fn caller(claims: &Value) -> Identity {
    let mut caller = TestIdentity::oidc("https://id.example", "s");
    for (name, value) in claims.as_object().expect("an object") {
        caller = caller.claim(name, value.clone());
    }
    caller.build()
}

fn requiring(name: &str, matcher: impl Into<ClaimMatcher>) -> Policy {
    Policy::any_verified_caller().require_claim(name, matcher)
}

/// A requirement in code and in a file, with claims that meet it and claims that do not.
struct Case {
    name: &'static str,
    matcher: ClaimMatcher,
    in_file: &'static str,
    met: Vec<Value>,
    unmet: Vec<Value>,
}

fn cases() -> Vec<Case> {
    let pod = |name: Value| json!({ "kubernetes.io": { "pod": { "name": name } } });
    vec![
        Case {
            name: "/kubernetes.io/pod/name",
            matcher: ClaimMatcher::glob("web-*"),
            in_file: "/kubernetes.io/pod/name: { glob: \"web-*\" }",
            met: vec![pod(json!("web-1")), pod(json!("web-"))],
            unmet: vec![
                pod(json!("xweb-1")),
                pod(json!(["web-1"])),
                pod(Value::Null),
                json!({ "kubernetes.io": { "pod": "web-1" } }),
                json!({ "kubernetes.io/pod/name": "web-1", "/kubernetes.io/pod/name": "web-1" }),
                json!({ "kubernetes": { "io": { "pod": { "name": "web-1" } } } }),
                json!({}),
            ],
        },
        Case {
            name: "https://id.example/roles",
            matcher: ClaimMatcher::contains("admin"),
            in_file: "https://id.example/roles: { contains: admin }",
            met: vec![json!({ "https://id.example/roles": ["user", "admin"] })],
            unmet: vec![
                json!({ "https://id.example/roles": "admin" }),
                json!({ "https://id.example/roles": ["administrator"] }),
                json!({ "https:": { "": { "id.example": { "roles": ["admin"] } } } }),
            ],
        },
        Case {
            name: "/realm_access/roles",
            matcher: ClaimMatcher::contains(ClaimMatcher::one_of(["a", "b"])),
            in_file: "/realm_access/roles: { contains: { one_of: [a, b] } }",
            met: vec![json!({ "realm_access": { "roles": ["x", "b"] } })],
            unmet: vec![json!({ "realm_access": { "roles": ["ab", 1, null, ["a"]] } })],
        },
        Case {
            name: "groups",
            matcher: ClaimMatcher::all_of([
                ClaimMatcher::contains("a"),
                ClaimMatcher::contains(ClaimMatcher::prefix("team-")),
            ]),
            in_file: "groups: { all_of: [{ contains: a }, { contains: { prefix: team- } }] }",
            met: vec![json!({ "groups": ["team-x", "a"] })],
            unmet: vec![
                json!({ "groups": ["a", "team"] }),
                json!({ "groups": ["team-x"] }),
            ],
        },
        Case {
            name: "ref",
            matcher: ClaimMatcher::one_of([
                ClaimMatcher::equals("refs/heads/main"),
                ClaimMatcher::prefix("refs/tags/v"),
            ]),
            in_file: "ref: { one_of: [refs/heads/main, { prefix: refs/tags/v }] }",
            met: vec![
                json!({ "ref": "refs/heads/main" }),
                json!({ "ref": "refs/tags/v1/x" }),
            ],
            unmet: vec![
                json!({ "ref": "refs/heads/mainly" }),
                json!({ "ref": "xrefs/tags/v1" }),
                json!({ "ref": ["refs/heads/main"] }),
            ],
        },
        Case {
            name: "ref",
            matcher: ClaimMatcher::all_of([
                ClaimMatcher::prefix("refs/"),
                ClaimMatcher::glob("*/main"),
            ]),
            in_file: "ref: { prefix: refs/, glob: \"*/main\" }",
            met: vec![json!({ "ref": "refs/heads/main" })],
            unmet: vec![
                json!({ "ref": "refs/heads/x" }),
                json!({ "ref": "heads/main" }),
            ],
        },
        Case {
            name: "/list/1",
            matcher: ClaimMatcher::equals(7),
            in_file: "/list/1: 7",
            met: vec![json!({ "list": [0, 7] })],
            unmet: vec![
                json!({ "list": [7] }),
                json!({ "list": [0, "7"] }),
                json!({ "list": { "1": 8 } }),
            ],
        },
        Case {
            name: "act",
            matcher: ClaimMatcher::equals(json!({ "prefix": "x" })),
            in_file: "act: { equals: { prefix: x } }",
            met: vec![json!({ "act": { "prefix": "x" } })],
            unmet: vec![
                json!({ "act": "x" }),
                json!({ "act": { "prefix": "x", "y": 1 } }),
            ],
        },
        Case {
            name: "act",
            matcher: ClaimMatcher::equals(json!({ "sub": "x" })),
            in_file: "act: { sub: x }",
            met: vec![json!({ "act": { "sub": "x" } })],
            unmet: vec![json!({ "act": { "sub": "y" } })],
        },
        Case {
            name: "level",
            matcher: ClaimMatcher::one_of([json!(1), json!("2"), json!(true)]),
            in_file: "level: { one_of: [1, \"2\", true] }",
            met: vec![
                json!({ "level": 1 }),
                json!({ "level": "2" }),
                json!({ "level": true }),
            ],
            unmet: vec![
                json!({ "level": "1" }),
                json!({ "level": 2 }),
                json!({ "level": "true" }),
            ],
        },
    ]
}

#[test]
fn a_policy_requires_nested_claims_and_matchers() {
    for Case {
        name,
        matcher,
        met,
        unmet,
        ..
    } in cases()
    {
        let policy = requiring(name, matcher.clone());
        for claims in met {
            let decision = policy.explain(&caller(&claims));
            assert!(
                decision.is_allowed(),
                "{name} {matcher} {claims}: {decision}"
            );
        }
        for claims in unmet {
            let decision = policy.explain(&caller(&claims));
            assert!(
                !decision.is_allowed(),
                "{name} {matcher} {claims}: {decision}"
            );
            let reason = decision.reason();
            assert!(
                reason.contains(name) && reason.contains(&matcher.to_string()),
                "{reason}"
            );
        }
    }
}

#[cfg(feature = "policy-file")]
#[tokio::test]
async fn a_file_requires_the_same_as_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    for Case {
        name,
        matcher,
        in_file,
        met,
        unmet,
    } in cases()
    {
        let content = format!("allow: [allAuthenticatedUsers]\nclaims:\n  {in_file}\n");
        std::fs::write(&path, content).unwrap();
        let summary = tower_oidc_guard::PolicyFile::check(&path).unwrap();
        assert_eq!(summary.claims(), [format!("{name}: {matcher}")]);
        let file = tower_oidc_guard::PolicyFile::open(&path).await.unwrap();
        for claims in met {
            assert!(
                file.policy().explain(&caller(&claims)).is_allowed(),
                "{in_file} {claims}"
            );
        }
        for claims in unmet {
            assert!(
                !file.policy().explain(&caller(&claims)).is_allowed(),
                "{in_file} {claims}"
            );
        }
    }
}

#[tokio::test]
async fn an_issuer_requires_nested_claims_and_matchers() {
    let signer = Signer::new();
    let settings = issuer_settings()
        .require_claim("/a/b", ClaimMatcher::prefix("x"))
        .require_claim("groups", ClaimMatcher::contains("g"));
    let guard = guard_builder_with_keys(&[signer.jwk()], settings)
        .any_verified_caller()
        .build()
        .unwrap();
    let unmet = || Err(VerifyError::InvalidToken(TokenError::UnmetClaim));
    for (members, is_met) in [
        (r#""a":{"b":"xy"},"groups":["g"]"#, true),
        (r#""groups":["f","g"],"a":{"c":{},"b":"x"}"#, true),
        (r#""a":{"b":"y"},"groups":["g"]"#, false),
        (r#""a":{"b":"x"},"groups":[]"#, false),
        (r#""a":{"b":"x"}"#, false),
        // Other readers of the token may use the first or the last of the two.
        (r#""a":{"b":"x","b":"y"},"groups":["g"]"#, false),
        (r#""a":{"b":"y","b":"x"},"groups":["g"]"#, false),
        (r#""a":{"b":"x","\u0062":"x"},"groups":["g"]"#, false),
    ] {
        let token = signer.sign(HEADER, &with_members(members));
        let result = verify(&guard, &token).await.map(|_| ());
        assert_eq!(result, if is_met { Ok(()) } else { unmet() }, "{members}");
    }
}

const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

fn with_members(members: &str) -> String {
    let valid = crate::support::claims(json!({}));
    format!("{},{members}}}", valid.strip_suffix('}').unwrap())
}

#[tokio::test]
async fn a_deeply_nested_claim_is_not_found_or_found_without_using_the_stack() {
    let signer = Signer::new();
    let depth = 1500;
    let deep = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let list = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let token = signer.sign(HEADER, &with_members(&format!(r#""x":{deep},"y":{list}"#)));
    let at = |parts: usize| format!("/x{}", "/a".repeat(parts));
    for (policy, is_allowed) in [
        (requiring("/x/b", 1), false),
        (requiring(&at(31), 1), false),
        (requiring("/y", ClaimMatcher::contains(1)), false),
        (requiring("sub", ClaimMatcher::glob("*")), true),
    ] {
        let guard = guard_builder_with_keys(&[signer.jwk()], issuer_settings());
        let guard = guard.policy(policy).build().unwrap();
        let caller = verify(&guard, &token).await.unwrap();
        assert_eq!(guard.policy().explain(&caller).is_allowed(), is_allowed);
    }
}

#[test]
fn requirements_that_cannot_be_meant_do_not_build() {
    for (name, matcher, text) in [
        ("/a~2", ClaimMatcher::equals(1), "JSON pointer"),
        ("/a~", ClaimMatcher::equals(1), "JSON pointer"),
        (&"/a".repeat(33), ClaimMatcher::equals(1), "32 parts"),
        ("", ClaimMatcher::prefix("a"), "name is empty"),
        ("a", ClaimMatcher::prefix(""), "`prefix` is empty"),
        ("a", ClaimMatcher::glob(""), "`glob` is empty"),
        (
            "a",
            ClaimMatcher::glob("a".repeat(256)),
            "256 characters; at most 255",
        ),
        ("a", ClaimMatcher::glob("a\\b"), "backslash"),
        ("a", ClaimMatcher::one_of([""; 0]), "`one_of`"),
        ("a", ClaimMatcher::all_of([""; 0]), "`all_of`"),
        ("a", ClaimMatcher::contains(Value::Null), "null"),
        ("a", ClaimMatcher::one_of([json!("b"), Value::Null]), "null"),
    ] {
        for policy in [
            requiring(name, matcher.clone()),
            Policy::any_of([requiring(name, matcher.clone())]),
            Policy::any_of([requiring("sub", "s")]).require_claim(name, matcher.clone()),
        ] {
            let error = policy_error(policy);
            assert!(
                matches!(error, PolicyError::InvalidClaim { .. }),
                "{error:?}"
            );
            assert!(error.to_string().contains(text), "{error}");
        }
        let issuer = Issuer::oidc("https://id.example").audience("a");
        let guard = OidcGuard::builder()
            .issuer(issuer.require_claim(name, matcher))
            .any_verified_caller();
        let error = guard.build().unwrap_err();
        assert!(matches!(error, BuildError::Issuer { .. }), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[test]
fn the_reason_names_the_claim_and_what_is_expected_and_no_value_of_the_token() {
    let evil = caller(&json!({ "team": "secret\nvalue\u{202e}" }));
    for (policy, reason) in [
        (
            requiring("team", "shop"),
            r#"the token does not have the required value of the claim "team": expected "shop""#,
        ),
        (
            requiring("team", ClaimMatcher::one_of(["b", "a"])),
            r#"the token does not have the required value of the claim "team": expected one of "a", "b""#,
        ),
        (
            requiring("sub", "s").require_claim("/a/b\u{202e}", ClaimMatcher::glob("x\n*")),
            r#"the token does not have the required value of the claim "/a/b\u{202e}": expected glob "x\n*""#,
        ),
    ] {
        assert_eq!(policy.explain(&evil).reason(), reason);
    }
}

async fn verify(guard: &OidcGuard, token: &str) -> Result<Identity, VerifyError> {
    guard.verifier().verify(token).await
}

#[cfg(feature = "policy-file")]
#[tokio::test]
async fn a_file_that_allows_everyone_of_a_public_issuer_has_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    let warnings = |issuer: Issuer, more: &str| {
        let content = format!("allow: [allAuthenticatedUsers]\n{more}");
        std::fs::write(&path, content).unwrap();
        let guard = OidcGuard::builder()
            .issuer(issuer.audience("a"))
            .any_verified_caller();
        let summary = guard.build().unwrap().check_policy_file(&path).unwrap();
        summary.warnings().to_vec()
    };
    let (github, gitlab) = (Issuer::github_actions, || {
        Issuer::gitlab("https://gitlab.com")
    });
    // Claims that anyone can have.
    for (issuer, claims) in [
        (Issuer::github_actions(), "ref: refs/heads/main"),
        (
            Issuer::github_actions(),
            "environment: production, event_name: push",
        ),
        (
            Issuer::github_actions(),
            "runner_environment: github-hosted",
        ),
        (Issuer::github_actions(), "repository_visibility: private"),
        (
            Issuer::github_actions(),
            "job_workflow_ref: { prefix: octo-org/ci/ }",
        ),
        (Issuer::github_actions(), "repository: { glob: \"*/web\" }"),
        (Issuer::github_actions(), "repository_id: { prefix: \"1\" }"),
        (Issuer::github_actions(), "sub: { prefix: \"repo:\" }"),
        (
            Issuer::github_actions(),
            "sub: { glob: \"*:ref:refs/heads/main\" }",
        ),
        (Issuer::github_actions(), "sub: \"ref:refs/heads/main\""),
        (
            Issuer::github_actions(),
            "repository: { one_of: [octo-org/web, { glob: \"*/api\" }] }",
        ),
        (
            Issuer::gitlab("https://gitlab.com"),
            "ref_protected: \"true\"",
        ),
        (
            Issuer::gitlab("https://gitlab.com"),
            "project_visibility: private",
        ),
        (
            Issuer::gitlab("https://gitlab.com"),
            "sub: { prefix: \"project_path:\" }",
        ),
        (Issuer::google(), "email_verified: true"),
    ] {
        let found = warnings(issuer, &format!("claims: {{ {claims} }}"));
        assert_eq!(found.len(), 1, "{claims}: {found:?}");
    }
    let github_ref = Issuer::github_actions().require_claim("ref", "refs/heads/main");
    assert_eq!(warnings(github_ref, "").len(), 1);
    // Claims that only the tokens of some owners have.
    for (issuer, claims) in [
        (
            Issuer::github_actions(),
            "ref: refs/heads/main, repository_owner_id: \"1\"",
        ),
        (
            Issuer::github_actions(),
            "repository_id: { one_of: [\"1\", \"2\"] }",
        ),
        (Issuer::github_actions(), "/repository_id: \"1\""),
        (
            Issuer::github_actions(),
            "repository: { prefix: octo-org/ }",
        ),
        (
            Issuer::github_actions(),
            "repository: { prefix: octo-org/, glob: \"*/web\" }",
        ),
        (Issuer::github_actions(), "enterprise: octo-enterprise"),
        (
            Issuer::github_actions(),
            "sub: { glob: \"repo:octo-org/*\" }",
        ),
        (
            Issuer::github_actions(),
            "sub: \"repo:octo-org/web:environment:production\"",
        ),
        (
            Issuer::gitlab("https://gitlab.com"),
            "namespace_path: my-group",
        ),
        (
            Issuer::gitlab("https://gitlab.com"),
            "sub: { prefix: \"project_path:my-group/\" }",
        ),
        (Issuer::google(), "hd: example.com"),
    ] {
        let found = warnings(issuer, &format!("claims: {{ {claims} }}"));
        assert!(found.is_empty(), "{claims}: {found:?}");
    }
    for (issuer, more, text) in [
        (
            github(),
            "",
            Some(
                "GitHub Actions is a trusted issuer without a required claim that identifies the owner",
            ),
        ),
        (
            gitlab(),
            "",
            Some(
                "gitlab.com is a trusted issuer without a required claim that identifies the owner",
            ),
        ),
        (Issuer::google(), "", Some("Google is a trusted issuer")),
        // A pattern that every text matches requires nothing.
        (
            github(),
            "claims: { repository: { glob: \"*\" } }",
            Some("GitHub Actions"),
        ),
        (
            github().require_claim("repository", ClaimMatcher::glob("**")),
            "",
            Some("GitHub Actions"),
        ),
        (github(), "claims: { repository_id: \"1\" }", None),
        (github(), "scopes: [a]", None),
        (github().require_claim("repository_id", "1"), "", None),
        (github().require(|_| true), "", None),
        (gitlab().require_claim("project_id", "20"), "", None),
        (Issuer::gitlab("https://gitlab.example.com"), "", None),
        (
            Issuer::github_enterprise("https://token.actions.githubusercontent.com/x"),
            "",
            None,
        ),
    ] {
        let found = warnings(issuer, more);
        match text {
            Some(text) => assert!(
                found.len() == 1 && found[0].contains(text),
                "{more}: {found:?}"
            ),
            None => assert!(found.is_empty(), "{more}: {found:?}"),
        }
    }
}
