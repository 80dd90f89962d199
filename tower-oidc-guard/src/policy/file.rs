//! A policy in a file, which is reloaded when it changes.
//!
//! The fields of the file are defined in [`config_file`](crate::config_file).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use reqwest_wi_auth::{FileError, WatchedFile, WatchedFileBuilder};

use super::changes::{self, PolicyChanges};
use super::members::Members;
use super::resolved::{
    Installed, Misfit, PolicyIssuers, PolicyRole, Registered, Registration, too_wide,
};
use super::rule::{Rule, check_audience, check_scope};
use super::{Node, Policy, PolicyError, PolicyId};
use crate::config_file::{
    ConfigFile, ContentError, MemberEntry, Position, Positioned, config_changes,
};
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
/// | `scopes` | the token must have all of these [scopes](Policy::require_scope) | no scope is required |
/// | `claims` | claims that the token must have, each with its value or a [matcher](crate::ClaimMatcher), such as `{ prefix: refs/tags/ }` | no claim is required |
/// | `issuers`, and the settings of a guard | used by [`OidcGuardBuilder::from_file`](crate::OidcGuardBuilder::from_file), and ignored otherwise | none |
///
/// A field that is null or empty is an error, except for `allow: []`, because it would lift a restriction silently. Unknown and
/// repeated fields are errors, too.
///
/// # Reloads
///
/// New content takes effect only if it is valid and fits every guard that uses the file. Otherwise the previous policy stays in
/// effect, and the error, with line and column, is logged (WARN), returned by [`health`](Self::health) and, with the feature
/// `metrics`, counted. Each different error is logged once.
///
/// A change of the policy is logged as one event. Its field `changes` lists the differences, the first 20 if there are more:
///
/// ```text
/// + allUsers, - system:serviceaccount:shop:web, + deny system:serviceaccount:shop:legacy, audiences: + https://b, claims: hd example.com -> example.org
/// ```
///
/// Order, duplicates and formatting make no difference. The level of the event is INFO or, if the policy may allow callers that
/// it did not allow before, WARN: a member was added to `allow` that the other members did not cover, a member was removed from
/// `deny` whose callers the members of `allow` may match, an audience was added to `audiences` or the field removed, a scope was removed, or a claim
/// was removed or may have a value that did not match before. The field `widened_by` then lists these differences.
///
/// For a file that only [shadow policies](crate::OidcGuardBuilder::shadow_policy) use, the events say so, and a change is logged at
/// INFO whatever it is, because it affects no request.
///
/// Before a file is deployed, [`check`](Self::check) validates it.
#[derive(Clone)]
pub struct PolicyFile {
    /// Reads and parses the file. Its value is not used: the content in effect is in `state`.
    file: WatchedFile<Arc<PolicyContent>>,
    state: Arc<State>,
}

/// The valid content of a file. Two contents are equal if they have the same meaning.
pub(crate) struct PolicyContent {
    rule: Rule,
    config: ConfigFile,
    id: PolicyId,
}

/// The content in effect, and the guards that it has been checked against.
///
/// Both change only under the lock, so the content always fits every registered guard. Decisions read it without the lock.
struct State {
    content: ArcSwap<PolicyContent>,
    /// The trusted issuers of the guards that use the file, each for as long as one of the guards exists.
    registered: Mutex<Vec<Weak<Registered>>>,
    /// The policies that the file is part of.
    installed: Mutex<Vec<Weak<Installed>>>,
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
    /// Whether the file is used by [shadow policies](crate::OidcGuardBuilder::shadow_policy) only, so that its content affects
    /// no request.
    pub is_shadow: bool,
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
        settings: impl FnOnce(
            WatchedFileBuilder<Arc<PolicyContent>>,
        ) -> WatchedFileBuilder<Arc<PolicyContent>>,
    ) -> Result<Self, FileError> {
        let state = Arc::new(State::default());
        let checking = state.clone();
        let read = move |bytes: &[u8]| {
            let read = PolicyContent::parse(bytes).and_then(|content| checking.accept(content));
            telemetry::record_policy_read(&read);
            match read {
                Err(error) if checking.role() == Some(PolicyRole::Shadow) => {
                    Err(ShadowContentError(error).into())
                }
                read => Ok(read?),
            }
        };
        let changed = state.clone();
        let changed_path = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let builder = WatchedFile::builder(path, read).on_change(
            move |old: &Arc<PolicyContent>, new: &Arc<PolicyContent>| {
                changed.record_change(&changed_path, old, new);
            },
        );
        let file = settings(builder).open().await?;
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
            is_shadow: self.state.role() == Some(PolicyRole::Shadow),
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

    /// Calls a function with the rule in effect.
    pub(super) fn with<R>(&self, look: impl FnOnce(&Rule) -> R) -> R {
        look(&self.state.content.load().rule)
    }

    /// Calls a function with the rule in effect, and the identifier of this version of the content.
    pub(super) fn with_id<R>(&self, look: impl FnOnce(&Rule, PolicyId) -> R) -> R {
        let content = self.state.content.load();
        look(&content.rule, content.id)
    }

    /// Checks the content against the issuers that a guard trusts, now and at each change until the registration is dropped.
    pub(super) fn register(
        &self,
        trusted: &PolicyIssuers,
        role: PolicyRole,
        misfit: Misfit,
    ) -> Result<Registration, PolicyError> {
        self.state.register(self.path(), trusted, role, misfit)
    }

    /// Warns at each change as long as this policy, which the file is part of, is too wide.
    pub(super) fn install(&self, policy: &Arc<Installed>) {
        let mut installed = lock(&self.state.installed);
        installed.retain(|policy| policy.strong_count() > 0);
        installed.push(Arc::downgrade(policy));
    }
}

