//! A guard that follows a configuration file.
//!
//! [`ConfigWatch`] watches the file. New content is put into effect in two steps, of which only the first can fail: each guard of the
//! file [prepares](FollowedGuard::prepare) new settings for itself and for all of its layers, and then all of them are put into effect.
//! Keys of issuers whose keys come from the same place as before are kept, with the task that fetches them.
//!
//! A layer with its own policy is a [`FollowedAdmission`] as well, so that its policy is checked against the new issuers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::{ArcSwap, Guard};
use reqwest_wi_auth::{FileError, WatchedFile};

use super::OidcGuard;
use super::admission::AdmissionController;
use super::admission_slot::AdmissionSlot;
use super::builder::{Assembly, FileInUse, HttpClients, OidcGuardBuilder};
use crate::build_error::BuildError;
use crate::config_file::{ContentError, Position};
use crate::policy::{Misfit, Policy, PolicyContent, PolicyError, PolicyHealth};
use crate::telemetry;

/// The settings of a followed guard with the policy of one layer, or with the policy in the file.
pub(super) struct FollowedAdmission {
    current: ArcSwap<AdmissionController>,
    policies: LayerPolicies,
    guard: Arc<FollowedGuard>,
}

/// The policies of a layer that are not those of the guard.
#[derive(Debug, Clone, Default)]
struct LayerPolicies {
    /// The policy of the layer, or `None` for that in the file.
    policy: Option<Policy>,
    /// The shadow policy of the layer, or `None` for that of the guard, if the policy is that of the guard.
    shadow: Option<Policy>,
}

impl LayerPolicies {
    /// Returns the settings of the guard with these policies.
    fn apply(
        &self,
        guard: &Arc<AdmissionController>,
        shadow_misfit: Misfit,
    ) -> Result<Arc<AdmissionController>, PolicyError> {
        let mut admission = guard.clone();
        if let Some(policy) = &self.policy {
            admission = Arc::new(admission.with_policy(policy.clone())?);
        }
        if let Some(shadow) = &self.shadow {
            admission = Arc::new(admission.with_shadow_policy(shadow.clone(), shadow_misfit)?);
        }
        Ok(admission)
    }
}

/// The state that the layers of a followed guard have in common.
struct FollowedGuard {
    /// The settings in code.
    template: OidcGuardBuilder,
    /// Ends with the last layer of the guard.
    file: ConfigWatch,
    state: Mutex<State>,
}

struct State {
    /// The settings in effect, with the policy in the file.
    newest: Arc<AdmissionController>,
    slots: Vec<Weak<FollowedAdmission>>,
    clients: HttpClients,
}

/// New settings that have been checked, and can be put into effect.
struct Prepared<'g> {
    /// Locked, so that no layer is added meanwhile.
    state: MutexGuard<'g, State>,
    newest: Arc<AdmissionController>,
    slots: Vec<(Arc<FollowedAdmission>, Arc<AdmissionController>)>,
    clients: HttpClients,
}

impl FollowedAdmission {
    /// Returns the settings that are in effect.
    #[inline]
    pub(super) fn load(&self) -> Guard<Arc<AdmissionController>> {
        self.current.load()
    }

    /// Returns the settings of a further layer of the same guard, with another policy.
    pub(super) fn with_policy(&self, policy: Policy) -> Result<Arc<Self>, PolicyError> {
        self.with_policies(LayerPolicies {
            policy: Some(policy),
            shadow: None,
        })
    }

    /// Returns the settings of a further layer of the same guard, with the same policy and this shadow policy.
    pub(super) fn with_shadow_policy(&self, policy: Policy) -> Result<Arc<Self>, PolicyError> {
        self.with_policies(LayerPolicies {
            policy: self.policies.policy.clone(),
            shadow: Some(policy),
        })
    }

