//! Sets of members, in which looking up a caller takes the same time whatever their size.

#[cfg(feature = "policy-file")]
pub(super) mod coverage;
mod near;

use std::borrow::Cow;
#[cfg(feature = "policy-file")]
use std::collections::BTreeSet;
use std::collections::{HashMap, HashSet};
use std::fmt;

use super::PolicyError;
#[cfg(feature = "policy-file")]
use super::member::{
    ANY_VERIFIED, ANYONE, CLUSTER_USERS, GOOGLE_ACCOUNT_PREFIX, NAMESPACE_PREFIX, PRINCIPAL_PREFIX,
    SERVICE_ACCOUNTS, USER_PREFIX,
};
use super::member::{Member, is_email, service_account};
use super::resolved::PolicyIssuers;
use crate::identity::{Identity, Platform};
use crate::text;

/// A set of members: an allow list or a deny list.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Members {
    /// `allUsers`.
    anyone: bool,
    /// `allAuthenticatedUsers`, of any trusted issuer.
    any_verified: bool,
    /// Members of Kubernetes and Google, by issuer. `None` stands for the only issuer of the platform.
    of_issuers: HashMap<Option<String>, IssuerMembers>,
    /// Subjects by issuer.
    principals: HashMap<String, HashSet<String>>,
}

/// The members of one issuer.
#[derive(Clone, Default, PartialEq, Eq)]
struct IssuerMembers {
    /// `allAuthenticatedUsers`, of this issuer.
    any_verified: bool,
    /// `system:authenticated`.
    cluster_users: bool,
    /// `system:serviceaccounts`.
    service_accounts: bool,
    namespaces: HashSet<String>,
    /// Subjects of service accounts.
    subjects: HashSet<String>,
    /// Email addresses in lower case.
    emails: HashSet<String>,
}

impl Members {
    /// Parses members of this issuer or, for `None`, of the only issuer of their platform.
    pub(super) fn parse<M: AsRef<str>>(
        issuer: Option<String>,
        members: impl IntoIterator<Item = M>,
    ) -> Result<Self, PolicyError> {
        if let Some(name) = &issuer
            && let Some(reason) = text::claim_value_fault(name)
        {
            return Err(PolicyError::InvalidIssuer {
                issuer: name.clone(),
                reason,
            });
        }
        let mut all = Self::default();
        for member in members {
            all.insert(&issuer, member.as_ref())?;
        }
        Ok(all)
    }

    /// Creates the set of all callers, including those without a token.
    pub(super) fn anyone() -> Self {
        Self {
            anyone: true,
            ..Self::default()
        }
    }

    fn insert(&mut self, issuer: &Option<String>, member: &str) -> Result<(), PolicyError> {
        let not_of = |issuer: &String| PolicyError::IssuerMismatch {
            member: member.to_owned(),
            issuer: issuer.clone(),
        };
        match (Member::parse(member)?, issuer) {
            // A caller without a token has no issuer.
            (Member::Anyone, Some(issuer)) => return Err(not_of(issuer)),
            (Member::Anyone, None) => self.anyone = true,
            (Member::AnyVerified, Some(_)) => self.members_of(issuer).any_verified = true,
            (Member::AnyVerified, None) => self.any_verified = true,
            (Member::Principal { issuer: own, .. }, Some(issuer)) if own != issuer => {
                return Err(not_of(issuer));
            }
            (
                Member::Principal {
                    issuer: own,
                    subject,
                },
                _,
            ) => {
                let subjects = self.principals.entry(own.to_owned()).or_default();
                subjects.insert(subject.to_owned());
            }
            (Member::ClusterUsers, _) => self.members_of(issuer).cluster_users = true,
            (Member::ServiceAccounts, _) => self.members_of(issuer).service_accounts = true,
            (Member::Namespace(namespace), _) => {
                self.members_of(issuer)
                    .namespaces
                    .insert(namespace.to_owned());
            }
            (Member::ServiceAccount(subject), _) => {
                self.members_of(issuer).subjects.insert(subject.to_owned());
            }
            (Member::Email(email), _) => {
                self.members_of(issuer)
                    .emails
                    .insert(email.to_ascii_lowercase());
            }
        }
        Ok(())
    }

