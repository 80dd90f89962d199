//! A policy in a file, which is reloaded when it changes.
//!
//! The fields of the file are defined in [`config_file`](crate::config_file).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use reqwest_wi_auth::{FileError, WatchedFile, WatchedFileBuilder};

use super::members::Members;
use super::resolved::{PolicyIssuers, Registration};
use super::rule::Rule;
use super::{Node, Policy, PolicyError};
use crate::build_error::BuildError;
use crate::config_file::{ConfigFile, MemberEntry};
use crate::issuer::Issuer;
use crate::telemetry;

/// A policy in a YAML or JSON file, which is reloaded when the file changes.
///
/// The file may be part of a mounted ConfigMap, and may be replaced by renaming another file or in place. The operating system
/// reports changes; the file is also read every 60 s, or every 5 s where changes are not reported.
///
/// ```yaml
/// allow:
///   - system:serviceaccount:id-namespace:gke-sa
///   - issuer: https://container.googleapis.com/v1/projects/p/locations/l/clusters/c
///     members: ["system:serviceaccounts:shop"]
/// deny: ["system:serviceaccount:shop:legacy"]
/// audiences: ["https://auth-server.example"]
/// # claims: { hd: example.com }   # for users of Google Workspace; Kubernetes tokens have no such claim
/// ```
///
/// | field | meaning | if absent |
/// | --- | --- | --- |
/// | `allow` | the allowed [members](Policy#members), each by itself or in the list of an `issuer`; `[]` allows no caller | error |
/// | `deny` | the denied members, in the same form; see [Deny lists](Policy#deny-lists) | no caller is denied |
/// | `audiences` | the token must be for one of these | any audience of the issuer |
/// | `claims` | claims that the token must have, with their values | no claim is required |
/// | `issuers` | used by [`OidcGuardBuilder::from_file`](crate::OidcGuardBuilder::from_file), and ignored otherwise | no issuer |
///
/// A field that is null or empty is an error, except for `allow: []`, because it would lift a restriction silently. Unknown and
/// repeated fields are errors, too.
///
/// New content takes effect only if it is valid and fits every guard that uses the file. Otherwise the previous policy stays in
/// effect, and the error, with line and column, is logged, returned by [`health`](Self::health) and, with the feature
/// `metrics`, counted.
#[derive(Clone)]
pub struct PolicyFile {
    /// Reads and parses the file. Its value is not used: the content in effect is in `state`.
    file: WatchedFile<Arc<Content>>,
    state: Arc<State>,
}

/// The valid content of a file.
#[derive(PartialEq)]
struct Content {
    rule: Rule,
    config: ConfigFile,
}

/// The content in effect, and the guards that it has been checked against.
///
/// Both change only under the lock, so the content always fits every registered guard. Decisions read it without the lock.
struct State {
    content: ArcSwap<Content>,
    /// The trusted issuers of the guards that use the file, each for as long as one of the guards exists.
    registered: Mutex<Vec<Weak<PolicyIssuers>>>,
}

/// The status of a policy file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PolicyHealth {
    /// The path of the file.
    pub path: PathBuf,
    /// When the content in effect was loaded.
    pub last_change: SystemTime,
    /// Why the current content of the file is not in effect, or `None` if it is.
    pub last_error: Option<FileError>,
}

