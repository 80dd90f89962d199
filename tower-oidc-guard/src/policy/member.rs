//! One member, in the words of its platform.

use super::PolicyError;

/// A member, read.
pub(super) enum Member<'m> {
    Anyone,
    AnyVerified,
    /// `system:authenticated`.
    ClusterUsers,
    /// `system:serviceaccounts`.
    ServiceAccounts,
    /// The namespace of `system:serviceaccounts:<namespace>`.
    Namespace(&'m str),
    /// A whole subject, `system:serviceaccount:<namespace>:<name>`.
    ServiceAccount(&'m str),
    /// Of a service account or a user of Google's.
    Email(&'m str),
    Principal {
        issuer: &'m str,
        subject: &'m str,
    },
}

const SERVICE_ACCOUNT: &str = "system:serviceaccount:<namespace>:<name>";

impl<'m> Member<'m> {
    pub(super) fn parse(member: &'m str) -> Result<Self, PolicyError> {
        let incomplete = |form| PolicyError::Incomplete {
            member: member.to_owned(),
            form,
        };
        match member {
            "allUsers" => return Ok(Self::Anyone),
            "allAuthenticatedUsers" => return Ok(Self::AnyVerified),
            "system:authenticated" => return Ok(Self::ClusterUsers),
            "system:serviceaccounts" => return Ok(Self::ServiceAccounts),
            _ => {}
        }
        if let Some(namespace) = member.strip_prefix("system:serviceaccounts:") {
            return match is_name(namespace) {
                true => Ok(Self::Namespace(namespace)),
                false => Err(incomplete("system:serviceaccounts:<namespace>")),
            };
        }
        if let Some(account) = member.strip_prefix("system:serviceaccount:") {
            return match account.split_once(':') {
                Some((namespace, name)) if is_name(namespace) && is_name(name) => {
                    Ok(Self::ServiceAccount(member))
                }
                _ => Err(incomplete(SERVICE_ACCOUNT)),
            };
        }
        if let Some(principal) = member.strip_prefix("principal:") {
            return match principal.split_once('#') {
                Some((issuer, subject)) if !issuer.is_empty() && !subject.is_empty() => {
                    Ok(Self::Principal { issuer, subject })
                }
                _ => Err(incomplete("principal:<issuer>#<subject>")),
            };
        }
        match member.split_once(':') {
            Some(("serviceAccount" | "user", email)) => match email.split_once('@') {
                Some((name, domain)) if !name.is_empty() && !domain.is_empty() => {
                    Ok(Self::Email(email))
                }
                _ => Err(incomplete("serviceAccount:<email> or user:<email>")),
            },
            Some(("group" | "domain" | "principalSet", _)) => Err(PolicyError::Group {
                member: member.to_owned(),
            }),
            _ => Err(PolicyError::UnknownMember {
                member: member.to_owned(),
            }),
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(':')
}
