//! What stands in a policy file.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::super::{Members, PolicyError, Rule};
use crate::error::BuildError;
use crate::issuer::Issuer;
use crate::verify::algorithm::Algorithm;

/// A policy file: who may call and, for a guard configured whole from it, whom to trust.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GuardDocument {
    allow: Vec<Entry>,
    #[serde(default)]
    deny: Vec<Entry>,
    #[serde(default)]
    audiences: Vec<String>,
    #[serde(default)]
    claims: BTreeMap<String, Value>,
    #[serde(default)]
    issuers: Vec<IssuerEntry>,
}

/// A member, or those of an issuer that is named.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Entry {
    Member(String),
    OfIssuer(OfIssuer),
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfIssuer {
    issuer: String,
    members: Vec<String>,
}

/// An issuer's settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerEntry {
    /// Its URL; for the cluster that this runs in, and for Google, there is nothing to say.
    url: Option<String>,
    #[serde(default)]
    platform: PlatformName,
    audiences: Vec<String>,
    algorithms: Option<Vec<Algorithm>>,
    leeway_seconds: Option<u64>,
    max_lifetime_seconds: Option<u64>,
    token_types: Option<Vec<String>>,
    #[serde(default)]
    claims: BTreeMap<String, Value>,
    discovery_url: Option<String>,
    jwks_url: Option<String>,
    keys_file: Option<String>,
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
        let wants_url = |reason: &str| BuildError::Issuer {
            issuer: self.url.clone().unwrap_or_default(),
            reason: reason.to_owned(),
        };
        let mut issuer = match (self.platform, &self.url) {
            (PlatformName::InCluster, None) => Issuer::in_cluster()?,
            (PlatformName::Google, None) => Issuer::google(),
            (PlatformName::Kubernetes, Some(url)) => Issuer::kubernetes(url),
            (PlatformName::Other, Some(url)) => Issuer::discover(url),
            (_, None) => return Err(wants_url("it has no `url`")),
            (_, Some(_)) => return Err(wants_url("its platform says its `url`: leave it out")),
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
        match (&self.discovery_url, &self.jwks_url, &self.keys_file) {
            (Some(url), None, None) => issuer = issuer.discovery_url(url),
            (None, Some(url), None) => issuer = issuer.jwks_url(url),
            (None, None, Some(path)) => issuer = issuer.keys_file(path),
            (None, None, None) => {}
            _ => {
                return Err(wants_url(
                    "its keys are said to be at more than one place: name one",
                ));
            }
        }
        Ok(issuer)
    }
}
