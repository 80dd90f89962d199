//! The claims of Google's identity tokens.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use reqwest_wi_auth::json_object::Object;

/// A Google account: the service account of a workload, or a user. Returned by
/// [`Identity::google`](crate::Identity::google).
///
/// A claim that is missing or has an unexpected type is absent; it does not affect the other claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GoogleIdentity {
    email: Option<String>,
    email_verified: bool,
    azp: Option<String>,
    hd: Option<String>,
    compute_engine: Option<ComputeEngine>,
}

/// The Compute Engine instance that requested a token. Tokens requested with `format=full` have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputeEngine {
    project_id: Option<String>,
    project_number: Option<u64>,
    zone: Option<String>,
    instance_id: Option<String>,
    instance_name: Option<String>,
}

/// The JSON texts of the claims.
#[derive(Default, Deserialize)]
struct Claims<'p> {
    #[serde(borrow)]
    email: Option<&'p RawValue>,
    #[serde(borrow)]
    email_verified: Option<&'p RawValue>,
    #[serde(borrow)]
    azp: Option<&'p RawValue>,
    #[serde(borrow)]
    hd: Option<&'p RawValue>,
    #[serde(borrow)]
    google: Option<&'p RawValue>,
}

#[derive(Deserialize)]
struct Google<'p> {
    #[serde(borrow)]
    compute_engine: Option<&'p RawValue>,
}

#[derive(Deserialize)]
struct Instance<'p> {
    #[serde(borrow)]
    project_id: Option<&'p RawValue>,
    #[serde(borrow)]
    project_number: Option<&'p RawValue>,
    #[serde(borrow)]
    zone: Option<&'p RawValue>,
    #[serde(borrow)]
    instance_id: Option<&'p RawValue>,
    #[serde(borrow)]
    instance_name: Option<&'p RawValue>,
}

/// Parses a claim. Returns `None` if it is missing or has another type.
fn parse<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

impl GoogleIdentity {
    /// Reads the claims of a verified payload.
    pub(super) fn from_payload(payload: &[u8]) -> Self {
        // Verification has parsed the payload as an object, so this does not fail.
        let claims: Claims<'_> = serde_json::from_slice(payload).unwrap_or_default();
        let compute_engine = || {
            let Object(google): Object<Google<'_>> =
                serde_json::from_str(claims.google?.get()).ok()?;
            ComputeEngine::from_json(google.compute_engine?)
        };
        Self {
            email: parse(claims.email),
            email_verified: parse(claims.email_verified).unwrap_or_default(),
            azp: parse(claims.azp),
            hd: parse(claims.hd),
            compute_engine: compute_engine(),
        }
    }

    /// Returns the email of the account. It identifies the caller only if it is [verified](Self::email_verified).
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    /// Returns whether Google has verified the email. Returns `false` if the token has no such claim.
    pub fn email_verified(&self) -> bool {
        self.email_verified
    }

    /// Returns the authorized party (`azp`), which is the client that the token was issued to.
    pub fn authorized_party(&self) -> Option<&str> {
        self.azp.as_deref()
    }

    /// Returns the Google Workspace domain of a user (`hd`).
    pub fn hosted_domain(&self) -> Option<&str> {
        self.hd.as_deref()
    }

    /// Returns the instance that requested the token, or `None` if the token does not contain it.
    pub fn compute_engine(&self) -> Option<&ComputeEngine> {
        self.compute_engine.as_ref()
    }
}

impl ComputeEngine {
    fn from_json(raw: &RawValue) -> Option<Self> {
        let Object(instance): Object<Instance<'_>> = serde_json::from_str(raw.get()).ok()?;
        Some(Self {
            project_id: parse(instance.project_id),
            project_number: parse(instance.project_number),
            zone: parse(instance.zone),
            instance_id: parse(instance.instance_id),
            instance_name: parse(instance.instance_name),
        })
    }

    /// Returns the ID of the project.
    pub fn project_id(&self) -> Option<&str> {
        self.project_id.as_deref()
    }

    /// Returns the number of the project.
    pub fn project_number(&self) -> Option<u64> {
        self.project_number
    }

    /// Returns the zone of the instance.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Returns the ID of the instance.
    pub fn instance_id(&self) -> Option<&str> {
        self.instance_id.as_deref()
    }

    /// Returns the name of the instance.
    pub fn instance_name(&self) -> Option<&str> {
        self.instance_name.as_deref()
    }
}
