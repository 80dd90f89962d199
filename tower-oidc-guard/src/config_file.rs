//! The configuration file: which issuers to trust, which callers to allow, and the settings of the guard.
//!
//! [`OidcGuardBuilder::from_file`](crate::OidcGuardBuilder::from_file) follows the whole file,
//! [`PolicyFile`](crate::PolicyFile) the part that is a policy. Both are YAML, and therefore also JSON.
//!
//! No field may be null and, except for `allow`, none may be empty: a template whose values are missing would otherwise lift a
//! restriction.

mod changes;
mod claims;
mod document;
mod end;
mod error;
mod fields;
mod settings;
mod syntax;
mod token_review;

use std::time::Duration;

pub(crate) use self::changes::config_changes;
use self::claims::claims;
use self::document::{Content, Entry, Node};
pub(crate) use self::error::{ContentError, Position, Positioned, Reason};
use self::fields::{Field, Fields, found, into_text, listed, quoted};
pub(crate) use self::settings::{CacheValues, GuardSettings, SettingValues};
use self::token_review::TokenReviewEntry;
use crate::build_error::BuildError;
use crate::issuer::{GITHUB_ACTIONS, IN_CLUSTER_LABEL, Issuer};
use crate::jose::algorithm::Algorithm;
use crate::jose::required_claims::RequiredClaim;
use crate::policy::is_close;

/// The content of a configuration file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ConfigFile {
    pub(crate) allow: Vec<MemberEntry>,
    pub(crate) deny: Vec<MemberEntry>,
    pub(crate) audiences: Vec<Positioned<String>>,
    pub(crate) scopes: Vec<Positioned<String>>,
    pub(crate) claims: Vec<RequiredClaim>,
    issuers: Vec<Positioned<IssuerEntry>>,
    pub(crate) settings: GuardSettings,
}

/// A member, or members of one issuer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum MemberEntry {
    Member(Positioned<String>),
    OfIssuer(MembersOfIssuer),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MembersOfIssuer {
    pub(crate) issuer: Positioned<String>,
    pub(crate) members: Vec<Positioned<String>>,
}

