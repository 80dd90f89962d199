//! Identities of jobs of GitHub Actions and GitLab CI/CD.

use serde_json::{Value, json};
use tower_oidc_guard::testing::{MemoryIssuer, TestIdentity, TestIssuer};
use tower_oidc_guard::{
    ClaimMatcher, Identity, Issuer, OidcGuard, Platform, Policy, TokenError, VerifyError,
};

const AUDIENCE: &str = "https://auth-server.example";
const GITHUB: &str = "https://token.actions.githubusercontent.com";
const GITLAB: &str = "https://gitlab.example.com";
const GITHUB_CLAIMS: [&str; 26] = [
    "repository",
    "repository_id",
    "repository_owner",
    "repository_owner_id",
    "repository_visibility",
    "ref",
    "ref_type",
    "ref_protected",
    "sha",
    "head_ref",
    "base_ref",
    "event_name",
    "environment",
    "workflow",
    "workflow_ref",
    "workflow_sha",
    "job_workflow_ref",
    "job_workflow_sha",
    "actor",
    "actor_id",
    "run_id",
    "run_number",
    "run_attempt",
    "runner_environment",
    "enterprise",
    "enterprise_id",
];
const GITLAB_CLAIMS: [&str; 26] = [
    "project_id",
    "project_path",
    "namespace_id",
    "namespace_path",
    "job_project_id",
    "job_project_path",
    "job_namespace_id",
    "job_namespace_path",
    "project_visibility",
    "user_id",
    "user_login",
    "user_email",
    "pipeline_source",
    "pipeline_id",
    "job_id",
    "ref",
    "ref_type",
    "ref_path",
    "ref_protected",
    "sha",
    "environment",
    "environment_protected",
    "deployment_tier",
    "ci_config_ref_uri",
    "ci_config_sha",
    "runner_environment",
];

async fn verify(issuer: &MemoryIssuer, settings: Issuer, claims: &[(&str, Value)]) -> Identity {
    let guard = OidcGuard::builder()
        .issuer(settings.audience(AUDIENCE))
        .http_client(issuer.client())
        .any_verified_caller()
        .build()
        .unwrap();
    let mut token = issuer.token().audience(AUDIENCE);
    for (name, value) in claims {
        token = token.claim(*name, value.clone());
    }
    guard.verifier().verify(token.mint()).await.unwrap()
}

#[tokio::test]
async fn a_job_of_github_actions_has_the_claims_of_its_token() {
    let github = MemoryIssuer::github_actions().unwrap();
    let caller = verify(&github, Issuer::github_actions(), &[]).await;
    assert_eq!(
        (caller.issuer(), caller.platform()),
        (GITHUB, Platform::GitHubActions)
    );
    assert_eq!(
        caller.subject(),
        "repo:octo-org/octo-repo:ref:refs/heads/main"
    );
    assert!(
        caller.gitlab().is_none() && caller.kubernetes().is_none() && caller.google().is_none()
    );
    let job = caller.github_actions().unwrap();
    assert!(job.is_ref_protected());
    // The claims are empty texts, except for pull requests.
    assert_eq!(
        (job.head_ref(), job.base_ref(), job.enterprise()),
        (None, None, None)
    );
}

#[test]
fn each_method_of_a_job_of_github_actions_returns_its_own_claim() {
    // The value of each claim is its name.
    let mut caller = TestIdentity::github_actions("a/b");
    for claim in GITHUB_CLAIMS {
        caller = caller.claim(claim, claim);
    }
    let caller = caller.build();
    let job = caller.github_actions().unwrap();
    let found = [
        ("repository", job.repository()),
        ("repository_id", job.repository_id()),
        ("repository_owner", job.repository_owner()),
        ("repository_owner_id", job.repository_owner_id()),
        ("repository_visibility", job.repository_visibility()),
        ("ref", job.git_ref()),
        ("ref_type", job.ref_type()),
        ("ref_protected", job.ref_protected()),
        ("sha", job.sha()),
        ("head_ref", job.head_ref()),
        ("base_ref", job.base_ref()),
        ("event_name", job.event_name()),
        ("environment", job.environment()),
        ("workflow", job.workflow()),
        ("workflow_ref", job.workflow_ref()),
        ("workflow_sha", job.workflow_sha()),
        ("job_workflow_ref", job.job_workflow_ref()),
        ("job_workflow_sha", job.job_workflow_sha()),
        ("actor", job.actor()),
        ("actor_id", job.actor_id()),
        ("run_id", job.run_id()),
        ("run_number", job.run_number()),
        ("run_attempt", job.run_attempt()),
        ("runner_environment", job.runner_environment()),
        ("enterprise", job.enterprise()),
        ("enterprise_id", job.enterprise_id()),
    ];
    assert_eq!(found.map(|(claim, _)| claim), GITHUB_CLAIMS);
    for (claim, found) in found {
        assert_eq!(found, Some(claim));
    }
    assert!(!job.is_ref_protected());
}

