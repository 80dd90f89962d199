//! Builds the guard of `auth-server` from the settings.

use std::time::Duration;

use tower_oidc_guard::{
    AuditPath, BuildError, Issuer, OidcGuard, OidcGuardBuilder, PolicyFile, ReadyWhen,
};

use super::settings::ServerSettings;
use crate::Error;
use crate::arguments::parse_web_url;

/// Builds the guard. Reads the files of the policy and the shadow policy, if they are configured, but fetches no keys.
pub(super) async fn build(settings: &ServerSettings) -> Result<OidcGuard, Error> {
    if let Some(path) = &settings.config {
        let builder = OidcGuardBuilder::from_file(path).await;
        let builder = with_shadow_policy(builder.map_err(config_error)?, settings).await?;
        return builder.build().map_err(config_error);
    }
    let reviews_tokens = settings.token_review.unconfirmed.is_some();
    if reviews_tokens && !settings.issuer.iter().any(|value| value == "kubernetes") {
        return Err(Error::TokenReviewIssuer);
    }
    let mut builder = OidcGuard::builder();
    let mut labels = Vec::new();
    for value in &settings.issuer {
        let issuer = issuer(value, settings)?;
        labels.push((value.as_str(), issuer.label().to_owned()));
        builder = builder.issuer(issuer);
    }
    builder = builder.ready_when(ready_when(&settings.ready_issuers, &labels));
    builder = match &settings.policy_file {
        Some(path) => {
            let file = PolicyFile::open(path).await;
            builder.policy(
                file.map_err(Error::file("--policy-file (POLICY_FILE)"))?
                    .policy(),
            )
        }
        None => builder.any_verified_caller(),
    };
    builder = with_shadow_policy(builder, settings).await?;
    if settings.optional {
        builder = builder.allow_missing_token();
    }
    if settings.audit {
        builder = builder.audit_events().audit_path(AuditPath::Matched);
    }
    builder = if settings.cache_tokens == 0 || settings.cache_bytes == 0 {
        builder.without_cache()
    } else {
        builder.cache(settings.cache_tokens, settings.cache_bytes)
    };
    Ok(builder.build()?)
}

/// Adds the shadow policy, if one is configured.
async fn with_shadow_policy(
    builder: OidcGuardBuilder,
    settings: &ServerSettings,
) -> Result<OidcGuardBuilder, Error> {
    let Some(path) = &settings.shadow_policy else {
        return Ok(builder);
    };
    let file = PolicyFile::open(path).await;
    let file = file.map_err(Error::file("--shadow-policy (SHADOW_POLICY)"))?;
    Ok(builder.shadow_policy(file.policy()))
}

/// Returns the error for a configuration file.
fn config_error(error: BuildError) -> Error {
    match error {
        BuildError::PolicyFile(error) => Error::file("--config (CONFIG_FILE)")(error),
        error => error.into(),
    }
}

/// Logs which callers the server admits, with which shadow policy this is compared, and which issuers `/readyz` requires.
pub(super) fn log_settings(settings: &ServerSettings) {
    let shadow_policy = settings.shadow_policy.as_ref();
    let shadow_policy = shadow_policy.map(|path| path.display().to_string());
    if let Some(path) = &settings.config {
        tracing::info!(config = %path.display(), shadow_policy, "the guard is configured");
        return;
    }
    let policy = settings.policy_file.as_ref();
    let policy = policy.map(|path| path.display().to_string());
    tracing::info!(
        issuers = settings.issuer.join(","),
        audiences = settings.audience.join(","),
        policy = policy.as_deref().unwrap_or("any verified caller"),
        shadow_policy,
        ready_issuers = settings.ready_issuers.join(","),
        token_review = settings.token_review.describe(),
        "the guard is configured"
    );
    if policy.is_some() {
        return;
    }
    if settings.issuer.iter().any(|issuer| is_google(issuer)) {
        tracing::warn!(
            "no --policy-file (POLICY_FILE) is set, so any caller with a valid token is admitted; with the issuer google, that is anyone with a Google account"
        );
    } else if settings
        .issuer
        .iter()
        .any(|issuer| issuer == "github-actions")
    {
        tracing::warn!(
            "no --policy-file (POLICY_FILE) is set, so any caller with a valid token is admitted; with the issuer github-actions, that is anyone with a repository on GitHub"
        );
    } else {
        tracing::info!(
            "no --policy-file (POLICY_FILE) is set, so any caller with a valid token is admitted"
        );
    }
}

