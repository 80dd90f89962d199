//! Builds the guard from the settings.

use std::time::Duration;

use tower_oidc_guard::{Issuer, OidcGuard, PolicyFile};

use super::settings::ServerSettings;
use crate::Error;
use crate::arguments::web_url;

pub(super) async fn guard(settings: &ServerSettings) -> Result<OidcGuard, Error> {
    let mut builder = OidcGuard::builder();
    for name in &settings.issuer {
        builder = builder.issuer(issuer(name, settings)?);
    }
    let builder = match &settings.policy_file {
        Some(path) => builder.policy(PolicyFile::open(path).await?.policy()),
        None => builder.any_verified_caller(),
    };
    let builder = if settings.optional {
        builder.allow_missing_token()
    } else {
        builder
    };
    let builder = if settings.cache_tokens == 0 || settings.cache_bytes == 0 {
        builder.without_cache()
    } else {
        builder.cache(settings.cache_tokens, settings.cache_bytes)
    };
    Ok(builder.build()?)
}

fn issuer(name: &str, settings: &ServerSettings) -> Result<Issuer, Error> {
    let mut issuer = match name.split_once(':') {
        None if name == "kubernetes" => in_cluster(settings)?,
        None if name == "google" => google(settings.gate.google_keys_url.as_deref()),
        Some(("gke", cluster)) => match cluster.split('/').collect::<Vec<_>>()[..] {
            [project, location, cluster] => Issuer::gke(project, location, cluster),
            _ => return Err(Error::Issuer(name.to_owned())),
        },
        Some(("oidc", url)) => Issuer::oidc(checked(name, url)?),
        Some(("https" | "http", _)) => Issuer::kubernetes(checked(name, name)?),
        _ => return Err(Error::Issuer(name.to_owned())),
    };
    if settings.insecure_loopback_http {
        issuer = issuer.insecure_loopback_http();
    }
    if !settings.token_types.is_empty() {
        issuer = issuer.token_types(settings.token_types.iter().cloned());
    }
    if !settings.algorithms.is_empty() {
        issuer = issuer.algorithms(settings.algorithms.iter().map(|allowed| allowed.0));
    }
    let issuer = issuer.leeway(Duration::from_secs(settings.leeway));
    Ok(settings.audience.iter().fold(issuer, Issuer::audience))
}

/// Returns the URL of an issuer, to the letter.
fn checked<'u>(issuer: &str, url: &'u str) -> Result<&'u str, Error> {
    match web_url(url) {
        Ok(_) => Ok(url),
        Err(reason) => Err(Error::IssuerUrl {
            issuer: issuer.to_owned(),
            reason,
        }),
    }
}

/// Returns Google as an issuer, with its own keys or with those at that URL, which may be on this machine.
pub(crate) fn google(keys_url: Option<&str>) -> Issuer {
    match keys_url {
        Some(url) => Issuer::google().jwks_url(url).insecure_loopback_http(),
        None => Issuer::google(),
    }
}

fn in_cluster(settings: &ServerSettings) -> Result<Issuer, Error> {
    let mut issuer = Issuer::in_cluster()?;
    if let Some(path) = &settings.api_ca_file {
        issuer = issuer.api_ca_file(path);
    }
    if let Some(path) = &settings.api_token_file {
        issuer = issuer.api_token_file(path);
    }
    Ok(issuer)
}
