//! A policy in a file that is followed.

pub(crate) mod document;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use reqwest_wi_auth::{FileError, WatchedFile};

use self::document::GuardDocument;
use super::bound::TrustedNames;
use super::rule::Rule;
use super::{Node, Policy, PolicyError};
use crate::error::BuildError;
use crate::issuer::Issuer;

/// A policy in a YAML or JSON file, followed while it is replaced: by the kubelet's swap of a mounted ConfigMap, by
/// a rename, or in place.
///
/// ```yaml
/// allow:
///   - system:serviceaccount:id-namespace:gke-sa
///   - issuer: https://container.googleapis.com/v1/projects/p/locations/l/clusters/c
///     members: ["system:serviceaccounts:shop"]
/// deny: ["system:serviceaccount:shop:legacy"]
/// audiences: ["https://auth-server.example"]
/// claims: { hd: example.com }
/// ```
///
/// All but `allow` may be left out. The file can hold the issuers' settings, too: see
/// [`OidcGuardBuilder::from_file`](crate::OidcGuardBuilder::from_file). A new content that is not sound is told (in the log, in
/// [`health`](Self::health), and with the feature `metrics` by a counter), and the old policy stays. A first content
/// that is not sound does not open. Unknown fields are errors, told with line and column.
#[derive(Clone)]
pub struct PolicyFile {
    file: WatchedFile<Arc<Content>>,
    /// Whom the guards trust that use it.
    trusted: Arc<Mutex<Vec<TrustedNames>>>,
}

/// What a sound file says.
#[derive(PartialEq)]
pub(crate) struct Content {
    rule: Rule,
    document: GuardDocument,
}

/// How a policy file fares.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PolicyHealth {
    /// The file.
    pub path: PathBuf,
    /// Since when the policy is as it is.
    pub last_change: SystemTime,
    /// What is wrong with the file as it is now, if anything: an older policy is in force then.
    pub last_error: Option<FileError>,
}

impl PolicyFile {
    /// Reads a file and starts to follow it: spawns one task on the current tokio runtime, which ends with the last
    /// clone.
    ///
    /// # Errors
    ///
    /// If there is no sound content within 5 s.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        let trusted: Arc<Mutex<Vec<TrustedNames>>> = Arc::default();
        let known = trusted.clone();
        let read = move |content: &[u8]| {
            let read = Content::read(content, &known);
            count(read.is_ok());
            read.map(Arc::new)
        };
        let file = WatchedFile::open(path, read).await?;
        Ok(Self { file, trusted })
    }

    /// The policy that the file holds, whatever that is at the moment.
    pub fn policy(&self) -> Policy {
        Policy(Arc::new(Node::File(self.clone())))
    }

    /// How the file fares.
    pub fn health(&self) -> PolicyHealth {
        let health = self.file.health();
        PolicyHealth {
            path: self.file.path().to_owned(),
            last_change: health.last_change,
            last_error: health.last_error,
        }
    }

    /// The file's path, made absolute.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Waits for another policy than the one that was in force at the call; false where the file is followed no
    /// more.
    pub fn changed(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut changes = self.file.subscribe();
        async move { changes.next().await.is_some() }
    }

    /// The issuers that it says are to be trusted.
    pub(crate) fn issuers(&self) -> Result<Vec<Issuer>, BuildError> {
        self.file.current().document.issuers()
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&Rule) -> R) -> R {
        self.file.with(|content| look(&content.rule))
    }

    /// Holds what is in the file, now and later, against a guard's issuers.
    pub(super) fn bind(&self, trusted: &TrustedNames) -> Result<(), PolicyError> {
        let mut known = self.trusted.lock().unwrap_or_else(PoisonError::into_inner);
        known.push(trusted.clone());
        drop(known);
        self.with(|rule| rule.check(trusted))
    }
}

impl Content {
    fn read(
        content: &[u8],
        trusted: &Mutex<Vec<TrustedNames>>,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let document = GuardDocument::read(content)?;
        let rule = document.rule()?;
        let trusted = trusted.lock().unwrap_or_else(PoisonError::into_inner);
        trusted.iter().try_for_each(|trusted| rule.check(trusted))?;
        drop(trusted);
        Ok(Self { rule, document })
    }
}

fn count(is_sound: bool) {
    #[cfg(feature = "metrics")]
    metrics::counter!("oidc_guard_policy_reads_total", "outcome" => if is_sound { "ok" } else { "failed" })
        .increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = is_sound;
}

impl fmt::Debug for PolicyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyFile")
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}
