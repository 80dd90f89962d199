//! Sets of members, in which a caller is found in the same time among few and among many.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use super::PolicyError;
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
    /// Members in the words of a platform: of the issuer that is named, or of the only one of the platform.
    of_issuers: HashMap<Option<String>, IssuerMembers>,
    /// Subjects by issuer.
    principals: HashMap<String, HashSet<String>>,
    count: usize,
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
    /// In lower case.
    emails: HashSet<String>,
}

impl Members {
    /// Parses members: of an issuer that is named, or of the only one of their platform.
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

    /// Creates the set of everyone, callers without a token included.
    pub(super) fn anyone() -> Self {
        Self {
            anyone: true,
            count: 1,
            ..Self::default()
        }
    }

    fn insert(&mut self, issuer: &Option<String>, member: &str) -> Result<(), PolicyError> {
        let not_of = |issuer: &String| PolicyError::IssuerMismatch {
            member: member.to_owned(),
            issuer: issuer.clone(),
        };
        self.count += 1;
        match (Member::parse(member)?, issuer) {
            // Who sends no token is of no issuer.
            (Member::Anyone, Some(issuer)) => return Err(not_of(issuer)),
            (Member::Anyone, None) => self.anyone = true,
            (Member::AnyVerified, Some(_)) => self.of(issuer).any_verified = true,
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
            (Member::ClusterUsers, _) => self.of(issuer).cluster_users = true,
            (Member::ServiceAccounts, _) => self.of(issuer).service_accounts = true,
            (Member::Namespace(namespace), _) => {
                self.of(issuer).namespaces.insert(namespace.to_owned());
            }
            (Member::ServiceAccount(subject), _) => {
                self.of(issuer).subjects.insert(subject.to_owned());
            }
            (Member::Email(email), _) => {
                self.of(issuer).emails.insert(email.to_ascii_lowercase());
            }
        }
        Ok(())
    }

    /// The members of that issuer, to add to.
    fn of(&mut self, issuer: &Option<String>) -> &mut IssuerMembers {
        self.of_issuers.entry(issuer.clone()).or_default()
    }

    /// Adds other members to these.
    pub(super) fn add(&mut self, other: Self) {
        self.anyone |= other.anyone;
        self.any_verified |= other.any_verified;
        self.count += other.count;
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

    /// Returns whether no member is named.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns whether `allUsers` is named.
    pub(super) fn has_anyone(&self) -> bool {
        self.anyone
    }

    /// Returns whether everyone is a member whose token is from an issuer that `is_meant` returns true for; `None`
    /// stands for every issuer.
    pub(super) fn has_any_verified(&self, is_meant: impl Fn(Option<&str>) -> bool) -> bool {
        let mut named = self.of_issuers.iter().filter(|(_, of)| of.any_verified);
        (self.any_verified && is_meant(None))
            || named.any(|(issuer, _)| is_meant(issuer.as_deref()))
    }

    /// As an allow list: returns whether the caller is certainly a member.
    pub(super) fn contains(&self, caller: &Identity) -> bool {
        self.anyone
            || self.any_verified
            || self.has_principal(caller)
            || self.of_issuer(caller).any(|of| of.contains(caller))
    }

    /// As a deny list: returns whether the caller is a member, or may be one that its token does not show to be.
    pub(super) fn denies(&self, caller: &Identity) -> bool {
        self.anyone
            || self.any_verified
            || self.has_principal(caller)
            || self.of_issuer(caller).any(|of| of.denies(caller))
    }

    /// Returns the member that the caller is, in words.
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

    /// Returns why this deny list keeps the caller out, in words.
    pub(super) fn denial(&self, caller: &Identity) -> String {
        let unknown = || {
            let (subject, issuer) = (caller.subject(), caller.issuer());
            let reason = match caller.platform() {
                Platform::Google => unverified_email(caller),
                _ => "its subject is not that of a service account".to_owned(),
            };
            let key = match caller.platform() {
                Platform::Google => "e-mail address",
                _ => "service account or namespace",
            };
            format!(
                "{subject} of {issuer} may be denied: the deny list names callers of that issuer by their {key}, and {reason}"
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

    /// The members that the caller's issuer may speak for. If no issuer is named there is only one of the
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

    /// Checks that each member has one issuer that can speak for it.
    pub(super) fn check_issuers(&self, trusted: &PolicyIssuers) -> Result<(), PolicyError> {
        for (issuer, subjects) in &self.principals {
            let platform = trusted.platform(issuer)?;
            let address = subjects.iter().find(|subject| subject.contains('@'));
            if let (Platform::Google, Some(address)) = (platform, address) {
                let kind = match address.ends_with("gserviceaccount.com") {
                    true => "serviceAccount",
                    false => "user",
                };
                return Err(PolicyError::InvalidMember {
                    member: format!("principal:{issuer}#{address}"),
                    reason: "subjects of Google are numbers, not e-mail addresses".to_owned(),
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

impl IssuerMembers {
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
                Platform::Other => false,
            }
    }

    /// A caller whose token does not show whether it is a member counts as one.
    fn denies(&self, caller: &Identity) -> bool {
        let is_undecided = match caller.platform() {
            Platform::Kubernetes => {
                self.names_service_accounts() && service_account(caller.subject()).is_none()
            }
            Platform::Google => !self.emails.is_empty() && verified_email(caller).is_none(),
            Platform::Other => false,
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

/// The email that Google has verified, in lower case.
fn verified_email(caller: &Identity) -> Option<Cow<'_, str>> {
    let google = caller.google()?;
    let email = google.email().filter(|_| google.email_verified())?;
    is_email(email).then(
        || match email.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => email.to_ascii_lowercase().into(),
            false => email.into(),
        },
    )
}

/// Why a caller of Google has no verified email, in words.
fn unverified_email(caller: &Identity) -> String {
    match caller.google().and_then(|google| google.email()) {
        None => "its token has no claim `email` that can be read".to_owned(),
        Some(email) if is_email(email) => {
            format!("its address {email} is not marked as verified (`email_verified`)")
        }
        Some(_) => "the claim `email` of its token is not an e-mail address".to_owned(),
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} members", self.count)
    }
}
