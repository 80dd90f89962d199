//! The configuration file: which issuers to trust, and which callers to allow.
//!
//! [`OidcGuardBuilder::from_file`](crate::OidcGuardBuilder::from_file) uses the whole file,
//! [`PolicyFile`](crate::PolicyFile) the part that is a policy. Both are YAML, and therefore also JSON.
//!
//! No field may be null and, except for `allow`, none may be empty: a template whose values are missing would otherwise lift a
//! restriction.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::build_error::BuildError;
use crate::issuer::Issuer;
use crate::jose::algorithm::Algorithm;
use crate::jose::required_claims::invalid_requirement;

/// The content of a configuration file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigFile {
    #[serde(deserialize_with = "allow")]
    pub(crate) allow: Vec<MemberEntry>,
    #[serde(default, deserialize_with = "deny")]
    pub(crate) deny: Vec<MemberEntry>,
    #[serde(default, deserialize_with = "audiences")]
    pub(crate) audiences: Vec<String>,
    #[serde(default, deserialize_with = "claim_values")]
    pub(crate) claims: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "issuers")]
    issuers: Vec<IssuerEntry>,
}

/// A member, or members of one issuer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MemberEntry {
    Member(String),
    OfIssuer(MembersOfIssuer),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MembersOfIssuer {
    #[serde(deserialize_with = "text")]
    pub(crate) issuer: String,
    #[serde(deserialize_with = "members_of")]
    pub(crate) members: Vec<String>,
}

/// The settings of an issuer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerEntry {
    /// The URL of the issuer; absent for the cluster that this process runs in, and for Google.
    #[serde(default, deserialize_with = "present")]
    url: Option<String>,
    #[serde(default, deserialize_with = "platform")]
    platform: PlatformName,
    #[serde(deserialize_with = "audiences")]
    audiences: Vec<String>,
    #[serde(default, deserialize_with = "algorithms")]
    algorithms: Option<Vec<Algorithm>>,
    #[serde(default, deserialize_with = "present")]
    leeway_seconds: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    max_lifetime_seconds: Option<u64>,
    #[serde(default, deserialize_with = "token_types")]
    token_types: Option<Vec<String>>,
    #[serde(default, deserialize_with = "claim_values")]
    claims: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "present")]
    discovery_url: Option<String>,
    #[serde(default, deserialize_with = "present")]
    jwks_url: Option<String>,
    #[serde(default, deserialize_with = "present")]
    keys_file: Option<String>,
    #[serde(default)]
    dangerous_accept_api_server_audience: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PlatformName {
    InCluster,
    Kubernetes,
    Google,
    #[default]
    Other,
}

impl ConfigFile {
    /// Parses the content of a file.
    pub(crate) fn parse(content: &[u8]) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_slice(content)
    }

    /// Returns the issuers to trust.
    pub(crate) fn issuers(&self) -> Result<Vec<Issuer>, BuildError> {
        self.issuers.iter().map(IssuerEntry::issuer).collect()
    }
}

