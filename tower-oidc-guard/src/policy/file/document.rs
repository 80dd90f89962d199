//! The content of a policy file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::{Members, PolicyError, Rule};
use crate::error::BuildError;
use crate::issuer::Issuer;
use crate::jose::algorithm::Algorithm;
use crate::jose::required_claims::invalid_requirement;

/// A policy file: who may call and, for a guard that is configured whole from it, which issuers to trust.
///
/// No field may be null or, `allow` excepted, empty: a template whose values are missing would otherwise lift a
/// restriction.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuardDocument {
    #[serde(deserialize_with = "allow")]
    allow: Vec<Entry>,
    #[serde(default, deserialize_with = "deny")]
    deny: Vec<Entry>,
    #[serde(default, deserialize_with = "audiences")]
    audiences: Vec<String>,
    #[serde(default, deserialize_with = "claim_values")]
    claims: BTreeMap<String, Value>,
    #[serde(default, deserialize_with = "issuers")]
    issuers: Vec<IssuerEntry>,
}

/// A member, or members of one issuer.
#[derive(Debug, Clone, PartialEq)]
enum Entry {
    Member(String),
    OfIssuer(OfIssuer),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfIssuer {
    #[serde(deserialize_with = "text")]
    issuer: String,
    #[serde(deserialize_with = "members_of")]
    members: Vec<String>,
}

/// An issuer's settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerEntry {
    /// Its URL; left out for the cluster that this runs in, and for Google.
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

impl GuardDocument {
    /// Reads YAML, of which JSON is a part.
    pub(super) fn read(content: &[u8]) -> Result<Self, serde_saphyr::Error> {
        serde_saphyr::from_slice(content)
    }

    pub(super) fn rule(&self) -> Result<Rule, PolicyError> {
        let mut rule = Rule::allowing(members(&self.allow)?);
        rule.denied = members(&self.deny)?;
        rule.audiences = self.audiences.clone();
        rule.claims = self.claims.clone().into_iter().collect();
        Ok(rule)
    }

    /// The issuers, to be trusted.
    pub(crate) fn issuers(&self) -> Result<Vec<Issuer>, BuildError> {
        self.issuers.iter().map(IssuerEntry::issuer).collect()
    }
}

fn members(entries: &[Entry]) -> Result<Members, PolicyError> {
    let mut all = Members::default();
    for entry in entries {
        all.add(match entry {
            Entry::Member(member) => Members::parse(None, [member])?,
            Entry::OfIssuer(of) => Members::parse(Some(of.issuer.clone()), &of.members)?,
        });
    }
    Ok(all)
}

impl IssuerEntry {
    fn issuer(&self) -> Result<Issuer, BuildError> {
        let wrong = |reason: &str| BuildError::Issuer {
            issuer: self.url.clone().unwrap_or_default(),
            reason: reason.to_owned(),
        };
        let mut issuer = match (self.platform, &self.url) {
            (PlatformName::InCluster, None) => Issuer::in_cluster()?,
            (PlatformName::Google, None) => Issuer::google(),
            (PlatformName::Kubernetes, Some(url)) => Issuer::kubernetes(url),
            (PlatformName::Other, Some(url)) => Issuer::oidc(url),
            (_, None) => return Err(wrong("it has no `url`")),
            (_, Some(_)) => return Err(wrong("its platform says its `url`: leave it out")),
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
            (Some(url), None, None) => issuer = issuer.discovery_url(url),
            (None, Some(url), None) => issuer = issuer.jwks_url(url),
            (None, None, Some(path)) => issuer = issuer.keys_file(path),
            (None, None, None) => {}
            _ => {
                return Err(wrong(
                    "its keys are said to be at more than one place: name one",
                ));
            }
        }
        Ok(issuer)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member, or an `issuer` with its `members`")
            }

            fn visit_str<E: serde::de::Error>(self, member: &str) -> Result<Entry, E> {
                Ok(Entry::Member(member.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
                OfIssuer::deserialize(MapAccessDeserializer::new(map)).map(Entry::OfIssuer)
            }
        }
        deserializer.deserialize_any(EntryVisitor)
    }
}

fn allow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    Option::deserialize(deserializer)?.ok_or_else(|| {
        D::Error::custom(
            "`allow` is null; name the members that may call, or write `[]` to allow nobody",
        )
    })
}

fn deny<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    filled(
        deserializer,
        "`deny` is null or empty, so nobody would be denied; name the members, or leave the field out",
    )
}

fn members_of<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    filled(
        deserializer,
        "the `members` of an issuer are null or empty; name them, or leave the entry out",
    )
}

fn audiences<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    filled(
        deserializer,
        "`audiences` is null or empty, so tokens would not be held to any; name one, or (in a policy) leave the field out",
    )
}

fn issuers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IssuerEntry>, D::Error> {
    filled(
        deserializer,
        "`issuers` is null or empty; name the issuers to trust, or leave the field out",
    )
}

fn algorithms<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Algorithm>>, D::Error> {
    let advice = "`algorithms` is null or empty, so every algorithm that the issuer lists would be allowed; name those to allow, or leave the field out";
    filled(deserializer, advice).map(Some)
}

fn token_types<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    let advice = "`token_types` is null or empty, so no type would be required; name those to accept, or leave the field out";
    filled(deserializer, advice).map(Some)
}

/// A list that has at least one element.
fn filled<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    advice: &'static str,
) -> Result<Vec<T>, D::Error> {
    let list: Option<Vec<Option<T>>> = Option::deserialize(deserializer)?;
    let list = list.unwrap_or_default();
    if list.is_empty() {
        return Err(D::Error::custom(advice));
    }
    let whole: Option<Vec<T>> = list.into_iter().collect();
    whole
        .ok_or_else(|| D::Error::custom("an element of the list is null; fill it in, or remove it"))
}

/// Required claims: at least one, and none that is null.
fn claim_values<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Value>, D::Error> {
    let claims: Option<BTreeMap<String, Value>> = Option::deserialize(deserializer)?;
    let claims = claims.unwrap_or_default();
    if claims.is_empty() {
        return Err(D::Error::custom(
            "`claims` is null or empty, so no claim would be required; name those to require, or leave the field out",
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

/// A value that is not null.
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
