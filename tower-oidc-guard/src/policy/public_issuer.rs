//! Issuers that anyone on the internet can get a token from.

use crate::jose::claim_matcher::Beginning;
use crate::jose::required_claims::{RequiredClaim, RequiredClaims};

/// An issuer that anyone on the internet can get a token from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublicIssuer {
    Google,
    /// GitHub Actions on github.com.
    GitHubActions,
    /// gitlab.com.
    GitLab,
}

/// Claims of jobs with the ID of their owner or of something that belongs to it.
const OWNER_IDS: [&str; 7] = [
    "repository_id",
    "repository_owner_id",
    "enterprise_id",
    "project_id",
    "namespace_id",
    "job_project_id",
    "job_namespace_id",
];

/// Claims of jobs with the name of their owner or of something that belongs to it. A workflow (`job_workflow_ref`) is none: anyone
/// can call a reusable workflow of a public repository.
const OWNER_NAMES: [&str; 7] = [
    "repository",
    "repository_owner",
    "enterprise",
    "project_path",
    "namespace_path",
    "job_project_path",
    "job_namespace_path",
];

/// Claims of Google that do not identify the caller.
const COMMON_TO_ALL: [&str; 7] = ["iss", "aud", "exp", "iat", "nbf", "typ", "email_verified"];

impl PublicIssuer {
    pub(super) const ALL: [Self; 3] = [Self::Google, Self::GitHubActions, Self::GitLab];

    /// Returns the warning about a policy that allows everyone with a token of this issuer.
    pub(super) fn warning(self) -> &'static str {
        match self {
            Self::Google => {
                "the policy allows allAuthenticatedUsers, and Google is a trusted issuer: anyone on the internet can get such a token"
            }
            Self::GitHubActions => {
                "the policy allows allAuthenticatedUsers, and GitHub Actions is a trusted issuer without a required claim that identifies the owner: anyone with a repository on GitHub can get such a token; require a claim such as repository_id"
            }
            Self::GitLab => {
                "the policy allows allAuthenticatedUsers, and gitlab.com is a trusted issuer without a required claim that identifies the owner: anyone with a project on gitlab.com can get such a token; require a claim such as project_id"
            }
        }
    }

    /// Returns whether the required claims keep out tokens of strangers. Claims that everyone can choose, such as the branch or the
    /// event of a job, do not.
    pub(crate) fn is_restricted_by(self, claims: &RequiredClaims) -> bool {
        claims.iter().any(|claim| match self {
            Self::Google => {
                let name = claim.top_level_name().unwrap_or_default();
                !COMMON_TO_ALL.contains(&name) && !claim.matcher.matches_every_text()
            }
            Self::GitHubActions | Self::GitLab => identifies_owner_of_job(claim),
        })
    }
}

fn identifies_owner_of_job(claim: &RequiredClaim) -> bool {
    let Some(name) = claim.top_level_name() else {
        // Claims of jobs are not nested.
        return false;
    };
    let is_enough = |beginning: Beginning<'_>| match beginning {
        Beginning::Whole(_) if OWNER_IDS.contains(&name) => true,
        Beginning::Whole(text) | Beginning::Start(text) if OWNER_NAMES.contains(&name) => {
            !text.is_empty()
        }
        Beginning::Whole(text) | Beginning::Start(text) if name == "sub" => names_owner(text),
        Beginning::Whole(_) | Beginning::Start(_) => false,
    };
    let is_known = OWNER_IDS.contains(&name) || OWNER_NAMES.contains(&name) || name == "sub";
    is_known && claim.matcher.every_text_begins(&is_enough)
}

/// Returns whether the beginning of a subject names an owner: `repo:octo-org/`, or a claim that a subject has been set to begin with.
/// The owner of a repository chooses which claims its subjects consist of, so one that begins with `ref:` may be from anyone.
fn names_owner(subject: &str) -> bool {
    let Some((label, value)) = subject.split_once(':') else {
        return false;
    };
    let is_owner = label == "repo" || OWNER_IDS.contains(&label) || OWNER_NAMES.contains(&label);
    is_owner && !value.is_empty()
}
