//! What can be wrong with a policy.

use crate::text::Escaped;

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A member is of none of the known kinds.
    #[error(
        "the member {} is of no known kind{}; the documentation of `Policy` lists the kinds",
        Escaped(member),
        perhaps(suggestion)
    )]
    UnknownMember {
        /// The member, as configured.
        member: String,
        /// A member that is close to it.
        suggestion: Option<String>,
    },
    /// A member lacks a part, or has one too many.
    #[error(
        "the member {} does not have the form {form}{}",
        Escaped(member),
        perhaps(suggestion)
    )]
    MalformedMember {
        /// The member, as configured.
        member: String,
        /// The form it should have.
        form: &'static str,
        /// A member that is close to it.
        suggestion: Option<String>,
    },
    /// A part of a member is nothing that its platform can have, so the member would never match.
    #[error(
        "the member {} can match nobody: {reason}{}",
        Escaped(member),
        perhaps(suggestion)
    )]
    InvalidMember {
        /// The member, as configured.
        member: String,
        /// Which part is wrong, and what is allowed.
        reason: String,
        /// A member that is close to it.
        suggestion: Option<String>,
    },
    /// A member is a group of Google's: who belongs to it does not stand in a token.
    #[error(
        "the member {} is a group, and a token does not say which groups its bearer is in; name the accounts",
        Escaped(member)
    )]
    GroupMember {
        /// The member, as configured.
        member: String,
    },
    /// A member that was named among those of one issuer is not one of that issuer's.
    #[error(
        "the member {} is not one of the issuer {}: name it outside of that issuer's members (in code with `Policy::members` and `Policy::any_of`)",
        Escaped(member),
        Escaped(issuer)
    )]
    IssuerMismatch {
        /// The member, as configured.
        member: String,
        /// The issuer whose members it was named among.
        issuer: String,
    },
    /// No issuer is trusted that could speak for a member.
    #[error("no trusted issuer speaks for members of {platform}; trust one, or leave them out")]
    NoIssuerForPlatform {
        /// The platform.
        platform: &'static str,
    },
    /// Several issuers could speak for a member.
    #[error(
        "several trusted issuers speak for members of {platform}; say which is meant, with `members_of` or `principal:<issuer>#<subject>`"
    )]
    AmbiguousIssuer {
        /// The platform.
        platform: &'static str,
    },
    /// A member is of an issuer that is not trusted.
    #[error(
        "the issuer {} of a member is not trusted{}; issuers are compared to the letter",
        Escaped(issuer),
        perhaps(suggestion)
    )]
    UntrustedIssuer {
        /// The issuer, as the policy names it.
        issuer: String,
        /// A trusted issuer whose name is close to it.
        suggestion: Option<String>,
    },
    /// The name of a member's issuer is not one that an issuer can have.
    #[error("the issuer {} of members cannot be one: {reason}", Escaped(issuer))]
    InvalidIssuer {
        /// The issuer, as the policy names it.
        issuer: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The members of an issuer are of another platform than it is.
    #[error("the issuer {issuer:?} does not speak for members of {platform}")]
    PlatformMismatch {
        /// The issuer, as the policy names it.
        issuer: String,
        /// The platform that its members are of.
        platform: &'static str,
    },
    /// The policy requires an audience that no trusted issuer's tokens are accepted for, so it would admit nobody.
    #[error(
        "the policy requires the audience {}, for which no trusted issuer's tokens are accepted; add it to an issuer with `Issuer::audience`, or correct it",
        Escaped(audience)
    )]
    UnknownAudience {
        /// The audience, as the policy names it.
        audience: String,
    },
    /// An audience that the policy requires is not one that a token can have.
    #[error(
        "the policy requires the audience {}, which cannot be one: {reason}",
        Escaped(audience)
    )]
    InvalidAudience {
        /// The audience, as the policy names it.
        audience: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A claim that the policy requires cannot be required so.
    #[error("the policy cannot require the claim {}: {reason}", Escaped(claim))]
    InvalidClaim {
        /// The name of the claim.
        claim: String,
        /// What is wrong with it.
        reason: String,
    },
}

fn perhaps(suggestion: &Option<String>) -> String {
    suggestion
        .as_ref()
        .map(|suggestion| format!("; did you mean {}?", Escaped(suggestion)))
        .unwrap_or_default()
}