#[tokio::test]
async fn a_job_of_gitlab_has_the_claims_of_its_token() {
    let gitlab = MemoryIssuer::gitlab(GITLAB).unwrap();
    let claims = [
        ("environment", json!("production")),
        ("environment_protected", json!("true")),
    ];
    let caller = verify(&gitlab, Issuer::gitlab(GITLAB), &claims).await;
    assert_eq!(
        (caller.issuer(), caller.platform()),
        (GITLAB, Platform::GitLab)
    );
    assert_eq!(
        caller.subject(),
        "project_path:my-group/my-project:ref_type:branch:ref:main"
    );
    assert!(caller.github_actions().is_none());
    let job = caller.gitlab().unwrap();
    assert!(job.is_ref_protected() && job.is_environment_protected());
}

#[test]
fn each_method_of_a_job_of_gitlab_returns_its_own_claim() {
    let mut caller = TestIdentity::gitlab("a/b");
    for claim in GITLAB_CLAIMS {
        caller = caller.claim(claim, claim);
    }
    let caller = caller.build();
    let job = caller.gitlab().unwrap();
    let found = [
        ("project_id", job.project_id()),
        ("project_path", job.project_path()),
        ("namespace_id", job.namespace_id()),
        ("namespace_path", job.namespace_path()),
        ("job_project_id", job.job_project_id()),
        ("job_project_path", job.job_project_path()),
        ("job_namespace_id", job.job_namespace_id()),
        ("job_namespace_path", job.job_namespace_path()),
        ("project_visibility", job.project_visibility()),
        ("user_id", job.user_id()),
        ("user_login", job.user_login()),
        ("user_email", job.user_email()),
        ("pipeline_source", job.pipeline_source()),
        ("pipeline_id", job.pipeline_id()),
        ("job_id", job.job_id()),
        ("ref", job.git_ref()),
        ("ref_type", job.ref_type()),
        ("ref_path", job.ref_path()),
        ("ref_protected", job.ref_protected()),
        ("sha", job.sha()),
        ("environment", job.environment()),
        ("environment_protected", job.environment_protected()),
        ("deployment_tier", job.deployment_tier()),
        ("ci_config_ref_uri", job.ci_config_ref_uri()),
        ("ci_config_sha", job.ci_config_sha()),
        ("runner_environment", job.runner_environment()),
    ];
    assert_eq!(found.map(|(claim, _)| claim), GITLAB_CLAIMS);
    for (claim, found) in found {
        assert_eq!(found, Some(claim));
    }
    assert!(!job.is_ref_protected() && !job.is_environment_protected());
}

#[test]
fn a_claim_of_another_type_is_absent_and_protects_nothing() {
    for value in [
        json!(true),
        json!(1),
        json!(["true"]),
        json!({}),
        Value::Null,
        json!(""),
        json!("True"),
        json!("false"),
    ] {
        let caller = TestIdentity::gitlab("a/b")
            .claim("ref_protected", value.clone())
            .build();
        let job = caller.gitlab().unwrap();
        assert!(!job.is_ref_protected(), "{value}");
        assert_eq!(job.project_path(), Some("a/b"));
        let caller = TestIdentity::github_actions("a/b")
            .claim("repository_id", value.clone())
            .build();
        let job = caller.github_actions().unwrap();
        assert_eq!(
            job.repository_id(),
            value.as_str().filter(|text| !text.is_empty()),
            "{value}"
        );
        assert_eq!(job.repository(), Some("a/b"));
    }
    let without = TestIdentity::gitlab("a/b")
        .without_claim("ref_protected")
        .build();
    assert!(without.gitlab().is_some_and(|job| !job.is_ref_protected()));
}

#[tokio::test]
async fn another_issuer_cannot_imitate_a_job() {
    let repository = [("repository_id", json!("74")), ("project_id", json!("20"))];
    let github = MemoryIssuer::github_actions().unwrap();
    let as_oidc = verify(&github, Issuer::oidc(GITHUB), &repository).await;
    assert_eq!(as_oidc.platform(), Platform::Other);
    let gitlab = MemoryIssuer::gitlab(GITLAB).unwrap();
    let as_gitlab = verify(&gitlab, Issuer::gitlab(GITLAB), &repository).await;
    let cluster = MemoryIssuer::new(GITLAB).unwrap();
    let as_cluster = verify(&cluster, Issuer::kubernetes(GITLAB), &repository).await;
    assert!(as_oidc.github_actions().is_none() && as_oidc.gitlab().is_none());
    assert!(as_gitlab.github_actions().is_none());
    assert!(as_cluster.github_actions().is_none() && as_cluster.gitlab().is_none());
    let policy = Policy::any_verified_caller().require(|caller| {
        caller
            .github_actions()
            .is_some_and(|job| job.repository_id() == Some("74"))
    });
    assert!(!policy.explain(&as_oidc).is_allowed() && !policy.explain(&as_gitlab).is_allowed());
}

