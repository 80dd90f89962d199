//! The settings of a guard in a configuration file.
//!
//! Each field has the name of a method of [`OidcGuardBuilder`](crate::OidcGuardBuilder).

use http::HeaderName;

use super::error::{ContentError, Position};
use super::fields::{Field, Fields, quoted};
use super::unknown_value;
use crate::guard::AuditPath;
use crate::verifier::ReadyWhen;

/// The names of the fields.
pub(super) const FIELDS: [&str; 16] = [
    "realm",
    "token_from",
    "token_from_exactly_one_of",
    "strip_token",
    "allow_missing_token",
    "allow_cors_preflight",
    "max_token_bytes",
    "without_error_description",
    "protected_resource",
    "cache",
    "without_cache",
    "ready_when",
    "refusal_summary_interval_seconds",
    "without_refusal_summary",
    "audit_events",
    "audit_path",
];

/// The settings of a guard in a file. Two are equal if their values are.
#[derive(Debug, Clone, Default)]
pub(crate) struct GuardSettings {
    pub(crate) values: SettingValues,
    /// The positions of the fields that are set.
    positions: Vec<(&'static str, Position)>,
}

/// The values of the settings; `None` for those that are not in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SettingValues {
    pub(crate) realm: Option<String>,
    pub(crate) token_from: Option<Vec<HeaderName>>,
    pub(crate) token_from_exactly_one_of: Option<Vec<HeaderName>>,
    pub(crate) strip_token: Option<bool>,
    pub(crate) allow_missing_token: Option<bool>,
    pub(crate) allow_cors_preflight: Option<bool>,
    pub(crate) max_token_bytes: Option<u64>,
    pub(crate) without_error_description: Option<bool>,
    pub(crate) protected_resource: Option<String>,
    pub(crate) cache: Option<CacheValues>,
    pub(crate) without_cache: Option<bool>,
    pub(crate) ready_when: Option<ReadyWhen>,
    pub(crate) refusal_summary_interval_seconds: Option<u64>,
    pub(crate) without_refusal_summary: Option<bool>,
    pub(crate) audit_events: Option<bool>,
    pub(crate) audit_path: Option<AuditPath>,
}

/// The limits of the cache of verified tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CacheValues {
    pub(crate) tokens: u64,
    pub(crate) bytes: u64,
}

impl PartialEq for GuardSettings {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl GuardSettings {
    /// Reads the settings among the fields of a file.
    pub(super) fn read(fields: &mut Fields) -> Result<Self, ContentError> {
        let positions = FIELDS.iter().filter_map(|name| {
            let position = fields.position_of(name)?;
            Some((*name, position))
        });
        let positions: Vec<_> = positions.collect();
        let mut text = |name| -> Result<Option<String>, ContentError> {
            let text = fields.take(name).map(Field::into_text).transpose()?;
            Ok(text.map(|text| text.value))
        };
        let (realm, protected_resource) = (text("realm")?, text("protected_resource")?);
        let mut headers = |name| fields.take(name).map(header_names).transpose();
        let token_from = headers("token_from")?;
        let token_from_exactly_one_of = headers("token_from_exactly_one_of")?;
        let mut number = |name, unit| {
            let field = fields.take(name);
            field.map(|field| field.into_number(unit)).transpose()
        };
        let max_token_bytes = number("max_token_bytes", "bytes")?;
        let interval = number("refusal_summary_interval_seconds", "seconds")?;
        let mut flag = |name| fields.take(name).map(Field::into_flag).transpose();
        let values = SettingValues {
            realm,
            token_from,
            token_from_exactly_one_of,
            strip_token: flag("strip_token")?,
            allow_missing_token: flag("allow_missing_token")?,
            allow_cors_preflight: flag("allow_cors_preflight")?,
            max_token_bytes,
            without_error_description: flag("without_error_description")?,
            protected_resource,
            without_cache: flag("without_cache")?,
            without_refusal_summary: flag("without_refusal_summary")?,
            audit_events: flag("audit_events")?,
            refusal_summary_interval_seconds: interval,
            cache: fields.take("cache").map(cache).transpose()?,
            ready_when: fields.take("ready_when").map(ready_when).transpose()?,
            audit_path: fields.take("audit_path").map(audit_path).transpose()?,
        };
        let settings = Self { values, positions };
        for (one, other) in [
            ("token_from", "token_from_exactly_one_of"),
            ("cache", "without_cache"),
            (
                "refusal_summary_interval_seconds",
                "without_refusal_summary",
            ),
        ] {
            if let (Some(_), Some(position)) = (settings.position(one), settings.position(other)) {
                let reason = format!("`{one}` and `{other}` are both set; remove one");
                return Err(ContentError::new(position, reason));
            }
        }
        Ok(settings)
    }