impl IssuerEntry {
    fn issuer(&self) -> Result<Issuer, BuildError> {
        let mut issuer = match (self.platform, &self.url) {
            (PlatformName::InCluster, None) => Issuer::in_cluster()?,
            (PlatformName::Google, None) => Issuer::google(),
            (PlatformName::Kubernetes, Some(url)) => Issuer::kubernetes(url),
            (PlatformName::Other, Some(url)) => Issuer::oidc(url),
            (PlatformName::Kubernetes | PlatformName::Other, None) => {
                return Err(self.invalid("the field `url` is missing"));
            }
            (PlatformName::InCluster | PlatformName::Google, Some(_)) => {
                return Err(self.invalid(
                    "the platforms `in-cluster` and `google` determine the issuer; leave the field `url` out",
                ));
            }
        };
        for audience in &self.audiences {
            issuer = issuer.audience(audience);
        }
        if let Some(algorithms) = &self.algorithms {
            issuer = issuer.algorithms(algorithms.iter().copied());
        }
        if let Some(seconds) = self.leeway_seconds {
            issuer = issuer.leeway(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.max_lifetime_seconds {
            issuer = issuer.max_lifetime(Duration::from_secs(seconds));
        }
        if let Some(types) = &self.token_types {
            issuer = issuer.token_types(types);
        }
        for (name, value) in &self.claims {
            issuer = issuer.require_claim(name, value.clone());
        }
        if self.dangerous_accept_api_server_audience {
            issuer = issuer.dangerous_accept_api_server_audience();
        }
        match (&self.discovery_url, &self.jwks_url, &self.keys_file) {
            (Some(url), None, None) => Ok(issuer.discovery_url(url)),
            (None, Some(url), None) => Ok(issuer.jwks_url(url)),
            (None, None, Some(path)) => Ok(issuer.keys_file(path)),
            (None, None, None) => Ok(issuer),
            _ => Err(self.invalid(
                "more than one of `discovery_url`, `jwks_url` and `keys_file` is set; set one",
            )),
        }
    }

    fn invalid(&self, reason: &str) -> BuildError {
        BuildError::Issuer {
            issuer: self
                .url
                .clone()
                .unwrap_or_else(|| "(without `url`)".to_owned()),
            reason: reason.to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for MemberEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = MemberEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member, or an `issuer` with its `members`")
            }

            fn visit_str<E: serde::de::Error>(self, member: &str) -> Result<MemberEntry, E> {
                Ok(MemberEntry::Member(member.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MemberEntry, A::Error> {
                MembersOfIssuer::deserialize(MapAccessDeserializer::new(map))
                    .map(MemberEntry::OfIssuer)
            }
        }
        deserializer.deserialize_any(EntryVisitor)
    }
}

fn allow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MemberEntry>, D::Error> {
    Option::deserialize(deserializer)?.ok_or_else(|| {
        D::Error::custom(
            "`allow` is null; list the members that are allowed, or write `[]` to allow nobody",
        )
    })
}

fn deny<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<MemberEntry>, D::Error> {
    non_empty(
        deserializer,
        "`deny` is null or empty, so nobody would be denied; list the members, or leave the field out",
    )
}

fn members_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    non_empty(
        deserializer,
        "the `members` of an issuer are null or empty; list them, or leave the entry out",
    )
}

fn audiences<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    non_empty(
        deserializer,
        "`audiences` is null or empty, so no audience would be required; list one, or (in a policy) leave the field out",
    )
}

fn issuers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IssuerEntry>, D::Error> {
    non_empty(
        deserializer,
        "`issuers` is null or empty; list the issuers to trust, or leave the field out",
    )
}

fn algorithms<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Algorithm>>, D::Error> {
    let advice = "`algorithms` is null or empty, so every algorithm that the issuer lists would be allowed; list those to allow, or leave the field out";
    non_empty(deserializer, advice).map(Some)
}

fn token_types<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let advice = "`token_types` is null or empty, so no type would be required; list those to accept, or leave the field out";
    non_empty(deserializer, advice).map(Some)
}

/// Deserializes a list with at least one element.
fn non_empty<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    advice: &'static str,
) -> Result<Vec<T>, D::Error> {
    let list: Option<Vec<Option<T>>> = Option::deserialize(deserializer)?;
    let list = list.unwrap_or_default();
    if list.is_empty() {
        return Err(D::Error::custom(advice));
    }
    let without_nulls: Option<Vec<T>> = list.into_iter().collect();
    without_nulls.ok_or_else(|| {
        D::Error::custom("an element of the list is null; give it a value, or remove it")
    })
}

/// Deserializes required claims: at least one, and none that is null.
fn claim_values<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Value>, D::Error> {
    let claims: Option<BTreeMap<String, Value>> = Option::deserialize(deserializer)?;
    let claims = claims.unwrap_or_default();
    if claims.is_empty() {
        return Err(D::Error::custom(
            "`claims` is null or empty, so no claim would be required; list those to require, or leave the field out",
        ));
    }
    for (name, value) in &claims {
        if let Some(reason) = invalid_requirement(name, value) {
            return Err(D::Error::custom(format!(
                "the claim {name:?} cannot be required: {reason}"
            )));
        }
    }
    Ok(claims)
}

/// Deserializes a value that is not null.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    match Option::deserialize(deserializer)? {
        Some(value) => Ok(Some(value)),
        None => Err(D::Error::custom(
            "the field is null; give it a value, or leave it out",
        )),
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    present(deserializer).map(Option::unwrap_or_default)
}

fn platform<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PlatformName, D::Error> {
    present(deserializer).map(Option::unwrap_or_default)
}