    /// Returns the members of an issuer, to add to them.
    fn members_of(&mut self, issuer: &Option<String>) -> &mut IssuerMembers {
        self.of_issuers.entry(issuer.clone()).or_default()
    }

    /// Adds the members of another set.
    pub(super) fn add(&mut self, other: Self) {
        self.anyone |= other.anyone;
        self.any_verified |= other.any_verified;
        for (issuer, subjects) in other.principals {
            self.principals.entry(issuer).or_default().extend(subjects);
        }
        for (issuer, more) in other.of_issuers {
            let of = self.of_issuers.entry(issuer).or_default();
            of.any_verified |= more.any_verified;
            of.cluster_users |= more.cluster_users;
            of.service_accounts |= more.service_accounts;
            of.namespaces.extend(more.namespaces);
            of.subjects.extend(more.subjects);
            of.emails.extend(more.emails);
        }
    }

    /// Returns the number of different members.
    pub(super) fn len(&self) -> usize {
        let of_issuers = self.of_issuers.values().map(IssuerMembers::count);
        let principals = self.principals.values().map(HashSet::len);
        usize::from(self.anyone)
            + usize::from(self.any_verified)
            + of_issuers.chain(principals).sum::<usize>()
    }

    /// Returns whether the set has no member.
    pub(super) fn is_empty(&self) -> bool {
        !self.anyone
            && !self.any_verified
            && self.of_issuers.is_empty()
            && self.principals.is_empty()
    }

    /// Returns the members as text, each with its issuer if it is in the list of one. Members that are equal are returned once.
    #[cfg(feature = "policy-file")]
    pub(super) fn names(&self) -> BTreeSet<MemberName> {
        let mut names = BTreeSet::new();
        if self.anyone {
            names.insert(MemberName::new(Reach::Anyone, ANYONE, None));
        }
        if self.any_verified {
            names.insert(MemberName::new(Reach::AnyVerified, ANY_VERIFIED, None));
        }
        for (issuer, of) in &self.of_issuers {
            of.add_names(issuer.as_deref(), &mut names);
        }
        for (issuer, subjects) in &self.principals {
            names.extend(subjects.iter().map(|subject| {
                let principal = format!("{PRINCIPAL_PREFIX}{issuer}#{subject}");
                MemberName::new(Reach::Some, &principal, None)
            }));
        }
        names
    }

    /// Returns whether `allUsers` is a member.
    pub(super) fn has_anyone(&self) -> bool {
        self.anyone
    }

    /// Returns whether everyone with a valid token of an issuer for which `is_meant` returns true is a member. `is_meant` gets
    /// `None` for every issuer.
    pub(super) fn has_any_verified(&self, is_meant: impl Fn(Option<&str>) -> bool) -> bool {
        let mut named = self.of_issuers.iter().filter(|(_, of)| of.any_verified);
        (self.any_verified && is_meant(None))
            || named.any(|(issuer, _)| is_meant(issuer.as_deref()))
    }

    /// Returns whether the caller is certainly a member. For allow lists.
    pub(super) fn contains(&self, caller: &Identity) -> bool {
        self.anyone
            || self.any_verified
            || self.has_principal(caller)
            || self.of_issuer(caller).any(|of| of.contains(caller))
    }

    /// Returns whether the caller is a member, or may be one although its token does not show it. For deny lists.
    pub(super) fn denies(&self, caller: &Identity) -> bool {
        self.anyone
            || self.any_verified
            || self.has_principal(caller)
            || self.of_issuer(caller).any(|of| of.denies(caller))
    }

