//! Parses one member of a policy, and suggests a correction if it is invalid.
//!
//! A member that its platform cannot have would match no caller, so in a deny list it would admit the caller that was meant.
//! Members are therefore checked against the syntax of their platform: DNS-1123 names for Kubernetes, email addresses for
//! Google.

use super::PolicyError;
use crate::text::{self, CodePoint, Escaped, is_invisible};

/// A parsed member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member<'m> {
    /// `allUsers`.
    Anyone,
    /// `allAuthenticatedUsers`.
    AnyVerified,
    /// `system:authenticated`.
    ClusterUsers,
    /// `system:serviceaccounts`.
    ServiceAccounts,
    /// The namespace of `system:serviceaccounts:<namespace>`.
    Namespace(&'m str),
    /// The whole subject `system:serviceaccount:<namespace>:<name>`.
    ServiceAccount(&'m str),
    /// The address of `serviceAccount:<email>` or `user:<email>`.
    Email(&'m str),
    /// `principal:<issuer>#<subject>`.
    Principal { issuer: &'m str, subject: &'m str },
}

/// The reason why a member is invalid.
enum Fault {
    Unknown,
    Incomplete(&'static str),
    Group,
    Invalid(String),
}

pub(super) const ANYONE: &str = "allUsers";
pub(super) const ANY_VERIFIED: &str = "allAuthenticatedUsers";
pub(super) const CLUSTER_USERS: &str = "system:authenticated";
pub(super) const SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
pub(super) const NAMESPACE_PREFIX: &str = "system:serviceaccounts:";
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
pub(super) const PRINCIPAL_PREFIX: &str = "principal:";
pub(super) const GOOGLE_ACCOUNT_PREFIX: &str = "serviceAccount:";
pub(super) const USER_PREFIX: &str = "user:";

const NAMESPACE_FORM: &str = "system:serviceaccounts:<namespace>";
const ACCOUNT_FORM: &str = "system:serviceaccount:<namespace>:<name>";
const PRINCIPAL_FORM: &str = "principal:<issuer>#<subject>";
const EMAIL_FORM: &str = "serviceAccount:<email> or user:<email>";

impl<'m> Member<'m> {
    /// Parses a member.
    pub(super) fn parse(member: &'m str) -> Result<Self, PolicyError> {
        Self::read(member).map_err(|fault| {
            let name = member.to_owned();
            let suggestion = suggestion(member);
            match fault {
                Fault::Unknown => PolicyError::UnknownMember {
                    member: name,
                    suggestion,
                },
                Fault::Incomplete(form) => PolicyError::MalformedMember {
                    member: name,
                    form,
                    suggestion,
                },
                Fault::Group => PolicyError::GroupMember { member: name },
                Fault::Invalid(reason) => PolicyError::InvalidMember {
                    member: name,
                    reason,
                    suggestion,
                },
            }
        })
    }

    fn read(member: &'m str) -> Result<Self, Fault> {
        if let Some(principal) = member.strip_prefix(PRINCIPAL_PREFIX) {
            return read_principal(principal);
        }
        if let Some(character) = member
            .chars()
            .find(|character| !character.is_ascii_graphic())
        {
            return Err(Fault::Invalid(format!(
                "it contains the character {}; only printable ASCII without white space is allowed",
                CodePoint(character)
            )));
        }
        match member {
            ANYONE => return Ok(Self::Anyone),
            ANY_VERIFIED => return Ok(Self::AnyVerified),
            CLUSTER_USERS => return Ok(Self::ClusterUsers),
            SERVICE_ACCOUNTS => return Ok(Self::ServiceAccounts),
            _ => {}
        }
        if let Some(namespace) = member.strip_prefix(NAMESPACE_PREFIX) {
            if namespace.is_empty() || namespace.contains(':') {
                return Err(Fault::Incomplete(NAMESPACE_FORM));
            }
            check_namespace(namespace)?;
            return Ok(Self::Namespace(namespace));
        }
        if let Some(account) = member.strip_prefix(ACCOUNT_PREFIX) {
            let (namespace, name) = account
                .split_once(':')
                .filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
                .filter(|(_, name)| !name.contains(':'))
                .ok_or(Fault::Incomplete(ACCOUNT_FORM))?;
            check_namespace(namespace)?;
            check_account_name(name)?;
            return Ok(Self::ServiceAccount(member));
        }
        match member.split_once(':') {
            Some(("serviceAccount" | "user", email)) => {
                let is_whole =
                    |(local, domain): &(&str, &str)| !local.is_empty() && !domain.is_empty();
                if !email.split_once('@').as_ref().is_some_and(is_whole) {
                    return Err(Fault::Incomplete(EMAIL_FORM));
                }
                check_email(email)?;
                Ok(Self::Email(email))
            }
            Some(("group" | "domain" | "principalSet", _)) => Err(Fault::Group),
            _ => Err(Fault::Unknown),
        }
    }
}

fn read_principal(principal: &str) -> Result<Member<'_>, Fault> {
    let (issuer, subject) = principal
        .split_once('#')
        .filter(|(issuer, subject)| !issuer.is_empty() && !subject.is_empty())
        .ok_or(Fault::Incomplete(PRINCIPAL_FORM))?;
    let invalid = |part: &str, value: &str, reason: String| {
        Fault::Invalid(format!(
            "the {part} {} cannot be one: {reason}",
            Escaped(value)
        ))
    };
    if let Some(reason) = text::claim_value_fault(issuer) {
        return Err(invalid("issuer", issuer, reason));
    }
    if let Some(reason) = text::claim_value_fault(subject) {
        return Err(invalid("subject", subject, reason));
    }
    if subject.contains('*') {
        let reason = "subjects are compared exactly, and `*` is not a wildcard";
        return Err(invalid("subject", subject, reason.to_owned()));
    }
    // Only Kubernetes has such subjects, and only in this form.
    let lower = subject.to_ascii_lowercase();
    let is_account = matches!(Member::read(subject), Ok(Member::ServiceAccount(_)));
    if lower.starts_with(SERVICE_ACCOUNTS.trim_end_matches('s')) && !is_account {
        let reason = format!(
            "subjects of service accounts have the form {ACCOUNT_FORM}, with DNS-1123 names"
        );
        return Err(invalid("subject", subject, reason));
    }
    Ok(Member::Principal { issuer, subject })
}

/// Splits the subject of a Kubernetes service account into namespace and name. Returns `None` for any other subject.
pub(super) fn service_account(subject: &str) -> Option<(&str, &str)> {
    let (namespace, name) = subject.strip_prefix(ACCOUNT_PREFIX)?.split_once(':')?;
    (is_dns_label(namespace) && is_dns_subdomain(name)).then_some((namespace, name))
}

fn check_namespace(namespace: &str) -> Result<(), Fault> {
    if is_dns_label(namespace) {
        Ok(())
    } else {
        Err(Fault::Invalid(format!(
            "the namespace {} is not a DNS-1123 label: 1 to 63 lower-case letters, digits and `-`, beginning and ending with a letter or digit",
            Escaped(namespace)
        )))
    }
}

fn check_account_name(name: &str) -> Result<(), Fault> {
    if is_dns_subdomain(name) {
        Ok(())
    } else {
        Err(Fault::Invalid(format!(
            "the service account name {} is not a DNS-1123 subdomain: 1 to 253 lower-case letters, digits, `-` and `.`, each part between dots beginning and ending with a letter or digit",
            Escaped(name)
        )))
    }
}

fn check_email(email: &str) -> Result<(), Fault> {
    if !is_email(email) {
        return Err(Fault::Invalid(format!(
            "{} is not an email address (RFC 5321 without quotes: `name@domain`, the domain with a dot)",
            Escaped(email)
        )));
    }
    // These characters are allowed in an address, but Google's addresses have none of them: they are wildcards and placeholders.
    let placeholder =
        |character| matches!(character, '*' | '?' | '%' | '$' | '{' | '}' | '|' | '`');
    match email.find(placeholder) {
        None => Ok(()),
        Some(_) => Err(Fault::Invalid(format!(
            "{} looks like a pattern or a placeholder, and addresses are compared whole; for an account whose address does have one of * ? % $ {{ }} | ` use {PRINCIPAL_FORM}",
            Escaped(email)
        ))),
    }
}

/// Returns whether text is a DNS-1123 label, which namespaces are.
fn is_dns_label(label: &str) -> bool {
    label.len() <= 63 && is_dns_part(label, |byte| byte.is_ascii_lowercase())
}

/// Returns whether text is a DNS-1123 subdomain, which names are: labels separated by dots. As in Kubernetes, only the whole
/// has a limit of length.
fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= 253
        && name
            .split('.')
            .all(|part| is_dns_part(part, |byte| byte.is_ascii_lowercase()))
}

fn is_dns_part(part: &str, is_letter: fn(&u8) -> bool) -> bool {
    let is_inner = |byte: &u8| is_letter(byte) || byte.is_ascii_digit() || *byte == b'-';
    let bytes = part.as_bytes();
    !bytes.is_empty()
        && bytes.iter().all(is_inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// Returns whether text is an email address: a dot-atom, `@`, and a domain name of two labels or more (RFC 5321, section
/// 4.1.2, without quoted strings and address literals).
pub(super) fn is_email(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else {
        return false;
    };
    let is_atom = |atom: &str| {
        !atom.is_empty()
            && atom
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+/=?^_`{|}~-".contains(&byte))
    };
    let is_label =
        |label: &str| label.len() <= 63 && is_dns_part(label, |byte| byte.is_ascii_alphabetic());
    email.len() <= 254
        && local.len() <= 64
        && local.split('.').all(is_atom)
        && domain.contains('.')
        && domain.split('.').all(is_label)
}

/// Returns a valid member that is similar to an invalid one, if there is one.
fn suggestion(member: &str) -> Option<String> {
    let is_principal = member.contains('#');
    let visible: String = if is_principal {
        member.trim_matches(is_invisible).to_owned()
    } else {
        member.chars().filter(|c| !is_invisible(*c)).collect()
    };
    let mut candidates = vec![visible.clone()];
    if !is_principal {
        candidates.push(visible.to_ascii_lowercase());
    }
    candidates.extend(whole_words(&visible));
    for prefix in prefixes(&visible) {
        let rest = after_colons(&visible, prefix.matches(':').count()).unwrap_or_default();
        candidates.push(format!("{prefix}{rest}"));
        if prefix == PRINCIPAL_PREFIX
            && let Some((issuer, subject)) = rest.split_once('#')
        {
            let (issuer, subject) = (issuer.trim(), subject.trim());
            candidates.push(format!("{prefix}{issuer}#{subject}"));
            candidates.push(format!("{prefix}{issuer}#{}", subject.to_ascii_lowercase()));
        }
    }
    candidates.extend(service_accounts(&visible));
    if visible.ends_with("gserviceaccount.com") {
        candidates.push(format!("{GOOGLE_ACCOUNT_PREFIX}{visible}"));
    }
    candidates.push(format!("{USER_PREFIX}{visible}"));
    candidates
        .into_iter()
        .find(|candidate| candidate != member && Member::read(candidate).is_ok())
}

/// Returns the members without variable parts that a text is similar to.
fn whole_words(text: &str) -> Vec<String> {
    let words = [ANYONE, ANY_VERIFIED, CLUSTER_USERS, SERVICE_ACCOUNTS];
    let close = words.into_iter().filter(|word| is_close(text, word));
    close.map(str::to_owned).collect()
}

/// Returns the prefixes that the beginning of a text is similar to.
fn prefixes(text: &str) -> Vec<&'static str> {
    let all = [
        GOOGLE_ACCOUNT_PREFIX,
        USER_PREFIX,
        PRINCIPAL_PREFIX,
        ACCOUNT_PREFIX,
        NAMESPACE_PREFIX,
    ];
    let is_meant = |prefix: &&str| {
        let head = after_colons(text, prefix.matches(':').count())
            .and_then(|rest| text.strip_suffix(rest));
        head.is_some_and(|head| is_close(head, prefix))
    };
    all.into_iter().filter(is_meant).collect()
}

/// Returns the text after the first `colons` colons.
fn after_colons(text: &str, colons: usize) -> Option<&str> {
    let mut rest = text;
    for _ in 0..colons {
        rest = rest.split_once(':')?.1;
    }
    Some(rest)
}

/// Returns the service accounts that a text may mean: with a wildcard, with one part too few or too many, with another
/// separator, or in capitals.
fn service_accounts(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase().replace('/', ":");
    let prefix = prefixes(&lower)
        .into_iter()
        .find(|prefix| *prefix == GOOGLE_ACCOUNT_PREFIX || prefix.starts_with("system:"));
    let of_kubernetes = prefix.is_some_and(|prefix| prefix != GOOGLE_ACCOUNT_PREFIX);
    let rest = match prefix {
        Some(prefix) => after_colons(&lower, prefix.matches(':').count()).unwrap_or_default(),
        None if text.contains('/') => &lower,
        None => return Vec::new(),
    };
    let parts: Vec<_> = rest.split(':').collect();
    match parts[..] {
        ["*"] | ["*", "*"] if of_kubernetes => vec![SERVICE_ACCOUNTS.to_owned()],
        [namespace, "*" | ""] | [namespace] if of_kubernetes => {
            vec![format!("{NAMESPACE_PREFIX}{namespace}")]
        }
        [namespace, name] => vec![format!("{ACCOUNT_PREFIX}{namespace}:{name}")],
        _ => Vec::new(),
    }
}

/// Returns whether two words differ only in case and in one or two letters.
pub(crate) fn is_close(text: &str, word: &str) -> bool {
    let allowed = if word.len() <= 6 { 1 } else { 2 };
    text.len().abs_diff(word.len()) <= allowed
        && distance(
            text.to_ascii_lowercase().as_bytes(),
            word.to_ascii_lowercase().as_bytes(),
        ) <= allowed
}

/// Returns whether two names differ only in case and in up to two letters, or in the order of two.
#[cfg(feature = "policy-file")]
pub(crate) fn is_similar(text: &str, name: &str) -> bool {
    const ALLOWED: usize = 2;
    text.len().abs_diff(name.len()) <= ALLOWED
        && distance(
            text.to_ascii_lowercase().as_bytes(),
            name.to_ascii_lowercase().as_bytes(),
        ) <= ALLOWED
}

/// Returns the Levenshtein distance.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, left) in one.iter().enumerate() {
        let mut last = above + 1;
        for (column, right) in other.iter().enumerate() {
            let substituted = row.get(column).copied().unwrap_or(usize::MAX);
            let deleted = row.get(column + 1).copied().unwrap_or(usize::MAX);
            let cost = (substituted.saturating_add(usize::from(left != right)))
                .min(deleted.saturating_add(1))
                .min(last + 1);
            if let Some(cell) = row.get_mut(column) {
                *cell = last;
            }
            last = cost;
        }
        if let Some(cell) = row.last_mut() {
            *cell = last;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Parsing and the search for a suggestion panic for no text, and each suggestion is a valid member.
        #[test]
        fn any_text_is_a_member_or_a_readable_error(
            text in prop_oneof![
                ".{0,40}",
                "(system:service-?[aA]ccounts?|serviceAccount|user|principa?le?|allUsers|group)?:?[a-zA-Z*:@.#/ \u{200b}-]{0,24}",
            ],
        ) {
            let Err(error) = Member::parse(&text) else {
                return Ok(());
            };
            let shown = error.to_string();
            prop_assert!(shown.is_ascii() && !shown.contains('\n'), "{shown:?}");
            if let PolicyError::UnknownMember { suggestion, .. }
            | PolicyError::MalformedMember { suggestion, .. }
            | PolicyError::InvalidMember { suggestion, .. } = error
                && let Some(suggestion) = suggestion
            {
                prop_assert!(Member::parse(&suggestion).is_ok(), "{suggestion:?}");
            }
        }
    }

    #[test]
    fn names_of_kubernetes_are_dns_1123_names() {
        let (label, name) = ("a".repeat(63), "b".repeat(253));
        let longest = format!("{ACCOUNT_PREFIX}{label}:{name}");
        for member in [
            longest.as_str(),
            "system:serviceaccount:a:b.c-d.0",
            "system:serviceaccount:0:0",
        ] {
            assert_eq!(
                Member::parse(member).ok(),
                Some(Member::ServiceAccount(member))
            );
            assert!(service_account(member).is_some(), "{member}");
        }
        for subject in [
            "system:serviceaccount:shop",
            "system:serviceaccount:shop:",
            "system:serviceaccount:shop:a:b",
            "system:serviceaccount:shop:A",
            "system:node:n",
            "",
        ] {
            assert_eq!(service_account(subject), None, "{subject}");
        }
    }

    #[test]
    fn the_distance_counts_insertions_deletions_and_substitutions() {
        for (one, other, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("abc", "xabc", 1),
            ("kitten", "sitting", 3),
            ("", "abc", 3),
        ] {
            assert_eq!(distance(one.as_bytes(), other.as_bytes()), expected);
            assert_eq!(distance(other.as_bytes(), one.as_bytes()), expected);
        }
    }
}
