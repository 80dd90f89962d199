//! Parses credential configuration files of type `external_account`.
//!
//! The format is documented in [AIP-4117]. Unknown members are ignored, and members that are null are treated as missing, as
//! Google's libraries do.
//!
//! [AIP-4117]: https://google.aip.dev/auth/4117

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::header::{HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny};
use zeroize::Zeroizing;

use crate::json_object::{Object, optional_object};
use crate::text::{printable, shorten_middle};
use crate::token::TokenFormat;

/// The lifetimes of access tokens of service accounts that IAM Credentials can issue.
pub(super) const LIFETIMES: std::ops::RangeInclusive<u64> = 600..=43_200;

/// The longest text of the configuration that an error quotes, in bytes.
const MAX_QUOTED_BYTES: usize = 200;

/// A credential configuration. Its URLs are not checked yet.
pub(super) struct CredentialConfig {
    pub(super) audience: String,
    pub(super) subject_token_type: SubjectTokenType,
    pub(super) token_url: Option<String>,
    pub(super) impersonation_url: Option<String>,
    /// The lifetime of access tokens of the service account.
    pub(super) token_lifetime: Option<Duration>,
    pub(super) source: CredentialSource,
    pub(super) universe_domain: Option<String>,
    pub(super) quota_project: Option<String>,
    pub(super) workforce_pool_user_project: Option<String>,
    pub(super) client: Option<ClientCredentials>,
}

/// The credentials of an OAuth client, for HTTP Basic authentication at the Security Token Service.
#[derive(Clone)]
pub(super) struct ClientCredentials {
    pub(super) id: String,
    pub(super) secret: Zeroizing<String>,
}

/// Where the subject token comes from.
pub(super) enum CredentialSource {
    File {
        path: PathBuf,
        content: ContentFormat,
    },
    Url {
        url: String,
        headers: HeaderMap,
        content: ContentFormat,
    },
}

/// The format of a file or response that contains the subject token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ContentFormat {
    /// Only the token.
    Text,
    /// A JSON object with the token in this member.
    Json { field: String },
}

impl ContentFormat {
    /// Returns the name of the JSON member with the token, or `None` if the content is only the token.
    pub(super) fn field(&self) -> Option<&str> {
        match self {
            Self::Text => None,
            Self::Json { field } => Some(field),
        }
    }
}

/// The type of the subject token. Types that require a request to be signed are not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SubjectTokenType {
    Jwt,
    IdToken,
    Saml2,
}

impl SubjectTokenType {
    const ALL: [Self; 3] = [Self::Jwt, Self::IdToken, Self::Saml2];

    /// Parses a URI.
    pub(super) fn parse(uri: &str) -> Result<Self, String> {
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.uri() == uri) {
            return Ok(kind);
        }
        Err(match uri {
            "urn:ietf:params:aws:token-type:aws4_request" => {
                format!("its `subject_token_type` is {uri:?}: {AWS_ADVICE}")
            }
            "urn:ietf:params:oauth:token-type:mtls" => {
                format!("its `subject_token_type` is {uri:?}: {CERTIFICATE_ADVICE}")
            }
            _ => format!(
                "its `subject_token_type` is {}; expected {:?}, {:?} or {:?}",
                quoted(uri),
                Self::Jwt.uri(),
                Self::IdToken.uri(),
                Self::Saml2.uri()
            ),
        })
    }

    /// Returns the URI of this type.
    pub(super) fn uri(self) -> &'static str {
        match self {
            Self::Jwt => "urn:ietf:params:oauth:token-type:jwt",
            Self::IdToken => "urn:ietf:params:oauth:token-type:id_token",
            Self::Saml2 => "urn:ietf:params:oauth:token-type:saml2",
        }
    }

    /// Returns the format of the tokens: only SAML responses are not JWTs.
    pub(super) fn format(self) -> TokenFormat {
        match self {
            Self::Jwt | Self::IdToken => TokenFormat::Jwt,
            Self::Saml2 => TokenFormat::Opaque,
        }
    }
}

const AWS_ADVICE: &str = "credentials of AWS are not supported, since they require a request to be signed; on EKS, mount a projected service account \
     token and create the configuration with `--credential-source-file`";
const CERTIFICATE_ADVICE: &str = "X.509 certificates are not supported; use `credential_source.file` with a token of your identity provider";

/// A text that is wiped when it is dropped.
struct Secret(Zeroizing<String>);

