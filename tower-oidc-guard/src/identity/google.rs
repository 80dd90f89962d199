//! What Google says of a caller.

use serde::Deserialize;

/// An account of Google's: a workload's service account, or a user.
///
/// What a token does not say, or says in another form than Google does, is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct GoogleIdentity {
    email: Option<String>,
    #[serde(default)]
    email_verified: bool,
    azp: Option<String>,
    hd: Option<String>,
    google: Option<Google>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Google {
    compute_engine: Option<ComputeEngine>,
}

/// The machine that a token was fetched on, told with `format=full`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ComputeEngine {
    project_id: Option<String>,
    project_number: Option<u64>,
    zone: Option<String>,
    instance_id: Option<String>,
    instance_name: Option<String>,
}

impl GoogleIdentity {
    pub(super) fn read(payload: &[u8]) -> Self {
        serde_json::from_slice(payload).unwrap_or_default()
    }

    /// The account's email. It says who calls only where it is [verified](Self::email_verified).
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    /// Whether Google has verified the email. A token that does not say so has none that is.
    pub fn email_verified(&self) -> bool {
        self.email_verified
    }

    /// The authorized party (`azp`): the client that the token was issued to.
    pub fn authorized_party(&self) -> Option<&str> {
        self.azp.as_deref()
    }

    /// The Workspace domain of a user (`hd`).
    pub fn hosted_domain(&self) -> Option<&str> {
        self.hd.as_deref()
    }

    /// The machine, where the token tells.
    pub fn compute_engine(&self) -> Option<&ComputeEngine> {
        self.google.as_ref()?.compute_engine.as_ref()
    }
}

impl ComputeEngine {
    /// The project, by its id.
    pub fn project_id(&self) -> Option<&str> {
        self.project_id.as_deref()
    }

    /// The project, by its number.
    pub fn project_number(&self) -> Option<u64> {
        self.project_number
    }

    /// The zone of the machine.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The machine, by its id.
    pub fn instance_id(&self) -> Option<&str> {
        self.instance_id.as_deref()
    }

    /// The machine, by its name.
    pub fn instance_name(&self) -> Option<&str> {
        self.instance_name.as_deref()
    }
}