impl State {
    /// Puts content into effect if it fits all registered guards.
    fn accept(&self, content: PolicyContent) -> Result<Arc<PolicyContent>, ContentError> {
        let mut registered = lock(&self.registered);
        let live = live(&mut registered);
        let is_enforced = live.iter().any(|own| own.role == PolicyRole::Enforced);
        let mut checked = Vec::new();
        for registration in live {
            let result = content.check_issuers(&registration.trusted);
            // A shadow policy neither keeps content from being enforced, nor other shadow policies from changing once it is
            // suspended.
            let is_shadow = registration.role == PolicyRole::Shadow;
            let is_optional = is_shadow && (is_enforced || registration.error().is_some());
            match result {
                Err((position, error)) if !is_optional => {
                    return Err(ContentError::from_policy(position, error));
                }
                result => checked.push((registration, result.err())),
            }
        }
        for (registration, error) in checked {
            let error = error.map(|(_, error)| error);
            let text = error.as_ref().map(ToString::to_string);
            if registration.set_error(error) {
                telemetry::record_shadow_suspension(text.as_deref());
            }
        }
        let current = self.content.load_full();
        // A content that means the same replaces the current one, too, since its positions are those of the file.
        if current.config == content.config {
            return Ok(current);
        }
        let content = Arc::new(content);
        self.content.store(content.clone());
        Ok(content)
    }

    /// Registers a guard if the content in effect fits it, or if it is to be suspended otherwise. Guards that trust the same
    /// issuers share a registration. `path` is for errors.
    fn register(
        &self,
        path: &Path,
        trusted: &PolicyIssuers,
        role: PolicyRole,
        misfit: Misfit,
    ) -> Result<Registration, PolicyError> {
        let mut registered = lock(&self.registered);
        let checked = self.content.load().check_issuers(trusted);
        let error = checked.err().map(|(position, error)| PolicyError::InFile {
            path: path.to_owned(),
            line: position.line,
            column: position.column,
            error: Box::new(error),
        });
        if let (Some(error), Misfit::Reject) = (&error, misfit) {
            return Err(error.clone());
        }
        let mut live = live(&mut registered).into_iter();
        if let Some(same) = live.find(|own| own.role == role && own.trusted == *trusted) {
            return Ok(same);
        }
        let registration = Arc::new(Registered::new(trusted.clone(), role, error));
        registered.push(Arc::downgrade(&registration));
        Ok(registration)
    }

    /// Returns the role of the policies that the file is part of: enforced if one of them is, or `None` if there are none.
    fn role(&self) -> Option<PolicyRole> {
        let installed = lock(&self.installed);
        let mut roles = installed
            .iter()
            .filter_map(|policy| Some(policy.upgrade()?.role));
        let first = roles.next()?;
        Some(if roles.any(|role| role == PolicyRole::Enforced) {
            PolicyRole::Enforced
        } else {
            first
        })
    }

    /// Logs how the policy has changed, and what is wrong with the policies that the file is part of.
    fn record_change(&self, path: &Path, old: &PolicyContent, new: &PolicyContent) {
        let mut changes = PolicyChanges::between(&old.rule, &new.rule);
        if !old.config.has_same_issuers(&new.config) {
            changes.add_note("issuers changed (no effect until a restart)");
        }
        if old.config.settings != new.config.settings {
            changes.add_note("settings changed (no effect on a policy file)");
        }
        let role = self.role().unwrap_or(PolicyRole::Enforced);
        let widening = changes.widening();
        telemetry::record_policy_change(role, path, &changes.summary(), widening.as_deref());
        let installed: Vec<_> = lock(&self.installed)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut logged = Vec::new();
        for policy in installed {
            for warning in too_wide(&policy.policy, &policy.trusted) {
                let warning = (policy.role, warning);
                if !logged.contains(&warning) {
                    telemetry::record_too_wide(policy.role, Some(path), warning.1);
                    logged.push(warning);
                }
            }
        }
    }
}