    /// Returns the member that matches the caller, as text.
    pub(super) fn find(&self, caller: &Identity) -> Option<Cow<'static, str>> {
        if self.anyone {
            return Some("allUsers".into());
        }
        if self.any_verified {
            return Some("allAuthenticatedUsers".into());
        }
        if self.has_principal(caller) {
            let name = format!("principal:{}#{}", caller.issuer(), caller.subject());
            return Some(name.into());
        }
        self.of_issuer(caller).find_map(|of| of.find(caller))
    }

    /// Returns why this deny list matches the caller, as text.
    pub(super) fn denial(&self, caller: &Identity) -> String {
        let unknown = || {
            let (subject, issuer) = (caller.subject(), caller.issuer());
            let reason = match caller.platform() {
                Platform::Google => unverified_email(caller),
                _ => "its subject is not that of a service account".to_owned(),
            };
            let key = match caller.platform() {
                Platform::Google => "email address",
                _ => "service account or namespace",
            };
            format!(
                "{subject} of {issuer} may be denied: the deny list contains callers of that issuer by {key}, and {reason}"
            )
        };
        match self.find(caller) {
            Some(member) => format!("{member} is denied"),
            None => unknown(),
        }
    }

    fn has_principal(&self, caller: &Identity) -> bool {
        !self.principals.is_empty()
            && caller.accepted_issuers().any(|name| {
                let subjects = self.principals.get(name);
                subjects.is_some_and(|subjects| subjects.contains(caller.subject()))
            })
    }

    /// Returns the members that the caller's issuer issues tokens for. Members without an issuer belong to the only issuer of their
    /// platform, which is checked when a guard is built.
    fn of_issuer<'m>(&'m self, caller: &Identity) -> impl Iterator<Item = &'m IssuerMembers> {
        let is_meant = |issuer: &Option<String>| {
            issuer
                .as_deref()
                .is_none_or(|named| caller.accepted_issuers().any(|name| name == named))
        };
        let all = self.of_issuers.iter();
        all.filter(move |(issuer, _)| is_meant(issuer))
            .map(|(_, of)| of)
    }

    /// Checks that exactly one trusted issuer issues tokens for each member.
    pub(super) fn check_issuers(&self, trusted: &PolicyIssuers) -> Result<(), PolicyError> {
        for (issuer, subjects) in &self.principals {
            let platform = trusted.platform(issuer)?;
            let address = subjects.iter().find(|subject| subject.contains('@'));
            if let (Platform::Google, Some(address)) = (platform, address) {
                let kind = if address.ends_with("gserviceaccount.com") {
                    "serviceAccount"
                } else {
                    "user"
                };
                return Err(PolicyError::InvalidMember {
                    member: format!("principal:{issuer}#{address}"),
                    reason: "subjects of Google are numbers, not email addresses".to_owned(),
                    suggestion: Some(format!("{kind}:{address}")),
                });
            }
        }
        for (issuer, of) in &self.of_issuers {
            if let Some(issuer) = issuer {
                trusted.platform(issuer)?;
            }
            if of.is_kubernetes() {
                trusted.check_platform(issuer.as_deref(), Platform::Kubernetes, "Kubernetes")?;
            }
            if !of.emails.is_empty() {
                trusted.check_platform(issuer.as_deref(), Platform::Google, "Google")?;
            }
        }
        Ok(())
    }
}

/// A member as text. Ordered by the number of callers that it can match, with the largest first, and then by its text.
#[cfg(feature = "policy-file")]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MemberName {
    reach: Reach,
    member: String,
    issuer: Option<String>,
}

/// The callers that a member can match.
#[cfg(feature = "policy-file")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Anyone,
    AnyVerified,
    AnyOfIssuer,
    Some,
}

#[cfg(feature = "policy-file")]
impl MemberName {
    fn new(reach: Reach, member: &str, issuer: Option<&str>) -> Self {
        Self {
            reach,
            member: member.to_owned(),
            issuer: issuer.map(str::to_owned),
        }
    }
}

/// Everything but printable ASCII is escaped, and a long member or issuer shortened.
#[cfg(feature = "policy-file")]
impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::quoted_if_needed(&self.member))?;
        match &self.issuer {
            Some(issuer) => write!(f, " of {}", text::quoted_if_needed(issuer)),
            None => Ok(()),
        }
    }
}

impl IssuerMembers {
    fn count(&self) -> usize {
        usize::from(self.any_verified)
            + usize::from(self.cluster_users)
            + usize::from(self.service_accounts)
            + self.namespaces.len()
            + self.subjects.len()
            + self.emails.len()
    }