/// The settings of an issuer.
#[derive(Debug, Clone, PartialEq)]
struct IssuerEntry {
    /// The URL of the issuer; absent for the cluster that this process runs in, for Google, and for GitHub Actions on github.com.
    url: Option<String>,
    platform: PlatformName,
    audiences: Vec<Positioned<String>>,
    also_known_as: Vec<String>,
    algorithms: Option<Vec<Algorithm>>,
    leeway_seconds: Option<u64>,
    max_lifetime_seconds: Option<u64>,
    stale_after_seconds: Option<u64>,
    unknown_key_jitter_seconds: Option<u64>,
    fetch_timeout_seconds: Option<u64>,
    max_document_bytes: Option<u64>,
    max_keys: Option<u64>,
    token_types: Option<Vec<String>>,
    claims: Vec<RequiredClaim>,
    discovery_url: Option<String>,
    jwks_url: Option<String>,
    keys_file: Option<String>,
    api_token_file: Option<String>,
    api_ca_file: Option<String>,
    insecure_loopback_http: bool,
    dangerous_accept_api_server_audience: bool,
    token_review: Option<TokenReviewEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlatformName {
    InCluster,
    Kubernetes,
    Google,
    GitHubActions,
    GitLab,
    Other,
}

const POLICY_FIELDS: [&str; 6] = ["allow", "deny", "audiences", "scopes", "claims", "issuers"];
const ISSUER_LIST_FIELDS: [&str; 2] = ["issuer", "members"];
const ISSUER_FIELDS: [&str; 22] = [
    "url",
    "platform",
    "audiences",
    "algorithms",
    "leeway_seconds",
    "max_lifetime_seconds",
    "token_types",
    "claims",
    "discovery_url",
    "jwks_url",
    "keys_file",
    "also_known_as",
    "stale_after_seconds",
    "unknown_key_jitter_seconds",
    "fetch_timeout_seconds",
    "max_document_bytes",
    "max_keys",
    "api_token_file",
    "api_ca_file",
    "insecure_loopback_http",
    "dangerous_accept_api_server_audience",
    "token_review",
];
const PLATFORMS: [(&str, PlatformName); 6] = [
    ("in-cluster", PlatformName::InCluster),
    ("kubernetes", PlatformName::Kubernetes),
    ("google", PlatformName::Google),
    ("github-actions", PlatformName::GitHubActions),
    ("gitlab", PlatformName::GitLab),
    ("other", PlatformName::Other),
];

/// The issuer of the platform `google`.
const GOOGLE: &str = "https://accounts.google.com";

const NO_AUDIENCES: &str = "`audiences` is null or empty, so no audience would be required; list one, or (in a policy) leave the field out";

impl ConfigFile {
    /// Parses the content of a file.
    pub(crate) fn parse(content: &[u8]) -> Result<Self, ContentError> {
        let document = Node::parse(content)?;
        if document.content == Content::Null {
            let reason = "the file is empty; list the members that are allowed in `allow`, or write `allow: []` to allow nobody";
            return Err(ContentError::new(Position::START, reason));
        }
        if let Some(position) = kubernetes_object(&document) {
            let reason = "unknown field \"apiVersion\"; the file is a Kubernetes object, such as a ConfigMap. The policy is the text of one key below its `data`: save that text in a separate file, with `allow` and `deny` at the beginning of a line";
            return Err(ContentError::new(position, reason));
        }
        let mut fields =
            Fields::read_with(document, "the file", &POLICY_FIELDS, &settings::FIELDS)?;
        let advice = "list the members that are allowed, or write `allow: []` to allow nobody";
        let allow = fields.take_required("allow", advice)?.into_list(
            "`allow` is null; list the members that are allowed, or write `[]` to allow nobody",
        )?;
        let deny = fields.take("deny").map(|field| {
            field.into_non_empty_list("`deny` is null or empty, so nobody would be denied; list the members, or leave the field out")
        });
        let audiences = fields
            .take("audiences")
            .map(|field| field.into_texts(NO_AUDIENCES));
        let scopes = fields.take("scopes").map(|field| {
            field.into_texts("`scopes` is null or empty, so no scope would be required; list those to require, or leave the field out")
        });
        let issuers = fields.take("issuers").map(|field| {
            field.into_non_empty_list(
                "`issuers` is null or empty; list the issuers to trust, or leave the field out",
            )
        });
        Ok(Self {
            allow: member_entries(allow, "allow")?,
            deny: member_entries(deny.transpose()?.unwrap_or_default(), "deny")?,
            audiences: audiences.transpose()?.unwrap_or_default(),
            scopes: scopes.transpose()?.unwrap_or_default(),
            claims: claims(fields.take("claims"))?,
            issuers: issuers
                .transpose()?
                .unwrap_or_default()
                .into_iter()
                .map(IssuerEntry::read)
                .collect::<Result<_, _>>()?,
            settings: GuardSettings::read(&mut fields)?,
        })
    }

    /// Returns the issuers to trust.
    pub(crate) fn issuers(&self) -> Result<Vec<Issuer>, BuildError> {
        let issuers = self.issuers.iter();
        issuers
            .map(|entry| entry.value.issuer(entry.position))
            .collect()
    }

    /// Returns the labels of the issuers, as far as they are known without a cluster.
    pub(crate) fn issuer_labels(&self) -> Vec<String> {
        let entries = self.issuers.iter().map(|entry| &entry.value);
        let label = |entry: &IssuerEntry| {
            let implied = entry.platform.implied_label().map(str::to_owned);
            entry.url.clone().or(implied)
        };
        entries.filter_map(label).collect()
    }

    /// Returns whether two files have the same issuers with the same settings.
    pub(crate) fn has_same_issuers(&self, other: &Self) -> bool {
        self.issuers.len() == other.issuers.len()
            && self
                .issuers
                .iter()
                .zip(&other.issuers)
                .all(|(own, other)| own.value.is_same(&other.value))
    }

