//! Many members, found at once.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

use super::PolicyError;
use super::bound::TrustedNames;
use super::member::Member;
use crate::identity::{Identity, Platform};

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Members, sorted so that a caller is found in the same time among few and among many.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Members {
    anyone: bool,
    any_verified: bool,
    /// By issuer: that which is named, or the only one of its platform.
    of_platforms: HashMap<Option<String>, OfPlatforms>,
    /// Subjects by issuer.
    principals: HashMap<String, HashSet<String>>,
    count: usize,
}

/// The members of one issuer that its platform has words for.
#[derive(Clone, Default, PartialEq, Eq)]
struct OfPlatforms {
    cluster_users: bool,
    service_accounts: bool,
    namespaces: HashSet<String>,
    subjects: HashSet<String>,
    emails: HashSet<String>,
}

impl Members {
    /// Reads members, of an issuer that is named or of the only one of their platform.
    pub(super) fn parse<M: AsRef<str>>(
        issuer: Option<String>,
        members: impl IntoIterator<Item = M>,
    ) -> Result<Self, PolicyError> {
        let mut all = Self::default();
        for member in members {
            all.insert(&issuer, Member::parse(member.as_ref())?);
        }
        Ok(all)
    }

    /// Everyone, without a token too.
    pub(super) fn anyone() -> Self {
        Self {
            anyone: true,
            count: 1,
            ..Self::default()
        }
    }

    fn insert(&mut self, issuer: &Option<String>, member: Member<'_>) {
        self.count += 1;
        match member {
            Member::Anyone => self.anyone = true,
            Member::AnyVerified => self.any_verified = true,
            Member::Principal { issuer, subject } => {
                let subjects = self.principals.entry(issuer.to_owned()).or_default();
                subjects.insert(subject.to_owned());
            }
            Member::ClusterUsers => self.of(issuer).cluster_users = true,
            Member::ServiceAccounts => self.of(issuer).service_accounts = true,
            Member::Namespace(namespace) => {
                self.of(issuer).namespaces.insert(namespace.to_owned());
            }
            Member::ServiceAccount(subject) => {
                self.of(issuer).subjects.insert(subject.to_owned());
            }
            Member::Email(email) => {
                self.of(issuer).emails.insert(email.to_ascii_lowercase());
            }
        }
    }

    /// The members of that issuer, to add to.
    fn of(&mut self, issuer: &Option<String>) -> &mut OfPlatforms {
        self.of_platforms.entry(issuer.clone()).or_default()
    }

    /// Adds other members to these.
    pub(super) fn add(&mut self, other: Self) {
        self.anyone |= other.anyone;
        self.any_verified |= other.any_verified;
        self.count += other.count;
        for (issuer, subjects) in other.principals {
            self.principals.entry(issuer).or_default().extend(subjects);
        }
        for (issuer, more) in other.of_platforms {
            let of = self.of_platforms.entry(issuer).or_default();
            of.cluster_users |= more.cluster_users;
            of.service_accounts |= more.service_accounts;
            of.namespaces.extend(more.namespaces);
            of.subjects.extend(more.subjects);
            of.emails.extend(more.emails);
        }
    }

    pub(super) fn has_anyone(&self) -> bool {
        self.anyone
    }

    pub(super) fn has_any_verified(&self) -> bool {
        self.any_verified
    }

    /// The member that the caller is, if it is one.
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

    /// The same without its name, and so without a copy.
    pub(super) fn contains(&self, caller: &Identity) -> bool {
        self.anyone
            || self.any_verified
            || self.has_principal(caller)
            || self.of_issuer(caller).any(|of| of.contains(caller))
    }

    fn has_principal(&self, caller: &Identity) -> bool {
        let subjects = self.principals.get(caller.issuer());
        subjects.is_some_and(|subjects| subjects.contains(caller.subject()))
    }

    /// The members that the caller's issuer may speak for. Where no issuer is named there is only one of the
    /// platform: that was seen to at building.
    fn of_issuer(&self, caller: &Identity) -> impl Iterator<Item = &OfPlatforms> {
        let is_meant = |issuer: &Option<String>| {
            let named = issuer.as_ref();
            named.is_none_or(|name| name == caller.issuer())
        };
        let all = self.of_platforms.iter();
        all.filter(move |(issuer, _)| is_meant(issuer))
            .map(|(_, of)| of)
    }

    /// Whether each member has the one issuer that can speak for it.
    pub(super) fn check(&self, trusted: &TrustedNames) -> Result<(), PolicyError> {
        for issuer in self.principals.keys() {
            trusted.check_name(issuer)?;
        }
        for (issuer, of) in &self.of_platforms {
            if of.is_kubernetes() {
                trusted.check(issuer.as_deref(), Platform::Kubernetes, "Kubernetes")?;
            }
            if !of.emails.is_empty() {
                trusted.check(issuer.as_deref(), Platform::Google, "Google")?;
            }
        }
        Ok(())
    }
}

impl OfPlatforms {
    fn is_kubernetes(&self) -> bool {
        self.cluster_users
            || self.service_accounts
            || !self.namespaces.is_empty()
            || !self.subjects.is_empty()
    }

    fn contains(&self, caller: &Identity) -> bool {
        match caller.platform() {
            Platform::Kubernetes => {
                self.cluster_users
                    || self.subjects.contains(caller.subject())
                    || namespace(caller).is_some_and(|namespace| {
                        self.service_accounts || self.namespaces.contains(namespace)
                    })
            }
            Platform::Google => email(caller).is_some_and(|email| self.emails.contains(&*email)),
            Platform::Other => false,
        }
    }

    fn find(&self, caller: &Identity) -> Option<Cow<'static, str>> {
        if !self.contains(caller) {
            return None;
        }
        Some(match (email(caller), namespace(caller)) {
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

/// The namespace of a service account.
fn namespace(caller: &Identity) -> Option<&str> {
    let account = caller.subject().strip_prefix(SERVICE_ACCOUNT)?;
    account.split_once(':').map(|(namespace, _)| namespace)
}

/// The email that Google has verified, in small letters.
fn email(caller: &Identity) -> Option<Cow<'_, str>> {
    let google = caller.google()?;
    let email = google.email().filter(|_| google.email_verified())?;
    Some(match email.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => email.to_ascii_lowercase().into(),
        false => email.into(),
    })
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} members", self.count)
    }
}
