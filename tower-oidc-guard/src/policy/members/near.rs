//! Finds the members that are similar to a caller that is not allowed.

use super::super::member::{is_close, service_account};
use super::{IssuerMembers, Members};
use crate::identity::Identity;

/// The most members that are returned.
const MAX: usize = 5;

impl Members {
    /// Returns the members that are similar to a caller, the most similar first: the same name for another issuer, a name with a
    /// typing mistake, the same namespace or service account name, the same part of an email address.
    pub(in super::super) fn near(&self, caller: &Identity) -> Vec<String> {
        let mut found = Vec::new();
        for (issuer, subjects) in &self.principals {
            let is_own = caller.accepted_issuers().any(|own| own == issuer);
            for subject in subjects {
                if let Some(rank) = rank(subject, caller.subject(), is_own) {
                    found.push((rank, format!("principal:{issuer}#{subject}")));
                }
            }
        }
        for (issuer, of) in &self.of_issuers {
            let is_own = |issuer: &String| caller.accepted_issuers().any(|own| own == issuer);
            let is_own = issuer.as_ref().is_none_or(is_own);
            for (rank, member) in of.near(caller, is_own) {
                found.push((
                    rank,
                    match issuer {
                        Some(issuer) => format!("{member} of {issuer}"),
                        None => member,
                    },
                ));
            }
        }
        found.sort();
        found.truncate(MAX);
        found.into_iter().map(|(_, member)| member).collect()
    }
}

impl IssuerMembers {
    /// Returns the members that are similar to a caller, with their ranks. `is_own` is whether they are members of the caller's
    /// issuer.
    fn near(&self, caller: &Identity, is_own: bool) -> Vec<(u8, String)> {
        let mut found = Vec::new();
        for subject in &self.subjects {
            if let Some(rank) = rank(subject, caller.subject(), is_own) {
                found.push((rank, subject.clone()));
            }
        }
        if let Some((own, _)) = service_account(caller.subject()) {
            for namespace in &self.namespaces {
                if (namespace == own && !is_own) || (namespace != own && is_close(namespace, own)) {
                    found.push((1, format!("system:serviceaccounts:{namespace}")));
                }
            }
        }
        let email = caller.google().and_then(|google| google.email());
        if let Some(email) = email.map(str::to_ascii_lowercase) {
            for allowed in &self.emails {
                if let Some(rank) = rank_emails(allowed, &email) {
                    found.push((rank, format!("account {allowed}")));
                }
            }
        }
        found
    }
}

/// Returns how similar a member's subject is to that of a caller: 0 is equal, 1 is almost equal, 2 is equal in one part.
/// `is_own` is whether it is of the caller's issuer.
fn rank(member: &str, caller: &str, is_own: bool) -> Option<u8> {
    if member == caller {
        // Otherwise the caller would be allowed, except for another requirement.
        return (!is_own).then_some(0);
    }
    if is_close(member, caller) {
        return Some(1);
    }
    let (member, caller) = (service_account(member)?, service_account(caller)?);
    (member.0 == caller.0 || member.1 == caller.1).then_some(2)
}

fn rank_emails(member: &str, caller: &str) -> Option<u8> {
    if member == caller {
        // The address of the caller is not verified.
        return Some(0);
    }
    if is_close(member, caller) {
        return Some(1);
    }
    let (member, caller) = (member.split_once('@')?, caller.split_once('@')?);
    (member.0 == caller.0 || (member.1 == caller.1 && member.1.ends_with("gserviceaccount.com")))
        .then_some(2)
}
