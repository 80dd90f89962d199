//! Compares members with lists: whether a list already has the callers of a member, and whether it may have some of them.
//!
//! Both answers are on the safe side if the lists do not show the answer: two names of issuers may stand for one issuer.

use super::super::member::{Member, service_account};
use super::{IssuerMembers, MemberName, Members};

impl MemberName {
    /// Returns the member, or `None` if the text is not one.
    pub(in super::super) fn parsed(&self) -> Option<Member<'_>> {
        Member::parse(&self.member).ok()
    }
}

impl Members {
    /// Returns whether this allow list certainly allows every caller that a member matches.
    pub(in super::super) fn covers(&self, name: &MemberName) -> bool {
        match (name.parsed(), name.issuer.as_deref()) {
            (Some(Member::ServiceAccount(subject)), Some(issuer))
                if self.is_principal(issuer, subject) =>
            {
                true
            }
            _ => self.covers_denial(name),
        }
    }

    /// Returns whether this deny list certainly denies every caller that a deny list denies because of a member.
    ///
    /// A deny list with a service account also denies the callers of the cluster whose token does not show an account. One with
    /// the account's `principal:` does not, so it does not cover the account.
    pub(in super::super) fn covers_denial(&self, name: &MemberName) -> bool {
        match name.parsed() {
            None => false,
            Some(Member::Anyone) => self.anyone,
            Some(_) if self.anyone || self.any_verified => true,
            Some(Member::Principal { issuer, subject }) => {
                let of = self.of_issuers.get(&Some(issuer.to_owned()));
                self.is_principal(issuer, subject)
                    || of.is_some_and(|of| of.covers_subject(subject))
            }
            Some(member) => {
                let of = self.of_issuers.get(&name.issuer);
                of.is_some_and(|of| of.covers(member))
            }
        }
    }

    fn is_principal(&self, issuer: &str, subject: &str) -> bool {
        let subjects = self.principals.get(issuer);
        subjects.is_some_and(|subjects| subjects.contains(subject))
    }
}

impl IssuerMembers {
    /// Returns whether every caller of this issuer that a member matches is in the set.
    fn covers(&self, member: Member<'_>) -> bool {
        let all_of_kubernetes = self.any_verified || self.cluster_users;
        match member {
            Member::Anyone | Member::Principal { .. } => false,
            Member::AnyVerified => self.any_verified,
            Member::ClusterUsers => all_of_kubernetes,
            Member::ServiceAccounts => all_of_kubernetes || self.service_accounts,
            Member::Namespace(namespace) => {
                all_of_kubernetes || self.service_accounts || self.namespaces.contains(namespace)
            }
            Member::ServiceAccount(subject) => self.covers_subject(subject),
            Member::Email(email) => {
                self.any_verified || self.emails.contains(&email.to_ascii_lowercase())
            }
        }
    }

    fn covers_subject(&self, subject: &str) -> bool {
        self.any_verified
            || self.cluster_users
            || self.subjects.contains(subject)
            || service_account(subject).is_some_and(|(namespace, _)| {
                self.service_accounts || self.namespaces.contains(namespace)
            })
    }
}

/// Returns whether an allowed member may match a caller that is denied because of another member. Issuers are not compared, since
/// one issuer can have several names.
pub(in super::super) fn may_overlap(allowed: Member<'_>, denied: Member<'_>) -> bool {
    use Member::{
        AnyVerified, Anyone, ClusterUsers, Email, Namespace, Principal, ServiceAccount,
        ServiceAccounts,
    };
    match (allowed, denied) {
        (Anyone | AnyVerified, _) | (_, Anyone | AnyVerified) => true,
        // The members of one platform match no caller of the other.
        (Email(_), ClusterUsers | ServiceAccounts | Namespace(_) | ServiceAccount(_))
        | (ClusterUsers | ServiceAccounts | Namespace(_) | ServiceAccount(_), Email(_)) => false,
        (Email(one), Email(other)) => one.eq_ignore_ascii_case(other),
        // The subject of an account of Google is a number, which does not show the address.
        (Email(_), Principal { .. }) | (Principal { .. }, Email(_)) => true,
        (ClusterUsers, _) | (_, ClusterUsers) => true,
        (ServiceAccounts, Principal { subject, .. }) => service_account(subject).is_some(),
        (ServiceAccounts, _) | (_, ServiceAccounts) => true,
        (Namespace(one), Namespace(other)) => one == other,
        (Namespace(namespace), ServiceAccount(subject) | Principal { subject, .. })
        | (ServiceAccount(subject), Namespace(namespace)) => is_in(namespace, subject),
        (ServiceAccount(one), ServiceAccount(other) | Principal { subject: other, .. })
        | (Principal { subject: one, .. }, Principal { subject: other, .. }) => one == other,
        // Callers of a cluster whose subject does not show an account are denied, too.
        (Principal { subject, .. }, Namespace(namespace)) => {
            service_account(subject).is_none() || is_in(namespace, subject)
        }
        (Principal { subject, .. }, ServiceAccount(other)) => {
            service_account(subject).is_none() || subject == other
        }
    }
}

/// Returns whether a subject is that of a service account in a namespace.
fn is_in(namespace: &str, subject: &str) -> bool {
    service_account(subject).is_some_and(|(own, _)| own == namespace)
}
