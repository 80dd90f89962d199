//! Checks a policy file without starting a guard.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest_wi_auth::{FileError, WatchedFile};

use super::OidcGuard;
use crate::build_error::BuildError;
use crate::config_file::{ContentError, Reason};
use crate::issuer::Issuer;
use crate::policy::{PolicyContent, PolicyError, PolicyFile, PolicyIssuers};
use crate::text::quoted_if_needed;
use crate::verifier::ReadyWhen;

/// The most members, audiences or claims that a summary lists.
const MAX_LISTED: usize = 50;

/// The policy in a file that was found to be valid. Returned by [`PolicyFile::check`] and [`OidcGuard::check_policy_file`].
///
/// Its `Display` form is a summary of several lines: the numbers of allowed and denied members with the first 50 of each, the
/// required audiences and claims, the required scopes if there are any, and the warnings.
///
/// In all texts, everything but printable ASCII is escaped. Equal members are returned once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySummary {
    path: PathBuf,
    allowed: Vec<String>,
    denied: Vec<String>,
    audiences: Vec<String>,
    scopes: Vec<String>,
    claims: Vec<String>,
    issuers: Vec<String>,
    warnings: Vec<String>,
}

impl PolicySummary {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the allowed members, such as `system:serviceaccount:shop:web`, with ` of ` and the issuer if a member is in the
    /// list of one. An empty list allows no caller.
    pub fn allowed(&self) -> &[String] {
        &self.allowed
    }

    /// Returns the denied members.
    pub fn denied(&self) -> &[String] {
        &self.denied
    }

    /// Returns the audiences of which a token must have one. If there are none, any audience of the issuer is accepted.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// Returns the scopes of which a token must have all.
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// Returns the required claims, each with its value or matcher, such as `hd: "example.com"` or `ref: prefix "refs/tags/"`.
    pub fn claims(&self) -> &[String] {
        &self.claims
    }

    /// Returns the labels of the issuers in the file. Empty if they could not be checked because the file names the cluster that
    /// the process runs in, and it runs in none.
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }

    /// Returns warnings about a policy that allows more, or less, than its author may expect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn new(path: &Path, content: &PolicyContent, warnings: Vec<String>) -> Self {
        let config = content.config();
        let audiences = config.audiences.iter();
        let scopes = config.scopes.iter();
        let claims = config.claims.iter();
        Self {
            path: path.to_owned(),
            allowed: content.allowed(),
            denied: content.denied(),
            audiences: audiences
                .map(|audience| quoted_if_needed(&audience.value).into_owned())
                .collect(),
            scopes: scopes
                .map(|scope| quoted_if_needed(&scope.value).into_owned())
                .collect(),
            claims: claims
                .map(|claim| format!("{}: {}", quoted_if_needed(claim.name()), claim.matcher))
                .collect(),
            issuers: Vec::new(),
            warnings,
        }
    }
}

impl fmt::Display for PolicySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the policy is valid", self.path.display())?;
        let lists = [
            ("allow", "member", &self.allowed, "no caller"),
            ("deny", "member", &self.denied, "no caller"),
            (
                "audiences",
                "audience",
                &self.audiences,
                "any that the issuer accepts",
            ),
            ("scopes", "scope", &self.scopes, ""),
            ("claims", "claim", &self.claims, "none required"),
        ];
        for (field, kind, list, if_empty) in lists {
            match list.len() {
                0 if field == "scopes" => {}
                0 => write!(f, "\n{field}: {if_empty}")?,
                1 => write!(f, "\n{field}: 1 {kind}")?,
                count => write!(f, "\n{field}: {count} {kind}s")?,
            }
            for element in list.iter().take(MAX_LISTED) {
                write!(f, "\n  {element}")?;
            }
            if let more @ 1.. = list.len().saturating_sub(MAX_LISTED) {
                write!(f, "\n  and {more} more")?;
            }
        }
        for warning in &self.warnings {
            write!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

/// The reason why a policy file is not valid. Returned by [`PolicyFile::check`] and [`OidcGuard::check_policy_file`].
///
/// The texts begin with the path of the file, and with line and column if the error is at one place of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyFileError {
    /// The file cannot be read.
    #[error("{0}")]
    Read(FileError),
    /// The file is not YAML or JSON, or a field or value is not as expected.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Content {
        /// The path of the file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, in characters from 1.
        column: u64,
        /// The fault: what was found, what was expected and what to do.
        reason: String,
    },
    /// A member, an audience or a claim is not valid, or does not fit the trusted issuers.
    #[error("{}:{line}:{column}: {error}", path.display())]
    Policy {
        /// The path of the file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// The column, in characters from 1.
        column: u64,
        /// The error of the member, the audience or the claim.
        error: Box<PolicyError>,
    },
    /// The issuers in the file cannot be trusted together, or one of them is misconfigured.
    #[error("{}: {error}", path.display())]
    Issuers {
        /// The path of the file.
        path: PathBuf,
        /// The error of the issuers.
        error: Box<BuildError>,
    },
}

