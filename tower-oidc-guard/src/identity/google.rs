//! The claims of Google's identity tokens.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// An account of Google's: a workload's service account, or a user.
///
/// Each claim is read by itself: one that is missing, or of another type than Google's, is absent, and the others are there all
/// the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GoogleIdentity {
    email: Option<String>,
    email_verified: bool,
    azp: Option<String>,
    hd: Option<String>,
    compute_engine: Option<ComputeEngine>,
}

/// The machine that a token was fetched on; in tokens that were requested with `format=full`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputeEngine {
    project_id: Option<String>,
    project_number: Option<u64>,
    zone: Option<String>,
    instance_id: Option<String>,
    instance_name: Option<String>,
}

/// The claims as they stand in the token.
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
struct Machine<'p> {
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

/// Reads one claim; one of another type is absent.
fn value<T: DeserializeOwned>(raw: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

impl GoogleIdentity {
    pub(super) fn read(payload: &[u8]) -> Self {
        // Verification has read the payload as an object, so this does not fail.
        let claims: Claims<'_> = serde_json::from_slice(payload).unwrap_or_default();
        let machine = || {
            let google: Google<'_> = serde_json::from_str(claims.google?.get()).ok()?;
            ComputeEngine::read(google.compute_engine?)
        };
        Self {
            email: value(claims.email),
            email_verified: value(claims.email_verified).unwrap_or_default(),
            azp: value(claims.azp),
            hd: value(claims.hd),
            compute_engine: machine(),
        }
    }

    /// Returns the account's email. It says who calls only if it is [verified](Self::email_verified).
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    /// Returns whether Google has verified the email. A token that does not say so has none that is.
    pub fn email_verified(&self) -> bool {
        self.email_verified
    }

    /// Returns the authorized party (`azp`): the client that the token was issued to.
    pub fn authorized_party(&self) -> Option<&str> {
        self.azp.as_deref()
    }

    /// Returns the Workspace domain of a user (`hd`).
    pub fn hosted_domain(&self) -> Option<&str> {
        self.hd.as_deref()
    }

    /// Returns the machine, if the token names it.
    pub fn compute_engine(&self) -> Option<&ComputeEngine> {
        self.compute_engine.as_ref()
    }
}

impl ComputeEngine {
    fn read(raw: &RawValue) -> Option<Self> {
        let machine: Machine<'_> = serde_json::from_str(raw.get()).ok()?;
        Some(Self {
            project_id: value(machine.project_id),
            project_number: value(machine.project_number),
            zone: value(machine.zone),
            instance_id: value(machine.instance_id),
            instance_name: value(machine.instance_name),
        })
    }

    /// Returns the project's id.
    pub fn project_id(&self) -> Option<&str> {
        self.project_id.as_deref()
    }

    /// Returns the project's number.
    pub fn project_number(&self) -> Option<u64> {
        self.project_number
    }

    /// Returns the zone of the machine.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Returns the machine's id.
    pub fn instance_id(&self) -> Option<&str> {
        self.instance_id.as_deref()
    }

    /// Returns the machine's name.
    pub fn instance_name(&self) -> Option<&str> {
        self.instance_name.as_deref()
    }
}