impl Secret {
    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

/// The member that all credential files have.
#[derive(Deserialize)]
struct Kind {
    r#type: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    audience: Option<String>,
    subject_token_type: Option<String>,
    token_url: Option<String>,
    service_account_impersonation_url: Option<String>,
    #[serde(default, deserialize_with = "optional_object")]
    service_account_impersonation: Option<Impersonation>,
    #[serde(default, deserialize_with = "optional_object")]
    credential_source: Option<Source>,
    universe_domain: Option<String>,
    quota_project_id: Option<String>,
    workforce_pool_user_project: Option<String>,
    client_id: Option<String>,
    client_secret: Option<Secret>,
}

#[derive(Deserialize)]
struct Impersonation {
    #[serde(default, deserialize_with = "seconds")]
    token_lifetime_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct Source {
    file: Option<PathBuf>,
    url: Option<String>,
    headers: Option<BTreeMap<String, Secret>>,
    #[serde(default, deserialize_with = "optional_object")]
    format: Option<Format>,
    executable: Option<IgnoredAny>,
    environment_id: Option<IgnoredAny>,
    certificate: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Format {
    r#type: Option<String>,
    subject_token_field_name: Option<String>,
}

/// Parses a number of seconds: a number, or a string as some tools write it.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(u64),
        Text(String),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => None,
        Some(Seconds::Number(seconds)) => Some(seconds),
        Some(Seconds::Text(text)) => {
            Some(text.parse().map_err(|_| D::Error::custom("not a number"))?)
        }
    })
}

impl CredentialConfig {
    /// Parses a configuration. The error states what is wrong and what to do, as the end of a sentence about the
    /// configuration, and contains no secret.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let Object(kind): Object<Kind> = serde_json::from_slice(json).map_err(describe)?;
        check_kind(kind.r#type.as_deref())?;
        let Object(document): Object<Document> = serde_json::from_slice(json).map_err(describe)?;
        document.into_config()
    }
}

impl Document {
    fn into_config(self) -> Result<CredentialConfig, String> {
        let source = self
            .credential_source
            .ok_or_else(|| missing("credential_source"))?;
        // Checked first, since its error is the most useful one for configurations of other kinds.
        let source = source.into_source()?;
        let subject_token_type = required(self.subject_token_type, "subject_token_type")?;
        let lifetime = self.service_account_impersonation;
        let lifetime = lifetime.and_then(|options| options.token_lifetime_seconds);
        if let Some(seconds) = lifetime
            && !LIFETIMES.contains(&seconds)
        {
            return Err(format!(
                "its `service_account_impersonation.token_lifetime_seconds` is {seconds}; expected {} to {}",
                LIFETIMES.start(),
                LIFETIMES.end()
            ));
        }
        let client = match (present(self.client_id), self.client_secret) {
            (Some(id), secret) => Some(ClientCredentials {
                id,
                secret: secret.map(|secret| secret.0).unwrap_or_default(),
            }),
            (None, Some(_)) => {
                return Err(
                    "it has a `client_secret` without a `client_id`; add the `client_id`"
                        .to_owned(),
                );
            }
            (None, None) => None,
        };
        Ok(CredentialConfig {
            audience: required(self.audience, "audience")?,
            subject_token_type: SubjectTokenType::parse(&subject_token_type)?,
            token_url: present(self.token_url),
            impersonation_url: present(self.service_account_impersonation_url),
            token_lifetime: lifetime.map(Duration::from_secs),
            source,
            universe_domain: present(self.universe_domain),
            quota_project: present(self.quota_project_id),
            workforce_pool_user_project: present(self.workforce_pool_user_project),
            client,
        })
    }
}

impl Source {
    fn into_source(self) -> Result<CredentialSource, String> {
        if self.executable.is_some() {
            return Err(
                "its `credential_source` names an executable, which this crate never runs, since anyone who can write the \
                 configuration could run any program; use `credential_source.file`, or run the program in code with \
                 `GoogleFederation::builder` and a `CommandToken`"
                    .to_owned(),
            );
        }
        if self.environment_id.is_some() {
            return Err(format!(
                "its `credential_source` has an `environment_id`: {AWS_ADVICE}"
            ));
        }
        if self.certificate.is_some() {
            return Err(format!(
                "its `credential_source` has a `certificate`: {CERTIFICATE_ADVICE}"
            ));
        }
        let content = match self.format {
            None => ContentFormat::Text,
            Some(format) => format.into_content()?,
        };
        let file = self.file.filter(|file| !file.as_os_str().is_empty());
        match (file, present(self.url)) {
            (Some(path), None) => Ok(CredentialSource::File { path, content }),
            (None, Some(url)) => Ok(CredentialSource::Url {
                url,
                headers: parse_headers(self.headers.unwrap_or_default())?,
                content,
            }),
            (Some(_), Some(_)) => {
                Err("its `credential_source` has both a `file` and a `url`; remove one".to_owned())
            }
            (None, None) => Err(
                "its `credential_source` has neither a `file` nor a `url`; create the configuration with `gcloud iam \
                 workload-identity-pools create-cred-config … --credential-source-file`"
                    .to_owned(),
            ),
        }
    }
}

