//! Where the keys of an issuer come from, as configured.

use std::fmt;
use std::path::PathBuf;

use super::sources::ApiServer;
use crate::jose::pem;

/// Where the keys of an issuer come from.
///
/// Its `Display` form completes a sentence such as "the keys from … cannot be read".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyLocation {
    /// The key set that a discovery document names as its `jwks_uri`: the document at this URL, or the one below the
    /// issuer's URL if it is `None`.
    Discovery { url: Option<String> },
    /// The key set at this URL.
    JwksUrl(String),
    /// A file that contains a JSON Web Key Set or PEM.
    File(PathBuf),
    /// The value of a setting.
    Inline(InlineKeys),
    /// The API server of the cluster that this process runs in.
    ApiServer(ApiServer),
}

impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovery { url: Some(url) } => write!(f, "the discovery document {url}"),
            Self::Discovery { url: None } => f.write_str("the issuer's discovery document"),
            Self::JwksUrl(url) => f.write_str(url),
            Self::File(path) => write!(f, "the file {}", path.display()),
            Self::Inline(keys) => write!(f, "`{}`", keys.setting),
            Self::ApiServer(api) => write!(f, "the API server at {}", api.address),
        }
    }
}

/// Keys that are the value of a setting, such as `keys_json`. They never change.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct InlineKeys {
    /// The setting's name.
    pub(crate) setting: &'static str,
    pub(crate) format: KeyFormat,
    pub(crate) text: Vec<u8>,
}

impl InlineKeys {
    /// Checks whether the text has the format that the setting requires. Returns what is wrong otherwise.
    pub(crate) fn check_format(&self) -> Result<(), String> {
        let setting = self.setting;
        match (self.format, KeyFormat::detect(&self.text)) {
            (KeyFormat::Json, Some(KeyFormat::Json)) | (KeyFormat::Pem, Some(KeyFormat::Pem)) => {
                Ok(())
            }
            (KeyFormat::Json, Some(KeyFormat::Pem)) => Err(format!(
                "`{setting}` expects a JSON object and contains PEM; pass that to `keys_pem`"
            )),
            (KeyFormat::Json, None) => Err(format!(
                "`{setting}` expects a JSON object and contains something else"
            )),
            (KeyFormat::Pem, Some(KeyFormat::Json)) => Err(format!(
                "`{setting}` expects PEM and contains JSON; pass that to `keys_json`"
            )),
            (KeyFormat::Pem, None) => Err(format!(
                "`{setting}` expects PEM, and its text is not PEM: no line begins with `-----BEGIN`"
            )),
        }
    }
}

impl fmt::Debug for InlineKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InlineKeys")
            .field("setting", &self.setting)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

/// The format of a text that contains keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyFormat {
    /// A JSON Web Key Set.
    Json,
    /// PEM blocks.
    Pem,
}

impl KeyFormat {
    /// Detects the format of a text. Returns `None` if it is neither.
    pub(crate) fn detect(text: &[u8]) -> Option<Self> {
        match text.trim_ascii_start().first() {
            Some(b'{') => Some(Self::Json),
            _ => pem::is_pem(text).then_some(Self::Pem),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_displayed_as_part_of_a_sentence() {
        let inline = InlineKeys {
            setting: "keys_json",
            format: KeyFormat::Json,
            text: b"{}".to_vec(),
        };
        for (location, expected) in [
            (
                KeyLocation::JwksUrl("https://id.example/jwks".to_owned()),
                "https://id.example/jwks",
            ),
            (
                KeyLocation::File("/etc/keys/jwks.json".into()),
                "the file /etc/keys/jwks.json",
            ),
            (KeyLocation::Inline(inline), "`keys_json`"),
            (
                KeyLocation::Discovery { url: None },
                "the issuer's discovery document",
            ),
        ] {
            assert_eq!(location.to_string(), expected);
        }
    }
}