impl PolicyFileError {
    fn new(path: &Path, error: ContentError) -> Self {
        let path = path.to_owned();
        let (line, column) = (error.position.line, error.position.column);
        match error.reason {
            Reason::Text(reason) => Self::Content {
                path,
                line,
                column,
                reason,
            },
            Reason::Policy(error) => Self::Policy {
                path,
                line,
                column,
                error: Box::new(error),
            },
        }
    }
}

impl PolicyFile {
    /// Checks a policy file without watching it and without a guard, for example in a CI job before it is deployed. Blocks while
    /// the file is read; no runtime is required.
    ///
    /// If the file contains `issuers`, they are checked as by [`OidcGuardBuilder::build`](crate::OidcGuardBuilder::build), and the
    /// policy must fit them. Otherwise it is not checked whether the members and audiences belong to trusted issuers; use
    /// [`OidcGuard::check_policy_file`] for that.
    ///
    /// # Errors
    ///
    /// [`PolicyFileError`] if the file cannot be read or is not valid.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::PolicyFile;
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("shop.yaml");
    /// std::fs::write(&path, "allow:\n  - system:serviceaccounts:shop\ndeny:\n  - system:serviceaccount:shop:legacy\n")?;
    /// let policy = PolicyFile::check(&path)?;
    /// assert_eq!(policy.allowed(), ["system:serviceaccounts:shop"]);
    /// assert_eq!(policy.denied(), ["system:serviceaccount:shop:legacy"]);
    ///
    /// std::fs::write(&path, "allow:\n  - system:serviceacount:shop:web\n")?;
    /// let error = PolicyFile::check(&path).unwrap_err();
    /// assert!(error.to_string().contains("shop.yaml:2:5: the member \"system:serviceacount:shop:web\" has no known form"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn check(path: impl AsRef<Path>) -> Result<PolicySummary, PolicyFileError> {
        check(path.as_ref(), None)
    }

    /// Checks the content of a policy file like [`check`](Self::check). `name` is the path in errors and in the summary.
    ///
    /// # Errors
    ///
    /// [`PolicyFileError`] if the content is not valid.
    ///
    /// ```
    /// use tower_oidc_guard::PolicyFile;
    ///
    /// let error = PolicyFile::check_content("shop.yaml", b"allow: []\ndeny: []\n").unwrap_err();
    /// assert!(error.to_string().starts_with("shop.yaml:2:1: `deny` is null or empty"));
    /// ```
    pub fn check_content(
        name: impl AsRef<Path>,
        content: &[u8],
    ) -> Result<PolicySummary, PolicyFileError> {
        check_parsed(name.as_ref(), PolicyContent::parse(content), None)
    }
}