/// An error in the content of a file that is used by shadow policies only.
#[derive(Debug, thiserror::Error)]
#[error("shadow policy, which affects no request: {0}")]
struct ShadowContentError(ContentError);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the registrations that were dropped, and returns the others.
fn live(registered: &mut Vec<Weak<Registered>>) -> Vec<Registration> {
    registered.retain(|trusted| trusted.strong_count() > 0);
    registered.iter().filter_map(Weak::upgrade).collect()
}

impl Default for State {
    /// Allows no caller until content is accepted.
    fn default() -> Self {
        Self {
            content: ArcSwap::from_pointee(PolicyContent {
                rule: Rule::allowing(Members::default()),
                config: ConfigFile::default(),
                id: PolicyId::new(),
            }),
            registered: Mutex::default(),
            installed: Mutex::default(),
        }
    }
}

impl PolicyContent {
    /// Parses the content of a file, and checks everything that can be checked without the trusted issuers.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ContentError> {
        let config = ConfigFile::parse(bytes)?;
        let mut rule = Rule::allowing(members(&config.allow)?);
        rule.denied = members(&config.deny)?;
        for Positioned { position, value } in &config.audiences {
            check_audience(value).map_err(|error| ContentError::from_policy(*position, error))?;
            rule.audiences.push(value.clone());
        }
        for Positioned { position, value } in &config.scopes {
            check_scope(value).map_err(|error| ContentError::from_policy(*position, error))?;
            rule.require_scope(value.clone());
        }
        rule.claims = config.claims.iter().cloned().collect();
        Ok(Self {
            rule,
            config,
            id: PolicyId::new(),
        })
    }

    #[cfg(test)]
    pub(super) fn rule(&self) -> &Rule {
        &self.rule
    }

    /// Returns the policy, which does not change with the file.
    pub(crate) fn policy(&self) -> Policy {
        Policy(Arc::new(Node::Rule(Box::new(self.rule.clone()))))
    }

    /// Returns how the whole file differs from an earlier version of it.
    pub(crate) fn changes_since(&self, earlier: &Self) -> PolicyChanges {
        let mut changes = PolicyChanges::between(&earlier.rule, &self.rule);
        config_changes(&mut changes, &earlier.config, &self.config);
        changes
    }

    /// Returns the allowed members as text.
    pub(crate) fn allowed(&self) -> Vec<String> {
        texts(&self.rule.allowed)
    }

    /// Returns the denied members as text.
    pub(crate) fn denied(&self) -> Vec<String> {
        texts(&self.rule.denied)
    }

    pub(crate) fn config(&self) -> &ConfigFile {
        &self.config
    }

    /// Checks the content against the issuers that a guard trusts. Returns the position of the first part that does not fit.
    pub(crate) fn check_issuers(
        &self,
        trusted: &PolicyIssuers,
    ) -> Result<(), (Position, PolicyError)> {
        let Err(error) = self.rule.check_issuers(trusted) else {
            return Ok(());
        };
        let audiences = self.config.audiences.iter().map(|audience| {
            let rule = Rule {
                audiences: vec![audience.value.clone()],
                ..Rule::allowing(Members::default())
            };
            rule.check_issuers(trusted)
                .map_err(|error| (audience.position, error))
        });
        let members = each_member(&self.config.allow).chain(each_member(&self.config.deny));
        let members = members.map(|member| {
            let checked = member
                .parse()
                .and_then(|parsed| parsed.check_issuers(trusted));
            checked.map_err(|error| (member.position_of(&error), error))
        });
        audiences
            .chain(members)
            .find(Result::is_err)
            .unwrap_or(Err((Position::START, error)))
    }

    /// Returns warnings about what the policy allows. If `trusted` is given, they include those about its issuers.
    pub(crate) fn too_wide(&self, trusted: &PolicyIssuers) -> Vec<&'static str> {
        too_wide(&self.policy(), trusted)
    }
}

impl PartialEq for PolicyContent {
    fn eq(&self, other: &Self) -> bool {
        changes::is_same(&self.rule, &other.rule)
            && self.config.has_same_issuers(&other.config)
            && self.config.settings == other.config.settings
    }
}