impl PolicyFile {
    /// Reads a policy file and watches it, in a task on the current tokio runtime that ends with the last clone and the last
    /// policy of the file.
    ///
    /// # Errors
    ///
    /// [`FileError`] if the file has no valid content within 5 s; [`FileError::NoRuntime`] outside a tokio runtime.
    ///
    /// # Panics
    ///
    /// Panics in a tokio runtime without timers (`enable_time`).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{Issuer, OidcGuard, PolicyFile};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("policy.yaml");
    /// std::fs::write(&path, "allow: [\"system:serviceaccounts:shop\"]")?;
    /// let file = PolicyFile::open(&path).await?;
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
    ///     .policy(file.policy())
    ///     .build()?;
    /// assert!(guard.policy_health()[0].last_error.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, FileError> {
        Self::open_with(path.into(), |builder| builder).await
    }

    async fn open_with(
        path: PathBuf,
        settings: impl FnOnce(WatchedFileBuilder<Arc<Content>>) -> WatchedFileBuilder<Arc<Content>>,
    ) -> Result<Self, FileError> {
        let state = Arc::new(State::default());
        let checking = state.clone();
        let read = move |bytes: &[u8]| {
            let read = Content::parse(bytes).and_then(|content| Ok(checking.accept(content)?));
            telemetry::record_policy_read(&read);
            read
        };
        let file = settings(WatchedFile::builder(path, read)).open().await?;
        Ok(Self { file, state })
    }

    /// Returns the policy of the file. It changes with the file.
    pub fn policy(&self) -> Policy {
        Policy(Arc::new(Node::File(self.clone())))
    }

    /// Returns the status of the file.
    pub fn health(&self) -> PolicyHealth {
        let health = self.file.health();
        PolicyHealth {
            path: self.file.path().to_owned(),
            last_change: health.last_change,
            last_error: health.last_error,
        }
    }

    /// Returns the file's path, made absolute.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Waits until another policy is in effect than at the call. Returns false if the file is no longer watched.
    pub fn changed(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut changes = self.file.subscribe();
        async move { changes.next().await.is_some() }
    }

    /// Returns the issuers in the file.
    pub(crate) fn issuers(&self) -> Result<Vec<Issuer>, BuildError> {
        self.state.content.load().config.issuers()
    }

    /// Calls a function with the rule in effect.
    pub(super) fn with<R>(&self, look: impl FnOnce(&Rule) -> R) -> R {
        look(&self.state.content.load().rule)
    }

    /// Checks the content against the issuers that a guard trusts, now and at each change until the registration is dropped.
    pub(super) fn register(&self, trusted: &PolicyIssuers) -> Result<Registration, PolicyError> {
        self.state.register(trusted)
    }
}

impl State {
    /// Puts content into effect if it fits all registered guards.
    fn accept(&self, content: Content) -> Result<Arc<Content>, PolicyError> {
        let mut registered = self
            .registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for trusted in live(&mut registered) {
            content.rule.check_issuers(&trusted)?;
        }
        let current = self.content.load_full();
        if *current == content {
            return Ok(current);
        }
        let content = Arc::new(content);
        self.content.store(content.clone());
        Ok(content)
    }

    /// Registers a guard if the content in effect fits it. Guards that trust the same issuers share a registration.
    fn register(&self, trusted: &PolicyIssuers) -> Result<Registration, PolicyError> {
        let mut registered = self
            .registered
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut live = live(&mut registered).into_iter();
        if let Some(same) = live.find(|own| **own == *trusted) {
            return Ok(same);
        }
        self.content.load().rule.check_issuers(trusted)?;
        let registration = Arc::new(trusted.clone());
        registered.push(Arc::downgrade(&registration));
        Ok(registration)
    }
}

/// Removes the registrations that were dropped, and returns the others.
fn live(registered: &mut Vec<Weak<PolicyIssuers>>) -> Vec<Registration> {
    registered.retain(|trusted| trusted.strong_count() > 0);
    registered.iter().filter_map(Weak::upgrade).collect()
}

impl Default for State {
    /// Allows no caller until content is accepted.
    fn default() -> Self {
        Self {
            content: ArcSwap::from_pointee(Content {
                rule: Rule::allowing(Members::default()),
                config: ConfigFile::default(),
            }),
            registered: Mutex::default(),
        }
    }
}

impl Content {
    fn parse(bytes: &[u8]) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let config = ConfigFile::parse(bytes)?;
        let mut rule = Rule::allowing(members(&config.allow)?);
        rule.denied = members(&config.deny)?;
        rule.audiences = config.audiences.clone();
        rule.claims = config.claims.clone().into_iter().collect();
        rule.check_syntax()?;
        Ok(Self { rule, config })
    }
}

fn members(entries: &[MemberEntry]) -> Result<Members, PolicyError> {
    let mut all = Members::default();
    for entry in entries {
        all.add(match entry {
            MemberEntry::Member(member) => Members::parse(None, [member])?,
            MemberEntry::OfIssuer(of) => Members::parse(Some(of.issuer.clone()), &of.members)?,
        });
    }
    Ok(all)
}

