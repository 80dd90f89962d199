//! What can be wrong with a policy.

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A member is none of the kinds there are.
    #[error(
        "the member {member:?} is of no known kind; see the documentation of `Policy` for the kinds there are"
    )]
    UnknownMember {
        /// The member, as configured.
        member: String,
    },
    /// A member lacks a part, or has one too many.
    #[error("the member {member:?} is not complete: it has the form {form}")]
    Incomplete {
        /// The member, as configured.
        member: String,
        /// The form it should have.
        form: &'static str,
    },
    /// A member is a group of Google's: who belongs to it does not stand in a token.
    #[error(
        "the member {member:?} is a group, and a token does not say which groups its bearer is in; name the accounts"
    )]
    Group {
        /// The member, as configured.
        member: String,
    },
    /// No issuer is trusted that could speak for a member.
    #[error("no trusted issuer speaks for members of {platform}; trust one, or leave them out")]
    NoSuchIssuer {
        /// The platform.
        platform: &'static str,
    },
    /// Several issuers could speak for a member.
    #[error(
        "several trusted issuers speak for members of {platform}; say which is meant, with `members_of` or `principal:<issuer>#<subject>`"
    )]
    WhichIssuer {
        /// The platform.
        platform: &'static str,
    },
    /// A member is of an issuer that is not trusted.
    #[error("the issuer {issuer:?} of a member is not trusted; issuers are compared to the letter")]
    UntrustedIssuer {
        /// The issuer, as the policy names it.
        issuer: String,
    },
    /// The members of an issuer are of another platform than it is.
    #[error("the issuer {issuer:?} does not speak for members of {platform}")]
    OtherPlatform {
        /// The issuer, as the policy names it.
        issuer: String,
        /// The platform that its members are of.
        platform: &'static str,
    },
}