impl Format {
    fn into_content(self) -> Result<ContentFormat, String> {
        match self.r#type.as_deref() {
            None | Some("text") => Ok(ContentFormat::Text),
            Some("json") => match present(self.subject_token_field_name) {
                Some(field) => Ok(ContentFormat::Json { field }),
                None => Err(
                    "its `credential_source.format` is `json` without a `subject_token_field_name`; add the name of the \
                     member that contains the token"
                        .to_owned(),
                ),
            },
            Some(other) => Err(format!(
                "its `credential_source.format.type` is {}; expected \"text\" or \"json\"",
                quoted(other)
            )),
        }
    }
}

/// Parses the headers of the request for a subject token. Headers that determine which server gets the request, or the
/// framing of the message, are rejected.
fn parse_headers(headers: BTreeMap<String, Secret>) -> Result<HeaderMap, String> {
    let mut parsed = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let invalid = |reason| {
            format!(
                "its `credential_source.headers` has {}, {reason}",
                quoted(&name)
            )
        };
        let header = HeaderName::try_from(&name)
            .map_err(|_| invalid("which is not the name of a header"))?;
        let is_reserved = [HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(&header)
            || matches!(
                header.as_str(),
                "connection" | "content-length" | "proxy-authorization"
            );
        if is_reserved {
            return Err(invalid("which the HTTP client sets; remove it"));
        }
        // Kept in memory that is wiped.
        let bytes = bytes::Bytes::from_owner(Zeroizing::new(value.as_bytes().to_vec()));
        let mut value = HeaderValue::from_maybe_shared(bytes)
            .map_err(|_| invalid("whose value contains characters that a header cannot have"))?;
        value.set_sensitive(true);
        if parsed.insert(header, value).is_some() {
            return Err(invalid("twice; remove one"));
        }
    }
    Ok(parsed)
}

/// Returns an error that states what to do with another kind of credential file.
fn check_kind(kind: Option<&str>) -> Result<(), String> {
    let advice = match kind {
        Some("external_account") => return Ok(()),
        None => {
            "create one with `gcloud iam workload-identity-pools create-cred-config`; this may be another file"
        }
        Some("service_account") => {
            "a service account key is a long-lived secret, which this crate does not use: federate the cluster's identity with \
             `gcloud iam workload-identity-pools create-cred-config` and delete the key, or use `MetadataServer` on Google Cloud"
        }
        Some("authorized_user") => {
            "these are the credentials of a person, from `gcloud auth application-default login`: on a workstation, use \
             `CommandToken::new(\"gcloud\").args([\"auth\", \"print-identity-token\"])`"
        }
        Some("external_account_authorized_user") => {
            "these are the credentials of a person in a workforce pool: on a workstation, use `CommandToken::new(\"gcloud\")`"
        }
        Some("impersonated_service_account") => {
            "impersonation from other credentials is not supported: on a workstation, use \
             `CommandToken::new(\"gcloud\").args([\"auth\", \"print-identity-token\", \"--impersonate-service-account\", …])`"
        }
        Some("gdch_service_account") => {
            "service accounts of Google Distributed Cloud are not supported: use the service account token of the cluster \
             with `ProjectedToken`"
        }
        Some(_) => "create one with `gcloud iam workload-identity-pools create-cred-config`",
    };
    let found = kind.map_or_else(
        || "it has no `type`".to_owned(),
        |kind| format!("its `type` is {}", quoted(kind)),
    );
    Err(format!("{found}, expected \"external_account\"; {advice}"))
}

/// Describes a syntax or type error by its position, since its message may quote the configuration.
fn describe(error: serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let what = if error.is_data() {
        "a member has a value of another type than expected, or occurs twice"
    } else {
        "it is not JSON"
    };
    format!("{what}: line {line}, column {column}")
}

fn required(value: Option<String>, name: &str) -> Result<String, String> {
    present(value).ok_or_else(|| missing(name))
}

fn missing(name: &str) -> String {
    format!(
        "it has no `{name}`; create it with `gcloud iam workload-identity-pools create-cred-config`"
    )
}

/// Returns a value unless it is missing or empty.
fn present(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// Returns a text of the configuration in quotes, in one line and shortened.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", shorten_middle(&printable(text), MAX_QUOTED_BYTES))
}

/// Returns whether an audience is a provider of a workforce pool.
pub(super) fn is_workforce_pool(audience: &str) -> bool {
    let mut parts = audience.trim_start_matches('/').split('/').skip(1);
    parts.next() == Some("locations")
        && parts.next().is_some_and(|location| !location.is_empty())
        && parts.next() == Some("workforcePools")
}

#[cfg(test)]
mod fuzz;