    /// Returns the position of the part of the file that an error is about: the first character if it is not known.
    pub(crate) fn position_of(&self, error: &BuildError) -> Position {
        let setting = |name| self.settings.position(name);
        let named = |label: &str| {
            let mut entries = self.issuers.iter().rev();
            let is_named = |entry: &&Positioned<IssuerEntry>| {
                let entry = &entry.value;
                entry.url.as_deref() == Some(label)
                    || entry.also_known_as.iter().any(|other| other == label)
                    || (entry.url.is_none() && entry.platform.implied_label() == Some(label))
            };
            entries.find(is_named).map(|entry| entry.position)
        };
        let with_audience = |audience: &str| {
            let mut audiences = self.issuers.iter().flat_map(|entry| &entry.value.audiences);
            let found = audiences.find(|own| own.value == audience);
            found.map(|audience| audience.position)
        };
        let position = match error {
            BuildError::Issuer { issuer, .. }
            | BuildError::NoAudience { issuer }
            | BuildError::DuplicateIssuer { issuer } => named(issuer),
            BuildError::ApiServerAudience { audience } => with_audience(audience),
            BuildError::TokenHeaders { .. } => {
                setting("token_from").or_else(|| setting("token_from_exactly_one_of"))
            }
            BuildError::ReadyWhen { .. } => setting("ready_when"),
            BuildError::Resource { .. } | BuildError::ResourceMetadataPath => {
                setting("protected_resource")
            }
            BuildError::Realm { .. } => setting("realm"),
            BuildError::MaxTokenBytes { .. } => setting("max_token_bytes"),
            BuildError::Cache { .. } => setting("cache"),
            BuildError::RefusalSummaryInterval { .. } => {
                setting("refusal_summary_interval_seconds")
            }
            BuildError::SettingInFile { setting: name } => setting(name),
            _ => None,
        };
        position.unwrap_or(Position::START)
    }
}

/// Returns the position of the field `apiVersion` if there is one.
fn kubernetes_object(document: &Node) -> Option<Position> {
    let Content::Mapping(entries) = &document.content else {
        return None;
    };
    let mut entries = entries.iter();
    entries
        .find(|entry| entry.name == "apiVersion")
        .map(|entry| entry.position)
}

fn member_entries(list: Vec<Node>, name: &'static str) -> Result<Vec<MemberEntry>, ContentError> {
    let list = list.into_iter();
    list.map(|node| MemberEntry::read(node, name)).collect()
}

impl MemberEntry {
    /// Reads an element of the list with this name.
    fn read(node: Node, list: &str) -> Result<Self, ContentError> {
        match &node.content {
            Content::Mapping(entries) => {
                if let Some(member) = split_member(entries) {
                    let reason = format!(
                        "expected a member, found {}; a member has no space after a `:`, so write {}",
                        found(&node),
                        quoted(&member)
                    );
                    return Err(ContentError::new(node.position, reason));
                }
                MembersOfIssuer::read(node).map(Self::OfIssuer)
            }
            Content::List(_) => {
                let reason = format!(
                    "an element of `{list}` must be a member, or an `issuer` with its `members`; found a list"
                );
                Err(ContentError::new(node.position, reason))
            }
            _ => into_text(node, "a member").map(Self::Member),
        }
    }
}

/// Returns the member that is meant by a mapping such as `user: jane@example.com`.
fn split_member(entries: &[Entry]) -> Option<String> {
    let [entry] = entries else {
        return None;
    };
    let is_field = |name: &&str| is_close(&entry.name, name);
    if ISSUER_LIST_FIELDS.iter().any(is_field) {
        return None;
    }
    match &entry.value.content {
        Content::Text(value) | Content::Plain(_, value) => Some(format!("{}:{value}", entry.name)),
        _ => None,
    }
}

impl MembersOfIssuer {
    fn read(node: Node) -> Result<Self, ContentError> {
        let mut fields = Fields::read(node, "a list of one issuer", &ISSUER_LIST_FIELDS)?;
        let issuer = fields
            .take_required(
                "issuer",
                "write the `iss` of the issuer that the members belong to",
            )?
            .into_text()?;
        let members = fields
            .take_required("members", "list the members of the issuer")?
            .into_non_empty_list(
                "the `members` of an issuer are null or empty; list them, or leave the entry out",
            )?
            .into_iter()
            .map(|node| into_text(node, "a member of an issuer"))
            .collect::<Result<_, _>>()?;
        Ok(Self { issuer, members })
    }
}

impl PlatformName {
    /// Returns the label of the issuer of an entry without `url`, if the platform determines it.
    fn implied_label(self) -> Option<&'static str> {
        match self {
            Self::InCluster => Some(IN_CLUSTER_LABEL),
            Self::Google => Some(GOOGLE),
            Self::GitHubActions => Some(GITHUB_ACTIONS),
            Self::Kubernetes | Self::GitLab | Self::Other => None,
        }
    }
}