/// Returns whether a value of `--issuer` describes Google.
fn is_google(value: &str) -> bool {
    value == "google" || value == "oidc:https://accounts.google.com"
}

/// Returns which issuers `--ready-issuers` requires. `labels` are the values of `--issuer` with the labels of these issuers. An
/// item that is none of these values is passed on as a label, so that the guard does not build if there is none.
fn ready_when(items: &[String], labels: &[(&str, String)]) -> ReadyWhen {
    match items {
        [item] if item == "all" => ReadyWhen::AllIssuers,
        [item] if item == "any" => ReadyWhen::AnyIssuer,
        items => ReadyWhen::issuers(items.iter().map(|item| {
            let label = labels.iter().find(|(value, _)| value == item);
            label.map_or(item, |(_, label)| label).as_str()
        })),
    }
}

/// Builds a guard that trusts these issuers for these audiences, to check policies against. It accepts plain http for issuers on
/// loopback addresses, because nothing is fetched.
pub(super) fn build_for_checks(
    issuers: &[String],
    audiences: &[String],
) -> Result<OidcGuard, Error> {
    let mut builder = OidcGuard::builder().any_verified_caller();
    for value in issuers {
        let mut issuer = named_issuer(value, None, || Ok(Issuer::in_cluster()?))?;
        if value != "kubernetes" {
            issuer = issuer.insecure_loopback_http();
        }
        builder = builder.issuer(audiences.iter().fold(issuer, Issuer::audience));
    }
    Ok(builder.build()?)
}

/// Returns the issuer that a value of `--issuer` describes, with the settings of the server.
fn issuer(value: &str, settings: &ServerSettings) -> Result<Issuer, Error> {
    let google_keys_url = settings.gate.google_keys_url.as_deref();
    let mut issuer = named_issuer(value, google_keys_url, || in_cluster_issuer(settings))?;
    // The API server of the cluster is always contacted over https.
    if settings.insecure_loopback_http && value != "kubernetes" {
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

/// Returns the issuer that a value of `--issuer` describes.
fn named_issuer(
    value: &str,
    google_keys_url: Option<&str>,
    in_cluster: impl FnOnce() -> Result<Issuer, Error>,
) -> Result<Issuer, Error> {
    let invalid = || Error::Issuer(value.to_owned());
    match value.split_once(':') {
        None if value == "kubernetes" => in_cluster(),
        None if value == "google" => Ok(google_issuer(google_keys_url)),
        None if value == "github-actions" => Ok(Issuer::github_actions()),
        Some(("gitlab", url)) => Ok(Issuer::gitlab(validated_url(value, url)?)),
        Some(("gke", cluster)) => match cluster.split('/').collect::<Vec<_>>()[..] {
            [project, location, cluster] => Ok(Issuer::gke(project, location, cluster)),
            _ => Err(invalid()),
        },
        Some(("oidc", url)) => Ok(Issuer::oidc(validated_url(value, url)?)),
        Some(("https" | "http", _)) => Ok(Issuer::kubernetes(validated_url(value, value)?)),
        _ => Err(invalid()),
    }
}

/// Returns the URL of an issuer unchanged, because a token's `iss` must equal it exactly.
fn validated_url<'u>(value: &str, url: &'u str) -> Result<&'u str, Error> {
    match parse_web_url(url) {
        Ok(_) => Ok(url),
        Err(reason) => Err(Error::IssuerUrl {
            issuer: value.to_owned(),
            reason,
        }),
    }
}

/// Returns Google as issuer. Its keys are fetched from `keys_url` if that is set, over plain http if it is on loopback.
pub(crate) fn google_issuer(keys_url: Option<&str>) -> Issuer {
    match keys_url {
        Some(url) => Issuer::google().jwks_url(url).insecure_loopback_http(),
        None => Issuer::google(),
    }
}

/// Returns the cluster in which the server runs as issuer.
fn in_cluster_issuer(settings: &ServerSettings) -> Result<Issuer, Error> {
    let mut issuer = Issuer::in_cluster()?;
    if let Some(path) = &settings.api_ca_file {
        issuer = issuer.api_ca_file(path);
    }
    if let Some(path) = &settings.api_token_file {
        issuer = issuer.api_token_file(path);
    }
    if let Some(review) = settings.token_review.token_review() {
        issuer = issuer.token_review(review);
    }
    Ok(issuer)
}