    fn with_policies(&self, policies: LayerPolicies) -> Result<Arc<Self>, PolicyError> {
        let mut state = lock(&self.guard.state);
        let admission = policies.apply(&state.newest, Misfit::Reject)?;
        let layer = Arc::new(Self {
            current: ArcSwap::new(admission),
            policies,
            guard: self.guard.clone(),
        });
        state.slots.retain(|slot| slot.strong_count() > 0);
        state.slots.push(Arc::downgrade(&layer));
        Ok(layer)
    }

    /// Returns the status of the file.
    pub(super) fn file_health(&self) -> PolicyHealth {
        self.guard.file.health()
    }

    /// Watches the file again if the runtime that did has ended.
    pub(super) fn ensure_watched(&self) {
        self.guard.file.file.with(|_| ());
    }
}

impl FollowedGuard {
    /// Resolves new content of the file for the guard and its layers.
    fn prepare(&self, content: &PolicyContent) -> Result<Prepared<'_>, BuildError> {
        let state = lock(&self.state);
        let builder = self.template.clone().with_file(content)?;
        let mut assembly = Assembly {
            file: Some(FileInUse {
                path: self.file.path(),
                content,
            }),
            previous: Some(&state.newest),
            clients: state.clients.clone(),
        };
        let newest = Arc::new(builder.assemble(&mut assembly)?);
        let clients = assembly.clients;
        let metadata_path = |admission: &AdmissionController| {
            let resource = admission.protected_resource();
            resource.map(|resource| resource.metadata_path.clone())
        };
        if metadata_path(&newest) != metadata_path(&state.newest) {
            return Err(BuildError::ResourceMetadataPath);
        }
        let live = state.slots.iter().filter_map(Weak::upgrade);
        let slots = live.map(|slot| {
            // Only a policy that is enforced keeps the file from being put into effect.
            let admission = slot.policies.apply(&newest, Misfit::Suspend);
            Ok((slot, admission.map_err(BuildError::LayerPolicy)?))
        });
        let slots = slots.collect::<Result<_, BuildError>>()?;
        Ok(Prepared {
            state,
            newest,
            slots,
            clients,
        })
    }
}

impl Prepared<'_> {
    /// Puts the settings into effect.
    fn commit(mut self) {
        let previous = &self.state.newest;
        self.newest.verifier.succeed(&previous.verifier);
        if let (Some(refusals), Some(earlier)) = (&self.newest.refusals, &previous.refusals) {
            refusals.succeed(earlier);
        }
        for (slot, admission) in self.slots {
            if let (Some(shadow), Some(earlier)) = (&admission.shadow, &slot.load().shadow) {
                shadow.succeed(earlier);
            }
            slot.current.store(admission);
        }
        self.state.newest = self.newest;
        self.state.clients = self.clients;
        self.state.slots.retain(|slot| slot.strong_count() > 0);
    }
}

/// A watched configuration file, and the guards that follow it.
#[derive(Clone)]
pub(super) struct ConfigWatch {
    /// Reads and parses the file. Its value is not used: the content in effect is in `shared`.
    file: WatchedFile<Arc<PolicyContent>>,
    shared: Arc<Shared>,
}

/// The content in effect, and the guards that follow it. Both change only under the lock.
#[derive(Default)]
struct Shared {
    in_use: Mutex<InUse>,
}

#[derive(Default)]
struct InUse {
    /// `None` before the first valid content.
    content: Option<Arc<PolicyContent>>,
    guards: Vec<Weak<FollowedGuard>>,
}

impl ConfigWatch {
    /// Reads a file and watches it.
    pub(super) async fn open(path: PathBuf) -> Result<Self, BuildError> {
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        let read = move |bytes: &[u8]| {
            let read = PolicyContent::parse(bytes).and_then(|content| accepting.accept(content));
            telemetry::record_config_read(&read);
            Ok(read?)
        };
        let changed = shared.clone();
        let changed_path = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let on_change = move |old: &Arc<PolicyContent>, new: &Arc<PolicyContent>| {
            changed.record_change(&changed_path, old, new);
        };
        let file = WatchedFile::builder(path, read)
            .on_change(on_change)
            .open()
            .await?;
        let opened = Self { file, shared };
        opened.content()?.config().issuers()?;
        Ok(opened)
    }