impl IssuerEntry {
    /// Returns whether the settings are the same, wherever they are in a file.
    fn is_same(&self, other: &Self) -> bool {
        let values = |entry: &Self| -> Vec<String> {
            let audiences = entry.audiences.iter();
            audiences.map(|audience| audience.value.clone()).collect()
        };
        let without = |entry: &Self| Self {
            audiences: Vec::new(),
            ..entry.clone()
        };
        values(self) == values(other) && without(self) == without(other)
    }

    fn read(node: Node) -> Result<Positioned<Self>, ContentError> {
        let mut fields = Fields::read(node, "an issuer", &ISSUER_FIELDS)?;
        let position = fields.position;
        let advice = "list the audiences of this service that its tokens must be for";
        let audiences = fields
            .take_required("audiences", advice)?
            .into_texts(NO_AUDIENCES)?;
        let mut text = |name| -> Result<Option<String>, ContentError> {
            let text = fields.take(name).map(Field::into_text).transpose()?;
            Ok(text.map(|text| text.value))
        };
        let (url, discovery_url) = (text("url")?, text("discovery_url")?);
        let (jwks_url, keys_file) = (text("jwks_url")?, text("keys_file")?);
        let (api_token_file, api_ca_file) = (text("api_token_file")?, text("api_ca_file")?);
        let platform = fields.take("platform").map(platform).transpose()?;
        let algorithms = fields.take("algorithms").map(algorithms).transpose()?;
        let token_types = fields.take("token_types").map(|field| {
            field.into_texts("`token_types` is null or empty, so no type would be required; list those to accept, or leave the field out")
        });
        let mut seconds = |name| fields.take(name).map(Field::into_seconds).transpose();
        let leeway_seconds = seconds("leeway_seconds")?;
        let max_lifetime_seconds = seconds("max_lifetime_seconds")?;
        let stale_after_seconds = seconds("stale_after_seconds")?;
        let unknown_key_jitter_seconds = seconds("unknown_key_jitter_seconds")?;
        let fetch_timeout_seconds = seconds("fetch_timeout_seconds")?;
        let mut number = |name, unit| {
            let field = fields.take(name);
            field.map(|field| field.into_number(unit)).transpose()
        };
        let max_document_bytes = number("max_document_bytes", "bytes")?;
        let max_keys = number("max_keys", "keys")?;
        let also_known_as = fields.take("also_known_as").map(|field| {
            field.into_texts("`also_known_as` is null or empty; list the other values of `iss`, or leave the field out")
        });
        let mut flag = |name| -> Result<bool, ContentError> {
            let flag = fields.take(name).map(Field::into_flag).transpose()?;
            Ok(flag.unwrap_or_default())
        };
        let insecure_loopback_http = flag("insecure_loopback_http")?;
        let dangerous_accept_api_server_audience = flag("dangerous_accept_api_server_audience")?;
        let token_review = fields.take("token_review").map(TokenReviewEntry::read);
        Ok(Positioned {
            position,
            value: Self {
                url,
                platform: platform.unwrap_or(PlatformName::Other),
                audiences,
                also_known_as: values(also_known_as.transpose()?.unwrap_or_default()),
                algorithms,
                leeway_seconds,
                max_lifetime_seconds,
                stale_after_seconds,
                unknown_key_jitter_seconds,
                fetch_timeout_seconds,
                max_document_bytes,
                max_keys,
                token_types: token_types.transpose()?.map(values),
                claims: claims(fields.take("claims"))?,
                discovery_url,
                jwks_url,
                keys_file,
                api_token_file,
                api_ca_file,
                insecure_loopback_http,
                dangerous_accept_api_server_audience,
                token_review: token_review.transpose()?,
            },
        })
    }