fn texts(members: &Members) -> Vec<String> {
    let names = members.names();
    names.iter().map(|name| name.to_string()).collect()
}

/// A member in a file, and the issuer in whose list it is.
struct ListedMember<'c> {
    issuer: Option<&'c Positioned<String>>,
    member: &'c Positioned<String>,
}

impl ListedMember<'_> {
    fn parse(&self) -> Result<Members, PolicyError> {
        let issuer = self.issuer.map(|issuer| issuer.value.clone());
        Members::parse(issuer, [&self.member.value])
    }

    /// Returns the position of an error: that of the issuer, if the issuer itself is wrong, or that of the member.
    fn position_of(&self, error: &PolicyError) -> Position {
        match (error, self.issuer) {
            (
                PolicyError::UntrustedIssuer { issuer, .. }
                | PolicyError::InvalidIssuer { issuer, .. },
                Some(own),
            ) if *issuer == own.value => own.position,
            _ => self.member.position,
        }
    }
}

/// Returns each member of a list, and of the lists of issuers in it.
fn each_member(entries: &[MemberEntry]) -> impl Iterator<Item = ListedMember<'_>> {
    entries.iter().flat_map(|entry| {
        let (issuer, members) = match entry {
            MemberEntry::Member(member) => (None, std::slice::from_ref(member)),
            MemberEntry::OfIssuer(of) => (Some(&of.issuer), of.members.as_slice()),
        };
        members
            .iter()
            .map(move |member| ListedMember { issuer, member })
    })
}

fn members(entries: &[MemberEntry]) -> Result<Members, ContentError> {
    let mut all = Members::default();
    for member in each_member(entries) {
        all.add(
            member
                .parse()
                .map_err(|error| ContentError::from_policy(member.position_of(&error), error))?,
        );
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
pub(super) mod fuzz;

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
                public: None,
            }],
        }
    }

    fn content(text: &str) -> PolicyContent {
        PolicyContent::parse(text.as_bytes()).unwrap()
    }

    /// Returns a state that has accepted this content.
    fn state(text: &str) -> State {
        let state = State::default();
        state.accept(content(text)).unwrap();
        state
    }

    fn register(state: &State, trusted: &PolicyIssuers) -> Result<Registration, PolicyError> {
        let path = Path::new("policy.yaml");
        state.register(path, trusted, PolicyRole::Enforced, Misfit::Reject)
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
            *result.lock().unwrap() = Some(racing.register(
                &trusted(Platform::Kubernetes),
                PolicyRole::Enforced,
                Misfit::Reject,
            ));
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
        let registration = register(&state, &trusted(Platform::Kubernetes)).unwrap();
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
    fn a_shadow_policy_keeps_no_content_from_being_enforced_and_is_suspended_until_it_fits() {
        let state = state("allow: []\n");
        let path = Path::new("policy.yaml");
        let shadow = state.register(
            path,
            &trusted(Platform::Google),
            PolicyRole::Shadow,
            Misfit::Reject,
        );
        let shadow = shadow.unwrap();
        assert!(
            state.accept(content(OF_KUBERNETES)).is_err(),
            "it is a shadow policy only"
        );
        let enforced = register(&state, &trusted(Platform::Kubernetes)).unwrap();
        state.accept(content(OF_KUBERNETES)).unwrap();
        assert!(shadow.error().is_some());
        assert!(enforced.error().is_none());
        state.accept(content("allow: []\n")).unwrap();
        assert!(shadow.error().is_none());
        assert!(
            state.accept(content(OF_GOOGLE)).is_err(),
            "it does not fit the enforced one"
        );
    }

    #[test]
    fn a_guard_that_does_not_build_leaves_no_registration() {
        let state = state(OF_KUBERNETES);
        assert!(register(&state, &trusted(Platform::Google)).is_err());
        let more = "allow: [\"system:serviceaccounts\"]\ndeny: [\"system:authenticated\"]\n";
        assert!(state.accept(content(more)).is_ok());
    }

    #[test]
    fn registrations_are_shared_and_end_with_their_guards() {
        let state = state(OF_KUBERNETES);
        let count = || state.registered.lock().unwrap().len();
        let one: Vec<_> = (0..1000)
            .map(|_| register(&state, &trusted(Platform::Kubernetes)).unwrap())
            .collect();
        assert_eq!(count(), 1);
        drop(one);
        for _ in 0..1000 {
            drop(register(&state, &trusted(Platform::Kubernetes)).unwrap());
        }
        assert_eq!(count(), 1);
        state.accept(content(OF_GOOGLE)).unwrap();
        assert_eq!(count(), 0);
    }
}
