//! Settings of issuers in, trusted issuers out.

use std::collections::HashSet;
use std::sync::Arc;

use reqwest_middleware::ClientWithMiddleware;

use crate::clock::Clock;
use crate::error::BuildError;
use crate::issuer::{Checked, Issuer};
use crate::jose::claim_rules::ClaimRules;
use crate::keys::Keys;
use crate::keys::http_client::{AllowedUrls, default_client};
use crate::keys::sources::KeySource;
use crate::verifier::{IssuerName, TrustedIssuer};

/// What an issuer is told as whose name only its cluster's API server knows.
const UNNAMED: &str = "kubernetes (in cluster)";

pub(super) fn trust(
    issuers: Vec<Issuer>,
    http_client: Option<ClientWithMiddleware>,
    clock: &Clock,
) -> Result<Vec<TrustedIssuer>, BuildError> {
    let (mut client, mut loopback_client) = (http_client.clone(), http_client);
    let mut names = HashSet::new();
    let mut trusted = Vec::with_capacity(issuers.len());
    for issuer in issuers {
        let client = match issuer.allowed_urls {
            AllowedUrls::HttpsOnly => &mut client,
            AllowedUrls::HttpsOrLoopback => &mut loopback_client,
        };
        let client = match client {
            Some(client) => client.clone(),
            None => client
                .insert(default_client(issuer.allowed_urls).map_err(BuildError::HttpClient)?)
                .clone(),
        };
        let checked = issuer.check(client)?;
        let own = checked.name.iter().chain(&issuer.aliases);
        let own: HashSet<_> = own.chain(&issuer.also_known_as).collect();
        for name in own {
            if !names.insert(name.clone()) {
                return Err(BuildError::DuplicateIssuer {
                    issuer: name.clone(),
                });
            }
        }
        trusted.push(trusted_issuer(issuer, checked, clock));
    }
    for issuer in &mut trusted {
        let others = names
            .iter()
            .filter(|name| !issuer.configured_issuers.contains(name));
        issuer.issuers_of_others = others.cloned().collect();
    }
    Ok(trusted)
}

fn trusted_issuer(issuer: Issuer, checked: Checked, clock: &Clock) -> TrustedIssuer {
    let Checked { name, keys } = checked;
    let other_issuers: Vec<_> = issuer
        .aliases
        .iter()
        .chain(&issuer.also_known_as)
        .cloned()
        .collect();
    let configured_issuers = name.iter().chain(&other_issuers).cloned().collect();
    let name: Option<Arc<str>> = name.map(Arc::from);
    let label = name.clone().unwrap_or_else(|| Arc::from(UNNAMED));
    let in_cluster = matches!(keys, KeySource::ApiServer(_));
    TrustedIssuer {
        issuer: match name {
            Some(name) if !in_cluster => IssuerName::Configured(name),
            initial => IssuerName::FromKeys { initial },
        },
        keys: Keys::new(label.clone(), keys, issuer.timing, clock.clone()),
        label,
        other_issuers,
        spellings: issuer.aliases,
        configured_issuers,
        issuers_of_others: HashSet::new(),
        platform: issuer.platform,
        claim_rules: ClaimRules {
            audiences: issuer.audiences,
            leeway: issuer.leeway,
            types: issuer.types,
            max_lifetime: issuer.max_lifetime,
        },
        required_claims: issuer.required_claims,
        claim_predicates: issuer.claim_predicates,
    }
}