    /// Builds a guard that follows the file. `template` has the settings in code.
    pub(super) fn follow(self, template: OidcGuardBuilder) -> Result<OidcGuard, BuildError> {
        let shared = self.shared.clone();
        let mut in_use = lock(&shared.in_use);
        let content = in_use.content.clone().ok_or_else(|| self.no_content())?;
        let builder = template.clone().with_file(&content)?;
        let mut assembly = Assembly {
            file: Some(FileInUse {
                path: self.path(),
                content: &content,
            }),
            ..Assembly::default()
        };
        let newest = Arc::new(builder.assemble(&mut assembly)?);
        let clients = assembly.clients;
        let guard = Arc::new(FollowedGuard {
            template,
            state: Mutex::new(State {
                newest: newest.clone(),
                slots: Vec::new(),
                clients,
            }),
            file: self,
        });
        let own = Arc::new(FollowedAdmission {
            current: ArcSwap::new(newest),
            policies: LayerPolicies::default(),
            guard: guard.clone(),
        });
        lock(&guard.state).slots.push(Arc::downgrade(&own));
        in_use.guards.push(Arc::downgrade(&guard));
        Ok(OidcGuard::new(AdmissionSlot::Followed(own)))
    }

    fn content(&self) -> Result<Arc<PolicyContent>, BuildError> {
        let content = lock(&self.shared.in_use).content.clone();
        content.ok_or_else(|| self.no_content())
    }

    /// Returns the error for a file without valid content, which `open` does not return.
    fn no_content(&self) -> BuildError {
        BuildError::PolicyFile(FileError::Closed {
            path: self.path().to_owned(),
        })
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn health(&self) -> PolicyHealth {
        let health = self.file.health();
        PolicyHealth {
            path: self.path().to_owned(),
            last_change: health.last_change,
            last_error: health.last_error,
            is_shadow: false,
        }
    }
}

impl Shared {
    /// Puts content into effect for all guards that follow the file, or for none.
    fn accept(&self, content: PolicyContent) -> Result<Arc<PolicyContent>, ContentError> {
        let mut in_use = lock(&self.in_use);
        let content = Arc::new(content);
        let guards = in_use.live();
        let is_same = in_use.content.as_ref().is_some_and(|own| *own == content);
        if !is_same {
            let prepared = guards.iter().map(|guard| guard.prepare(&content));
            let prepared = prepared
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| content_error(&content, error))?;
            prepared.into_iter().for_each(Prepared::commit);
        }
        // A content that means the same replaces the current one, too, since its positions are those of the file.
        in_use.content = Some(content.clone());
        Ok(content)
    }

    /// Logs how the file has changed, and starts to fetch the keys of new issuers.
    fn record_change(&self, path: &Path, old: &PolicyContent, new: &PolicyContent) {
        let changes = new.changes_since(old);
        telemetry::record_config_change(path, &changes.summary(), changes.widening().as_deref());
        let guards = lock(&self.in_use).live();
        for guard in guards {
            let newest = lock(&guard.state).newest.clone();
            newest.verifier.prefetch();
        }
    }
}

impl InUse {
    /// Removes the guards that were dropped, and returns the others.
    fn live(&mut self) -> Vec<Arc<FollowedGuard>> {
        self.guards.retain(|guard| guard.strong_count() > 0);
        self.guards.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Returns the error for content that cannot be put into effect, with its position in the file.
fn content_error(content: &PolicyContent, error: BuildError) -> ContentError {
    match error {
        BuildError::Policy(PolicyError::InFile {
            line,
            column,
            error,
            ..
        }) => ContentError::from_policy(Position { line, column }, *error),
        error => ContentError::new(content.config().position_of(&error), error.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for ConfigWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigWatch")
            .field("path", &self.path())
            .finish_non_exhaustive()
    }
}
