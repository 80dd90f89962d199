//! Errors in a policy.

#[cfg(feature = "policy-file")]
use std::path::PathBuf;

use crate::text::Escaped;

/// The reason why a policy is invalid, or does not fit the issuers that a guard trusts.
///
/// The texts quote members and issuers with everything but printable ASCII escaped, so that invisible characters can be seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A member has none of the known forms.
    #[error(
        "the member {} has no known form{}; the forms are allUsers, allAuthenticatedUsers, system:authenticated, system:serviceaccounts, system:serviceaccounts:<namespace>, system:serviceaccount:<namespace>:<name>, serviceAccount:<email>, user:<email> and principal:<issuer>#<subject>",
        Escaped(member),
        did_you_mean(suggestion)
    )]
    UnknownMember {
        /// The member, as configured.
        member: String,
        /// A valid member that is similar to it.
        suggestion: Option<String>,
    },
    /// A member has a part too few or too many.
    #[error(
        "the member {} is incomplete or has too many parts; expected the form {form}{}",
        Escaped(member),
        did_you_mean(suggestion)
    )]
    MalformedMember {
        /// The member, as configured.
        member: String,
        /// The expected form.
        form: &'static str,
        /// A valid member that is similar to it.
        suggestion: Option<String>,
    },
    /// A part of a member is not valid on its platform, so the member would match no caller.
    #[error(
        "the member {} would match no caller: {reason}{}",
        Escaped(member),
        did_you_mean(suggestion)
    )]
    InvalidMember {
        /// The member, as configured.
        member: String,
        /// Which part is invalid, and what is allowed.
        reason: String,
        /// A valid member that is similar to it.
        suggestion: Option<String>,
    },
    /// A member is a group of Google accounts. Tokens do not contain groups, so membership cannot be checked.
    #[error(
        "the member {} is a group, and Google's tokens do not contain the groups of an account; list the accounts instead",
        Escaped(member)
    )]
    GroupMember {
        /// The member, as configured.
        member: String,
    },
    /// A member in the list of one issuer does not belong to that issuer.
    #[error(
        "the member {} is listed for the issuer {}, to which it does not belong; move it out of that list (in code, combine `Policy::members` and `Policy::members_of` with `Policy::any_of`)",
        Escaped(member),
        Escaped(issuer)
    )]
    IssuerMismatch {
        /// The member, as configured.
        member: String,
        /// The issuer in whose list it is.
        issuer: String,
    },
    /// No trusted issuer issues tokens for a member.
    #[error(
        "the policy has members of {platform}, and no trusted issuer is of that platform; add such an issuer to the guard, or remove the members"
    )]
    NoIssuerForPlatform {
        /// The platform.
        platform: &'static str,
    },
    /// Several trusted issuers issue tokens for a member.
    #[error(
        "the policy has members of {platform}, and several trusted issuers are of that platform; state which one is meant with `principal:<issuer>#<subject>`, or with an `issuer` and its `members` in the list of the file (in code, `Policy::members_of`)"
    )]
    AmbiguousIssuer {
        /// The platform.
        platform: &'static str,
    },
    /// A member belongs to an issuer that is not trusted.
    #[error(
        "the policy has members of the issuer {}, which the guard does not trust{}; issuers are compared exactly",
        Escaped(issuer),
        did_you_mean(suggestion)
    )]
    UntrustedIssuer {
        /// The issuer, as written in the policy.
        issuer: String,
        /// A trusted issuer that is similar to it.
        suggestion: Option<String>,
    },
    /// The issuer of a member cannot be an `iss`.
    #[error(
        "the policy has members of the issuer {}, which cannot be an `iss`: {reason}",
        Escaped(issuer)
    )]
    InvalidIssuer {
        /// The issuer, as written in the policy.
        issuer: String,
        /// Why it is invalid.
        reason: String,
    },
    /// Members in the list of one issuer belong to another platform than the issuer.
    #[error(
        "the policy has members of {platform} in the list of the issuer {}, which is not of that platform",
        Escaped(issuer)
    )]
    PlatformMismatch {
        /// The issuer, as written in the policy.
        issuer: String,
        /// The platform of the members.
        platform: &'static str,
    },
    /// The policy requires an audience that no trusted issuer has, so it would allow no caller.
    #[error(
        "the policy requires the audience {}, and no trusted issuer has that audience, so no caller would be allowed; add it to an issuer with `Issuer::audience`, or correct it",
        Escaped(audience)
    )]
    UnknownAudience {
        /// The audience, as written in the policy.
        audience: String,
    },
    /// The policy requires an audience that no token can have.
    #[error(
        "the policy requires the audience {}, which no token can have: {reason}",
        Escaped(audience)
    )]
    InvalidAudience {
        /// The audience, as written in the policy.
        audience: String,
        /// Why it is invalid.
        reason: String,
    },
    /// The policy requires a scope that no token can have.
    #[error(
        "the policy requires the scope {}, which no token can have: {reason}",
        Escaped(scope)
    )]
    InvalidScope {
        /// The scope, as written in the policy.
        scope: String,
        /// Why it is invalid.
        reason: String,
    },
    /// A part of a policy file does not fit the issuers that the guard trusts.
    #[cfg(feature = "policy-file")]
    #[error("{}:{line}:{column}: {error}", path.display())]
    InFile {
        /// The path of the file.
        path: PathBuf,
        /// The line of the part, from 1.
        line: u64,
        /// The column of the part, in characters from 1.
        column: u64,
        /// The error of the part.
        error: Box<Self>,
    },
    /// The policy requires a claim without a name or value.
    #[error("the policy cannot require the claim {}: {reason}", Escaped(claim))]
    InvalidClaim {
        /// The name of the claim.
        claim: String,
        /// Why it is invalid.
        reason: String,
    },
}

/// Returns a suggestion as the end of a sentence, or an empty text.
fn did_you_mean(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|suggestion| format!("; did you mean {}?", Escaped(suggestion)))
        .unwrap_or_default()
}