    /// Returns the position of the field with this name, or `None` if it is not set.
    pub(crate) fn position(&self, name: &str) -> Option<Position> {
        let mut positions = self.positions.iter();
        let (_, position) = positions.find(|(own, _)| *own == name)?;
        Some(*position)
    }
}

impl SettingValues {
    /// Returns the names and values of the settings, as text.
    pub(crate) fn texts(&self) -> Vec<(&'static str, String)> {
        let names = |headers: &Vec<HeaderName>| {
            let names: Vec<_> = headers.iter().map(HeaderName::as_str).collect();
            names.join(" ")
        };
        let flag = |flag: Option<bool>| flag.map(|flag| flag.to_string());
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let ready_when = self.ready_when.as_ref().map(|ready_when| match ready_when {
            ReadyWhen::AllIssuers => "all-issuers".to_owned(),
            ReadyWhen::AnyIssuer => "any-issuer".to_owned(),
            ReadyWhen::Issuers(issuers) => issuers.join(" "),
        });
        let cache = self
            .cache
            .map(|CacheValues { tokens, bytes }| format!("{tokens} tokens {bytes} bytes"));
        let audit_path = self.audit_path.map(|path| audit_path_name(path).to_owned());
        let all = [
            ("realm", self.realm.clone()),
            ("token_from", self.token_from.as_ref().map(names)),
            (
                "token_from_exactly_one_of",
                self.token_from_exactly_one_of.as_ref().map(names),
            ),
            ("strip_token", flag(self.strip_token)),
            ("allow_missing_token", flag(self.allow_missing_token)),
            ("allow_cors_preflight", flag(self.allow_cors_preflight)),
            ("max_token_bytes", number(self.max_token_bytes)),
            (
                "without_error_description",
                flag(self.without_error_description),
            ),
            ("protected_resource", self.protected_resource.clone()),
            ("cache", cache),
            ("without_cache", flag(self.without_cache)),
            ("ready_when", ready_when),
            (
                "refusal_summary_interval_seconds",
                number(self.refusal_summary_interval_seconds),
            ),
            (
                "without_refusal_summary",
                flag(self.without_refusal_summary),
            ),
            ("audit_events", flag(self.audit_events)),
            ("audit_path", audit_path),
        ];
        let set = all.into_iter();
        set.filter_map(|(name, text)| Some((name, text?))).collect()
    }
}

fn header_names(field: Field) -> Result<Vec<HeaderName>, ContentError> {
    let advice = "the list of headers is null or empty, so no request could carry a token; list those to read, or leave the field out";
    let names = field.into_texts(advice)?.into_iter();
    let name = |name: super::Positioned<String>| {
        HeaderName::try_from(&name.value).map_err(|_| {
            let reason = format!("{} is not the name of a header", quoted(&name.value));
            ContentError::new(name.position, reason)
        })
    };
    names.map(name).collect()
}

fn cache(field: Field) -> Result<CacheValues, ContentError> {
    let mut fields = Fields::read(field.into_node()?, "`cache`", &["tokens", "bytes"])?;
    let mut limit = |name, unit| {
        let advice = "set both limits, or leave `cache` out";
        fields.take_required(name, advice)?.into_number(unit)
    };
    Ok(CacheValues {
        tokens: limit("tokens", "tokens")?,
        bytes: limit("bytes", "bytes")?,
    })
}

fn ready_when(field: Field) -> Result<ReadyWhen, ContentError> {
    if field.is_list() {
        let advice = "`ready_when` lists no issuer; list those that the guard has to have keys of, or write `all-issuers` or `any-issuer`";
        let issuers = field.into_texts(advice)?.into_iter();
        return Ok(ReadyWhen::issuers(issuers.map(|issuer| issuer.value)));
    }
    let name = field.into_text()?;
    match name.value.as_str() {
        "all-issuers" => Ok(ReadyWhen::AllIssuers),
        "any-issuer" => Ok(ReadyWhen::AnyIssuer),
        _ => {
            let reason = format!(
                "`ready_when` must be `all-issuers`, `any-issuer` or a list of issuers; found {}",
                quoted(&name.value)
            );
            Err(ContentError::new(name.position, reason))
        }
    }
}

fn audit_path(field: Field) -> Result<AuditPath, ContentError> {
    let name = field.into_text()?;
    match name.value.as_str() {
        "omitted" => Ok(AuditPath::Omitted),
        #[cfg(feature = "axum")]
        "matched" => Ok(AuditPath::Matched),
        "uri" => Ok(AuditPath::Uri),
        #[cfg(not(feature = "axum"))]
        "matched" => {
            let reason = "`audit_path: matched` requires the feature `axum` of tower-oidc-guard";
            Err(ContentError::new(name.position, reason))
        }
        _ => Err(unknown_value(
            "audit path",
            &name,
            &["omitted", "matched", "uri"],
        )),
    }
}

fn audit_path_name(path: AuditPath) -> &'static str {
    match path {
        AuditPath::Omitted => "omitted",
        #[cfg(feature = "axum")]
        AuditPath::Matched => "matched",
        AuditPath::Uri => "uri",
    }
}
