//! Where the guard's layers find the settings that are in effect.
//!
//! A guard whose settings are in code has the same ones as long as it exists. One that follows a configuration file gets others when
//! the file changes: a request is decided by those that are in effect when it arrives, also if it has to wait.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

#[cfg(feature = "policy-file")]
use arc_swap::Guard;

use super::admission::AdmissionController;
#[cfg(feature = "policy-file")]
use super::followed::FollowedAdmission;
#[cfg(feature = "policy-file")]
use crate::policy::PolicyHealth;
use crate::policy::{Misfit, Policy, PolicyError};

/// The settings of a guard with the policy of one layer, which may be replaced.
#[derive(Clone)]
pub(super) enum AdmissionSlot {
    /// They never change.
    Fixed(Arc<AdmissionController>),
    /// They follow a configuration file.
    #[cfg(feature = "policy-file")]
    Followed(Arc<FollowedAdmission>),
}

/// The settings that are in effect at the moment.
pub(super) enum CurrentAdmission<'s> {
    Fixed(&'s Arc<AdmissionController>),
    #[cfg(feature = "policy-file")]
    Followed(Guard<Arc<AdmissionController>>),
}

impl AdmissionSlot {
    pub(super) fn fixed(admission: AdmissionController) -> Self {
        Self::Fixed(Arc::new(admission))
    }

    /// Returns the settings that are in effect.
    #[inline]
    pub(super) fn load(&self) -> CurrentAdmission<'_> {
        match self {
            Self::Fixed(admission) => CurrentAdmission::Fixed(admission),
            #[cfg(feature = "policy-file")]
            Self::Followed(followed) => CurrentAdmission::Followed(followed.load()),
        }
    }

    /// Returns the settings that are in effect, to be used for longer than a moment.
    pub(super) fn load_full(&self) -> Arc<AdmissionController> {
        Arc::clone(&self.load())
    }

    /// Returns the status of the configuration file, or `None` if there is none.
    #[cfg(feature = "policy-file")]
    pub(super) fn config_file_health(&self) -> Option<PolicyHealth> {
        match self {
            Self::Fixed(_) => None,
            Self::Followed(followed) => Some(followed.file_health()),
        }
    }

    /// Watches the configuration file again, if there is one and the runtime that it was watched on has ended.
    pub(super) fn ensure_watched(&self) {
        #[cfg(feature = "policy-file")]
        if let Self::Followed(followed) = self {
            followed.ensure_watched();
        }
    }

    /// Returns the slot of a further layer of the same guard, with another policy.
    pub(super) fn with_policy(&self, policy: Policy) -> Result<Self, PolicyError> {
        match self {
            Self::Fixed(admission) => admission.with_policy(policy).map(Self::fixed),
            #[cfg(feature = "policy-file")]
            Self::Followed(followed) => followed.with_policy(policy).map(Self::Followed),
        }
    }

    /// Returns the slot of a further layer of the same guard, with the same policy and this shadow policy.
    pub(super) fn with_shadow_policy(&self, policy: Policy) -> Result<Self, PolicyError> {
        match self {
            Self::Fixed(admission) => {
                let admission = admission.with_shadow_policy(policy, Misfit::Reject);
                admission.map(Self::fixed)
            }
            #[cfg(feature = "policy-file")]
            Self::Followed(followed) => followed.with_shadow_policy(policy).map(Self::Followed),
        }
    }
}

impl CurrentAdmission<'_> {
    /// Ends the use of the settings, so that a service that is called afterwards does not keep replaced ones.
    ///
    /// `drop` would have no effect without the feature `policy-file`, which Clippy reports.
    #[inline]
    pub(super) fn release(self) {}
}

impl Deref for CurrentAdmission<'_> {
    type Target = Arc<AdmissionController>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        match self {
            Self::Fixed(admission) => admission,
            #[cfg(feature = "policy-file")]
            Self::Followed(admission) => admission,
        }
    }
}

impl fmt::Debug for AdmissionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.load().fmt(f)
    }
}