    /// Returns the issuer. `position` is that of its entry.
    fn issuer(&self, position: Position) -> Result<Issuer, BuildError> {
        let mut issuer = match (self.platform, &self.url) {
            (PlatformName::InCluster, None) => Issuer::in_cluster()?,
            (PlatformName::Google, None) => Issuer::google(),
            (PlatformName::Kubernetes, Some(url)) => Issuer::kubernetes(url),
            (PlatformName::GitHubActions, None) => Issuer::github_actions(),
            (PlatformName::GitHubActions, Some(url)) => Issuer::github_enterprise(url),
            (PlatformName::GitLab, Some(url)) => Issuer::gitlab(url),
            (PlatformName::Other, Some(url)) => Issuer::oidc(url),
            (PlatformName::Kubernetes | PlatformName::GitLab | PlatformName::Other, None) => {
                return Err(self.invalid(position, "the field `url` is missing"));
            }
            (PlatformName::InCluster | PlatformName::Google, Some(_)) => {
                return Err(self.invalid(
                    position,
                    "the platforms `in-cluster` and `google` determine the issuer; leave the field `url` out",
                ));
            }
        };
        for audience in &self.audiences {
            issuer = issuer.audience(&audience.value);
        }
        for other in &self.also_known_as {
            issuer = issuer.also_known_as(other);
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
        if let Some(seconds) = self.stale_after_seconds {
            issuer = issuer.stale_after(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.unknown_key_jitter_seconds {
            issuer = issuer.unknown_key_jitter(Duration::from_secs(seconds));
        }
        if let Some(seconds) = self.fetch_timeout_seconds {
            issuer = issuer.fetch_timeout(Duration::from_secs(seconds));
        }
        if let Some(bytes) = self.max_document_bytes {
            issuer = issuer.max_document_bytes(to_usize(bytes));
        }
        if let Some(keys) = self.max_keys {
            issuer = issuer.max_keys(to_usize(keys));
        }
        if let Some(path) = &self.api_token_file {
            issuer = issuer.api_token_file(path);
        }
        if let Some(path) = &self.api_ca_file {
            issuer = issuer.api_ca_file(path);
        }
        if self.insecure_loopback_http {
            issuer = issuer.insecure_loopback_http();
        }
        if let Some(types) = &self.token_types {
            issuer = issuer.token_types(types);
        }
        for claim in &self.claims {
            issuer = issuer.require_claim(claim.name(), claim.matcher.clone());
        }
        if self.dangerous_accept_api_server_audience {
            issuer = issuer.dangerous_accept_api_server_audience();
        }
        if let Some(review) = &self.token_review {
            issuer = issuer.token_review(review.settings());
        }
        match (&self.discovery_url, &self.jwks_url, &self.keys_file) {
            (Some(url), None, None) => Ok(issuer.discovery_url(url)),
            (None, Some(url), None) => Ok(issuer.jwks_url(url)),
            (None, None, Some(path)) => Ok(issuer.keys_file(path)),
            (None, None, None) => Ok(issuer),
            _ => Err(self.invalid(
                position,
                "more than one of `discovery_url`, `jwks_url` and `keys_file` is set; set one",
            )),
        }
    }

    fn invalid(&self, position: Position, reason: &str) -> BuildError {
        BuildError::Issuer {
            issuer: self
                .url
                .clone()
                .unwrap_or_else(|| "(without `url`)".to_owned()),
            reason: format!(
                "{reason} (line {}, column {} of the file)",
                position.line, position.column
            ),
        }
    }
}

/// Returns a limit. One that is larger than any number of bytes in memory is no limit.
pub(crate) fn to_usize(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn values(texts: Vec<Positioned<String>>) -> Vec<String> {
    texts.into_iter().map(|text| text.value).collect()
}

fn platform(field: Field) -> Result<PlatformName, ContentError> {
    let name = field.into_text()?;
    let mut known = PLATFORMS.iter();
    if let Some((_, platform)) = known.find(|(known, _)| *known == name.value) {
        return Ok(*platform);
    }
    let names = PLATFORMS.map(|(name, _)| name);
    Err(unknown_value("platform", &name, &names))
}

fn algorithms(field: Field) -> Result<Vec<Algorithm>, ContentError> {
    let advice = "`algorithms` is null or empty, so every algorithm that the issuer lists would be allowed; list those to allow, or leave the field out";
    let names = field.into_texts(advice)?.into_iter();
    let algorithm = |name: Positioned<String>| {
        Algorithm::from_name(&name.value)
            .ok_or_else(|| unknown_value("algorithm", &name, &Algorithm::ALL.map(Algorithm::name)))
    };
    names.map(algorithm).collect()
}

/// Returns the error for a value that is none of those that are known. `what` is what the value stands for.
fn unknown_value(what: &str, value: &Positioned<String>, known: &[&'static str]) -> ContentError {
    let mut similar = known.iter().filter(|name| is_close(&value.value, name));
    let hint = match similar.next() {
        Some(name) => format!("did you mean `{name}`? Supported"),
        None => "supported".to_owned(),
    };
    let reason = format!(
        "unknown {what} {}; {hint} are {}",
        quoted(&value.value),
        listed(known)
    );
    ContentError::new(value.position, reason)
}

/// Parses the text of a file into the JSON data model, without checking fields and values.
#[cfg(test)]
pub(crate) fn parse_document(content: &[u8]) -> Result<serde_json::Value, ContentError> {
    Ok(Node::parse(content)?.into_json())
}

/// Returns a valid configuration with every kind of field.
#[cfg(test)]
pub(crate) fn document_example() -> serde_json::Value {
    document::fuzz::example()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyFile;

    /// Returns the example of a whole file in the README.
    fn example() -> String {
        let readme = include_str!("../README.md");
        let (_, after) = readme.split_once("# /etc/guard/guard.yaml\n").unwrap();
        let (example, _) = after.split_once("```").unwrap();
        example.to_owned()
    }

    #[test]
    fn the_example_in_the_readme_has_every_field_and_is_valid() {
        let example = example();
        // With the fields that are commented out.
        let uncommented = example.replace("# api_", "api_");
        let uncommented = uncommented.replace("# dangerous_", "dangerous_");
        let uncommented = uncommented.replace("# insecure_", "insecure_");
        let parsed = ConfigFile::parse(uncommented.as_bytes()).unwrap();
        assert_eq!(parsed.issuers.len(), 2);
        for name in POLICY_FIELDS
            .iter()
            .chain(&ISSUER_FIELDS)
            .chain(&settings::FIELDS)
        {
            assert!(example.contains(*name), "{name}");
        }
        let outside_a_cluster = example.replacen(
            "platform: in-cluster ",
            "url: https://own.example\n    platform: kubernetes ",
            1,
        );
        let checked = PolicyFile::check_content("guard.yaml", outside_a_cluster.as_bytes());
        let summary = checked.unwrap();
        assert_eq!(
            summary.issuers(),
            ["https://own.example", "https://cluster.example"]
        );
        assert_eq!(summary.warnings(), [] as [&str; 0]);
    }
}