    #[cfg(feature = "policy-file")]
    fn add_names(&self, issuer: Option<&str>, names: &mut BTreeSet<MemberName>) {
        let mut add = |reach, member: &str| {
            names.insert(MemberName::new(reach, member, issuer));
        };
        if self.any_verified {
            add(Reach::AnyOfIssuer, ANY_VERIFIED);
        }
        if self.cluster_users {
            add(Reach::AnyOfIssuer, CLUSTER_USERS);
        }
        if self.service_accounts {
            add(Reach::AnyOfIssuer, SERVICE_ACCOUNTS);
        }
        for namespace in &self.namespaces {
            add(Reach::Some, &format!("{NAMESPACE_PREFIX}{namespace}"));
        }
        for subject in &self.subjects {
            add(Reach::Some, subject);
        }
        for email in &self.emails {
            let prefix = if email.ends_with("gserviceaccount.com") {
                GOOGLE_ACCOUNT_PREFIX
            } else {
                USER_PREFIX
            };
            add(Reach::Some, &format!("{prefix}{email}"));
        }
    }

    fn is_kubernetes(&self) -> bool {
        self.cluster_users || self.names_service_accounts()
    }

    fn names_service_accounts(&self) -> bool {
        self.service_accounts || !self.namespaces.is_empty() || !self.subjects.is_empty()
    }

    fn contains(&self, caller: &Identity) -> bool {
        self.any_verified
            || match caller.platform() {
                Platform::Kubernetes => {
                    self.cluster_users
                        || self.subjects.contains(caller.subject())
                        || service_account(caller.subject()).is_some_and(|(namespace, _)| {
                            self.service_accounts || self.namespaces.contains(namespace)
                        })
                }
                Platform::Google => {
                    verified_email(caller).is_some_and(|email| self.emails.contains(&*email))
                }
                Platform::GitHubActions | Platform::GitLab | Platform::Other => false,
            }
    }

    /// Returns whether the caller is a member, or its token does not show whether it is.
    fn denies(&self, caller: &Identity) -> bool {
        let is_undecided = match caller.platform() {
            Platform::Kubernetes => {
                self.names_service_accounts() && service_account(caller.subject()).is_none()
            }
            Platform::Google => !self.emails.is_empty() && verified_email(caller).is_none(),
            Platform::GitHubActions | Platform::GitLab | Platform::Other => false,
        };
        is_undecided || self.contains(caller)
    }

    fn find(&self, caller: &Identity) -> Option<Cow<'static, str>> {
        if !self.contains(caller) {
            return None;
        }
        if self.any_verified {
            return Some(format!("allAuthenticatedUsers of {}", caller.issuer()).into());
        }
        let email = verified_email(caller).filter(|email| self.emails.contains(&**email));
        let namespace = service_account(caller.subject()).map(|(namespace, _)| namespace);
        Some(match (email, namespace) {
            (Some(email), _) => format!("account {email}").into(),
            _ if self.subjects.contains(caller.subject()) => caller.subject().to_owned().into(),
            (_, Some(namespace)) if self.namespaces.contains(namespace) => {
                format!("system:serviceaccounts:{namespace}").into()
            }
            _ if self.service_accounts => "system:serviceaccounts".into(),
            _ => "system:authenticated".into(),
        })
    }
}

/// Returns the email address that Google has verified, in lower case.
fn verified_email(caller: &Identity) -> Option<Cow<'_, str>> {
    let google = caller.google()?;
    let email = google.email().filter(|_| google.email_verified())?;
    is_email(email).then(|| {
        if email.bytes().any(|byte| byte.is_ascii_uppercase()) {
            email.to_ascii_lowercase().into()
        } else {
            email.into()
        }
    })
}

/// Returns why a caller of Google has no verified email address, as text.
fn unverified_email(caller: &Identity) -> String {
    match caller.google().and_then(|google| google.email()) {
        None => "its token has no claim `email` that can be read".to_owned(),
        Some(email) if is_email(email) => {
            format!("its address {email} is not marked as verified (`email_verified`)")
        }
        Some(_) => "the claim `email` of its token is not an email address".to_owned(),
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} members", self.len())
    }
}