/// IDs are unique within an instance only.
#[tokio::test]
async fn the_same_id_in_another_instance_is_another_project_or_repository() {
    let claims = [("repository_id", json!("74")), ("project_id", json!("20"))];
    let enterprise_url = "https://github.example.com/_services/token";
    let other_url = "https://gitlab.com";
    let github = MemoryIssuer::github_actions().unwrap();
    let enterprise = MemoryIssuer::gitlab(enterprise_url).unwrap();
    let gitlab = MemoryIssuer::gitlab(GITLAB).unwrap();
    let other = MemoryIssuer::gitlab(other_url).unwrap();
    let repository = verify(&github, Issuer::github_actions(), &claims).await;
    let enterprise_settings = Issuer::github_enterprise(enterprise_url);
    let same_repository_id = verify(&enterprise, enterprise_settings, &claims).await;
    let project = verify(&gitlab, Issuer::gitlab(GITLAB), &claims).await;
    let same_project_id = verify(&other, Issuer::gitlab(other_url), &claims).await;
    let has_repository_id = |caller: &Identity| {
        let job = caller.github_actions();
        job.is_some_and(|job| job.repository_id() == Some("74"))
    };
    let has_project_id = |caller: &Identity| {
        let job = caller.gitlab();
        job.is_some_and(|job| job.project_id() == Some("20"))
    };
    assert!(has_repository_id(&same_repository_id) && has_project_id(&same_project_id));
    let of_github = Policy::members_of(GITHUB, ["allAuthenticatedUsers"]);
    let of_gitlab = Policy::members_of(GITLAB, ["allAuthenticatedUsers"]);
    for (policy, allowed, refused) in [
        (
            of_github.clone().require(has_repository_id),
            &repository,
            &same_repository_id,
        ),
        (
            of_github.require_claim("repository_id", "74"),
            &repository,
            &same_repository_id,
        ),
        (
            of_gitlab.clone().require(has_project_id),
            &project,
            &same_project_id,
        ),
        (
            of_gitlab.require_claim("project_id", "20"),
            &project,
            &same_project_id,
        ),
    ] {
        assert!(policy.explain(allowed).is_allowed());
        assert!(!policy.explain(refused).is_allowed());
    }
}

#[tokio::test]
async fn an_enterprise_has_an_issuer_of_its_own() {
    for url in [
        "https://github.example.com/_services/token",
        "https://token.actions.githubusercontent.com/octo-enterprise",
    ] {
        // Tokens of an issuer at another URL with the claims of a job.
        let issuer = MemoryIssuer::gitlab(url).unwrap();
        let enterprise = verify(
            &issuer,
            Issuer::github_enterprise(url),
            &[("repository_id", json!("74"))],
        )
        .await;
        let job = enterprise.github_actions().unwrap();
        assert_eq!(
            (enterprise.issuer(), job.repository_id()),
            (url, Some("74"))
        );
    }
}

#[tokio::test]
async fn tokens_of_other_repositories_and_branches_are_rejected_by_claims_of_the_issuer() {
    let github = TestIssuer::github_actions().await.unwrap();
    let job = github
        .token()
        .audience(AUDIENCE)
        .github_repository("octo-org/web")
        .claim("repository_id", "74");
    let guard = OidcGuard::builder()
        .issuer(
            github
                .issuer()
                .audience(AUDIENCE)
                .require_claim("repository_id", "74")
                .require_claim(
                    "ref",
                    ClaimMatcher::one_of([
                        ClaimMatcher::equals("refs/heads/main"),
                        ClaimMatcher::prefix("refs/tags/v"),
                    ]),
                ),
        )
        .any_verified_caller()
        .build()
        .unwrap();
    for (token, is_valid) in [
        (job.clone(), true),
        (job.clone().claim("ref", "refs/tags/v1"), true),
        (job.clone().claim("ref", "refs/heads/mainly"), false),
        (job.clone().claim("repository_id", 74), false),
        (job.github_repository("octo-org/web-evil"), false),
    ] {
        let result = guard.verifier().verify(token.mint()).await.map(|_| ());
        let unmet = Err(VerifyError::InvalidToken(TokenError::UnmetClaim));
        assert_eq!(result, if is_valid { Ok(()) } else { unmet }, "{token:?}");
    }
}

#[tokio::test]
async fn a_loopback_instance_of_gitlab_is_trusted_by_its_settings() {
    let gitlab = TestIssuer::gitlab().await.unwrap();
    let guard = OidcGuard::builder()
        .issuer(gitlab.issuer().audience(AUDIENCE))
        .any_verified_caller()
        .build()
        .unwrap();
    let token = gitlab
        .token()
        .audience(AUDIENCE)
        .gitlab_project("a/b/c")
        .mint();
    let caller = guard.verifier().verify(token).await.unwrap();
    let job = caller.gitlab().unwrap();
    assert_eq!(
        (job.project_path(), job.namespace_path()),
        (Some("a/b/c"), Some("a/b"))
    );
}
