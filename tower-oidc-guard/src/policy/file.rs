//! A policy in a file, which is reloaded when it changes.

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
use crate::config_file::{ConfigFile, MemberEntry};
use crate::error::BuildError;
use crate::issuer::Issuer;
use crate::telemetry;

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
/// | field | meaning | if left out |
/// | --- | --- | --- |
/// | `allow` | the allowed [members](Policy#members), by themselves or below their `issuer`; `[]` allows nobody | error |
/// | `deny` | the denied members, in the same form; see [Deny lists](Policy#deny-lists) | nobody is denied |
/// | `audiences` | one of these has to be among the token's | any that the issuer's tokens are accepted for |
/// | `claims` | claims that the token must have, with their values | none |
/// | `issuers` | see [`OidcGuardBuilder::from_file`](crate::OidcGuardBuilder::from_file) | the guard's own settings |
///
/// A field that is null or empty is an error (`allow: []` excepted), since it would lift a restriction without a word; a
/// field without a value is left out instead. Unknown and repeated fields are errors, too.
///
/// A new content is put in force only if it fits every guard that uses the file. If it does not, the old policy stays in
/// force, and the error is logged, reported by [`health`](Self::health), and counted with the feature `metrics`, with line
/// and column.
#[derive(Clone)]
pub struct PolicyFile {
    /// Reads and parses the file. Its value is not used: what is in force is in `state`.
    file: WatchedFile<Arc<Content>>,
    state: Arc<State>,
}

/// The valid content of a file.
#[derive(PartialEq)]
struct Content {
    rule: Rule,
    config: ConfigFile,
}

/// The content that is in force, and the guards that it has been checked against.
///
/// Both change under the lock only, so the content always fits every registered guard. Decisions read it without the lock.
struct State {
    content: ArcSwap<Content>,
    /// What the guards trust that use the file, each for as long as one of them lives.
    registered: Mutex<Vec<Weak<PolicyIssuers>>>,
}

/// The status of a policy file.
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
    /// If there is no sound content within 5 s, and [`FileError::NoRuntime`] outside a tokio runtime.
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

    /// Returns the policy that the file holds, whatever that is at the moment.
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

    /// Waits for a policy other than the one that was in force at the call. Returns false if the file is not followed
    /// any more.
    pub fn changed(&self) -> impl Future<Output = bool> + Send + use<> {
        let mut changes = self.file.subscribe();
        async move { changes.next().await.is_some() }
    }

    /// The issuers that it says are to be trusted.
    pub(crate) fn issuers(&self) -> Result<Vec<Issuer>, BuildError> {
        self.state.content.load().config.issuers()
    }

    pub(super) fn with<R>(&self, look: impl FnOnce(&Rule) -> R) -> R {
        look(&self.state.content.load().rule)
    }

    /// Checks the content against the issuers that a guard trusts, now and at each change while the registration is kept.
    pub(super) fn register(&self, trusted: &PolicyIssuers) -> Result<Registration, PolicyError> {
        self.state.register(trusted)
    }
}

impl State {
    /// Puts a content in force if it fits all registered guards.
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

    /// Registers a guard if the content that is in force fits it. Guards that trust the same issuers share a registration.
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

/// Removes the registrations that have ended, and returns the others.
fn live(registered: &mut Vec<Weak<PolicyIssuers>>) -> Vec<Registration> {
    registered.retain(|trusted| trusted.strong_count() > 0);
    registered.iter().filter_map(Weak::upgrade).collect()
}

impl Default for State {
    /// Nobody is allowed until a content is accepted.
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

    /// A state that has accepted this content.
    fn state(text: &str) -> State {
        let state = State::default();
        state.accept(content(text)).unwrap();
        state
    }

    #[tokio::test]
    async fn a_content_that_changes_while_a_guard_is_built_never_escapes_the_check_against_it() {
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
    fn a_content_is_refused_if_it_does_not_fit_a_registered_guard() {
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
    fn a_guard_that_does_not_build_leaves_nothing_behind() {
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