impl OidcGuard {
    /// Checks a policy file like [`PolicyFile::check`], and whether its members and audiences belong to issuers that this guard
    /// trusts. The guard does not use the file afterwards.
    ///
    /// # Errors
    ///
    /// [`PolicyFileError`] if the file cannot be read, is not valid, or does not fit the guard.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_oidc_guard::{Issuer, OidcGuard};
    ///
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("shop.yaml");
    /// let guard = OidcGuard::builder()
    ///     .issuer(Issuer::kubernetes("https://cluster.example").audience("orders"))
    ///     .any_verified_caller()
    ///     .build()?;
    /// std::fs::write(&path, "allow: [\"user:jane@example.com\"]")?;
    /// let error = guard.check_policy_file(&path).unwrap_err();
    /// assert!(error.to_string().contains("shop.yaml:1:9: the policy has members of Google, and no trusted issuer is"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn check_policy_file(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<PolicySummary, PolicyFileError> {
        check(
            path.as_ref(),
            Some(&self.admission.load().verifier.policy_issuers()),
        )
    }

    /// Checks the content of a policy file like [`check_policy_file`](Self::check_policy_file). `name` is the path in errors and
    /// in the summary.
    ///
    /// # Errors
    ///
    /// [`PolicyFileError`] if the content is not valid, or does not fit the guard.
    pub fn check_policy_content(
        &self,
        name: impl AsRef<Path>,
        content: &[u8],
    ) -> Result<PolicySummary, PolicyFileError> {
        let trusted = self.admission.load().verifier.policy_issuers();
        check_parsed(name.as_ref(), PolicyContent::parse(content), Some(&trusted))
    }
}

fn check(path: &Path, trusted: Option<&PolicyIssuers>) -> Result<PolicySummary, PolicyFileError> {
    let parsed = WatchedFile::read_once(path, |bytes| Ok(PolicyContent::parse(bytes)));
    check_parsed(path, parsed.map_err(PolicyFileError::Read)?, trusted)
}

fn check_parsed(
    path: &Path,
    parsed: Result<PolicyContent, ContentError>,
    trusted: Option<&PolicyIssuers>,
) -> Result<PolicySummary, PolicyFileError> {
    let content = parsed.map_err(|error| PolicyFileError::new(path, error))?;
    let mut warnings = Vec::new();
    let own = match file_issuers(&content) {
        Ok(own) => own,
        Err(BuildError::NotInCluster) => {
            let warning = "the issuers in the file were not checked, because `platform: in-cluster` requires that this process runs in a cluster";
            warnings.push(warning.to_owned());
            None
        }
        Err(
            error @ (BuildError::NoIssuer
            | BuildError::NoAudience { .. }
            | BuildError::Issuer { .. }
            | BuildError::ApiServerAudience { .. }
            | BuildError::DuplicateIssuer { .. }
            | BuildError::HttpClient(_)),
        ) => {
            let path = path.to_owned();
            let error = Box::new(error);
            return Err(PolicyFileError::Issuers { path, error });
        }
        Err(error) => {
            let position = content.config().position_of(&error);
            let error = ContentError::new(position, error.to_string());
            return Err(PolicyFileError::new(path, error));
        }
    };
    let no_issuers = PolicyIssuers::default();
    for trusted in own.iter().chain(trusted) {
        content
            .check_issuers(trusted)
            .map_err(|(position, error)| {
                PolicyFileError::new(path, ContentError::from_policy(position, error))
            })?;
    }
    let trusted = trusted.or(own.as_ref()).unwrap_or(&no_issuers);
    let too_wide = content.too_wide(trusted).into_iter();
    warnings.extend(too_wide.map(str::to_owned));
    if content.allowed().is_empty() {
        warnings.push("the policy allows no caller, because `allow` is empty".to_owned());
    }
    let mut summary = PolicySummary::new(path, &content, warnings);
    if own.is_some() {
        summary.issuers = content.config().issuer_labels();
    }
    Ok(summary)
}

/// Checks the issuers and the settings in a file. Returns the issuers as policies refer to them, or `None` if there are none.
fn file_issuers(content: &PolicyContent) -> Result<Option<PolicyIssuers>, BuildError> {
    let has_issuers = !content.config().issuers()?.is_empty();
    let settings = OidcGuard::builder().with_file_settings(&content.config().settings)?;
    let guard = if has_issuers {
        let issuers = content.config().issuers()?.into_iter();
        issuers.fold(settings, |builder, issuer| builder.issuer(issuer))
    } else {
        // The issuers are in code, so it is not known whether `ready_when` names one of them.
        settings
            .ready_when(ReadyWhen::AllIssuers)
            .issuer(Issuer::oidc("https://issuer.invalid").audience("any"))
    };
    let guard = guard.any_verified_caller().build()?;
    let trusted = guard.admission.load().verifier.policy_issuers();
    Ok(has_issuers.then_some(trusted))
}