impl fmt::Debug for PolicyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyFile")
            .field("path", &self.file.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::PolicyIssuer;
    use super::*;
    use crate::identity::Platform;

    const OF_KUBERNETES: &str = "allow: [\"system:serviceaccounts\"]\n";
    const OF_GOOGLE: &str = "allow: [\"user:jane@example.com\"]\n";

    fn trusted(platform: Platform) -> PolicyIssuers {
        PolicyIssuers {
            issuers: vec![PolicyIssuer {
                iss: vec!["https://id.example".to_owned()],
                platform,
                audiences: vec!["me".to_owned()],
            }],
        }
    }

    fn content(text: &str) -> Content {
        Content::parse(text.as_bytes()).unwrap()
    }

    /// Returns a state that has accepted this content.
    fn state(text: &str) -> State {
        let state = State::default();
        state.accept(content(text)).unwrap();
        state
    }

    #[tokio::test]
    async fn content_that_changes_while_a_guard_is_built_is_checked_against_it() {
        let folder = tempfile::tempdir().unwrap();
        let text = Arc::new(Mutex::new(OF_KUBERNETES));
        let is_read = Arc::new(AtomicBool::new(false));
        type Race = Box<dyn FnOnce() + Send>;
        let race: Arc<Mutex<Option<Race>>> = Arc::default();
        let (served, was_read) = (text.clone(), is_read.clone());
        let reader = move |_: &Path| {
            let text = *served.lock().unwrap();
            was_read.store(text == OF_GOOGLE, Ordering::SeqCst);
            Ok(text.as_bytes().to_vec())
        };
        // The clock is asked after a new content has been parsed, and before it becomes the value of the watched file.
        let runs = race.clone();
        let clock = move || {
            if is_read.swap(false, Ordering::SeqCst)
                && let Some(race) = runs.lock().unwrap().take()
            {
                race();
            }
            SystemTime::now()
        };
        let file = PolicyFile::open_with(folder.path().join("policy.yaml"), |builder| {
            builder.reader(reader).clock(clock)
        });
        let file = file.await.unwrap();
        let bound = Arc::new(Mutex::new(None));
        let (result, racing) = (bound.clone(), file.clone());
        *race.lock().unwrap() = Some(Box::new(move || {
            *result.lock().unwrap() = Some(racing.register(&trusted(Platform::Kubernetes)));
        }));
        *text.lock().unwrap() = OF_GOOGLE;
        file.file.reread().await.unwrap();
        let bound = bound
            .lock()
            .unwrap()
            .take()
            .expect("the race has taken place");
        let fits = file.with(|rule| rule.check_issuers(&trusted(Platform::Kubernetes)).is_ok());
        assert!(
            bound.is_err() || fits,
            "a guard runs with a policy that was not checked"
        );
    }

    #[test]
    fn content_that_does_not_fit_a_registered_guard_is_rejected() {
        let state = state(OF_KUBERNETES);
        let registration = state.register(&trusted(Platform::Kubernetes)).unwrap();
        assert!(state.accept(content(OF_GOOGLE)).is_err());
        assert!(*state.content.load_full() == content(OF_KUBERNETES));
        drop(registration);
        assert!(
            state.accept(content(OF_GOOGLE)).is_ok(),
            "the guard is gone"
        );
        assert!(*state.content.load_full() == content(OF_GOOGLE));
    }

    #[test]
    fn a_guard_that_does_not_build_leaves_no_registration() {
        let state = state(OF_KUBERNETES);
        assert!(state.register(&trusted(Platform::Google)).is_err());
        let more = "allow: [\"system:serviceaccounts\"]\ndeny: [\"system:authenticated\"]\n";
        assert!(state.accept(content(more)).is_ok());
    }

    #[test]
    fn registrations_are_shared_and_end_with_their_guards() {
        let state = state(OF_KUBERNETES);
        let count = || state.registered.lock().unwrap().len();
        let one: Vec<_> = (0..1000)
            .map(|_| state.register(&trusted(Platform::Kubernetes)).unwrap())
            .collect();
        assert_eq!(count(), 1);
        drop(one);
        for _ in 0..1000 {
            drop(state.register(&trusted(Platform::Kubernetes)).unwrap());
        }
        assert_eq!(count(), 1);
        state.accept(content(OF_GOOGLE)).unwrap();
        assert_eq!(count(), 0);
    }
}
