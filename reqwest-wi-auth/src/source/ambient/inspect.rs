//! Inspects the environment, and decides which source is used. Reads files, and blocks the current thread.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::super::azure::AzureWorkloadIdentity;
use super::super::github_actions::GitHubActions;
use super::super::google::{GoogleFederation, GoogleFederationBuilder};
use super::super::metadata::MetadataServer;
use super::super::token_request::TokenRequest;
use super::AmbientSource;
use super::builder::{Proxy, Settings};
use super::opened::Candidate;
use crate::error::{AmbientError, AmbientFinding, Error};
use crate::json_object::Object;
use crate::text::{printable, shorten_middle};
use crate::token::Token;
use crate::token::jwt::Audiences;
use crate::watched_file::{FileError, WatchedFile};

/// The variable that names the token file to use.
const TOKEN_FILE: &str = "WI_TOKEN_FILE";
/// The variable that names the file with Google's credentials.
const GOOGLE_CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const AZURE_TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";
const AZURE_OTHERS: [&str; 2] = ["AZURE_CLIENT_ID", "AZURE_TENANT_ID"];
const GITHUB: [&str; 2] = [
    "ACTIONS_ID_TOKEN_REQUEST_URL",
    "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
];
const METADATA_HOST: &str = "GCE_METADATA_HOST";
const KUBERNETES_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// The number of files in the directory for projected tokens that are read.
const MAX_FILES: usize = 100;

/// The longest text of a file or an error in the description of a finding, in bytes.
const MAX_TEXT: usize = 300;

/// The decision for an audience.
pub(super) struct Choice {
    pub(super) source: AmbientSource,
    /// A description of what was found of the source.
    pub(super) reason: String,
    pub(super) candidate: Box<Candidate>,
    /// The other sources, and why they were not chosen.
    pub(super) not_chosen: Vec<AmbientFinding>,
}

/// The result of looking for a source.
struct Finding {
    source: AmbientSource,
    found: Found,
}

enum Found {
    /// The source can be used. The text states why.
    Usable(String, Box<Candidate>),
    /// The source is configured, but incompletely or with an error.
    Broken(String),
    /// There is no such source, or it is meant for something else.
    Absent(String),
    Off,
}

/// The steps in which sources are considered. Sources of an earlier one have precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Explicit,
    Configured,
    Platform,
    Fallback,
}

impl AmbientSource {
    fn step(self) -> Step {
        match self {
            Self::TokenFile => Step::Explicit,
            Self::ProjectedToken | Self::GoogleFederation | Self::Azure | Self::GitHubActions => {
                Step::Configured
            }
            Self::MetadataServer | Self::TokenRequest => Step::Platform,
            Self::Fallback => Step::Fallback,
        }
    }

    /// Returns how to provide the source.
    fn remedy(self) -> &'static str {
        match self {
            Self::TokenFile => "set it to the path of a file with a token for the audience",
            Self::ProjectedToken => "mount a projected volume there, with a token for the audience",
            Self::GoogleFederation => {
                "set it to the path of a credential configuration of the type external_account"
            }
            Self::Azure => {
                "label the pod `azure.workload.identity/use: \"true\"`, and annotate its service account with the client ID"
            }
            Self::GitHubActions => "give the job `permissions: id-token: write`",
            Self::MetadataServer => "run on Google Cloud, or set GCE_METADATA_HOST",
            Self::TokenRequest => "run in a pod that has its service account's token",
            Self::Fallback => "for a workstation, call `Ambient::builder().fallback(…)`",
        }
    }
}

/// Inspects the environment, and chooses a source for an audience.
pub(super) fn choose(settings: &Settings, audience: &str) -> Result<Choice, Error> {
    if audience.is_empty() {
        return Err(Error::Configuration {
            location: "the audience of an ambient token".to_owned(),
            reason: "it is empty; expected the audience that the server accepts".to_owned(),
        });
    }
    decide(inspect(settings, audience), audience)
}

/// Returns what was found of each source, in the order of the steps.
fn inspect(settings: &Settings, audience: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |source, inspect: &dyn Fn() -> Vec<Found>| {
        let found = if settings.off.contains(&source) {
            vec![Found::Off]
        } else {
            inspect()
        };
        let found = found.into_iter().map(|found| Finding { source, found });
        findings.extend(found);
    };
    add(AmbientSource::TokenFile, &|| vec![token_file(settings)]);
    add(AmbientSource::ProjectedToken, &|| {
        projected_tokens(&settings.token_directory, audience)
    });
    add(AmbientSource::GoogleFederation, &|| vec![google(settings)]);
    add(AmbientSource::Azure, &|| vec![azure(settings)]);
    add(AmbientSource::GitHubActions, &|| vec![github(settings)]);
    add(AmbientSource::MetadataServer, &|| vec![metadata(settings)]);
    add(AmbientSource::TokenRequest, &|| {
        vec![token_request(settings)]
    });
    add(AmbientSource::Fallback, &|| {
        vec![match &settings.fallback {
            Some(source) => Found::usable(
                "no other source was found".to_owned(),
                Candidate::Fallback(source.clone()),
            ),
            None => Found::Absent("none is set".to_owned()),
        }]
    });
    findings
}

/// Chooses the source of the first step that has one.
fn decide(mut findings: Vec<Finding>, audience: &str) -> Result<Choice, Error> {
    for step in [
        Step::Explicit,
        Step::Configured,
        Step::Platform,
        Step::Fallback,
    ] {
        let is_usable = |finding: &Finding| {
            finding.source.step() == step && matches!(finding.found, Found::Usable(..))
        };
        let is_broken = |finding: &Finding| {
            finding.source.step() == step && matches!(finding.found, Found::Broken(_))
        };
        let usable: Vec<_> = findings.iter().filter(|found| is_usable(found)).collect();
        if usable.len() > 1 && step == Step::Configured {
            return Err(Error::Ambient(AmbientError::Ambiguous {
                audience: audience.to_owned(),
                found: usable.into_iter().map(Finding::describe).collect(),
            }));
        }
        if let Some(index) = findings.iter().position(is_usable) {
            let Finding { source, found } = findings.remove(index);
            if let Found::Usable(reason, candidate) = found {
                return Ok(Choice {
                    source,
                    reason,
                    candidate,
                    not_chosen: not_chosen(&findings, source),
                });
            }
        }
        if findings.iter().any(is_broken) {
            let broken = findings.iter().filter(|found| is_broken(found));
            return Err(Error::Ambient(AmbientError::Unusable {
                audience: audience.to_owned(),
                found: broken.map(Finding::describe).collect(),
            }));
        }
    }
    let looked_for = findings.iter().map(|finding| {
        let mut described = finding.describe();
        if !matches!(finding.found, Found::Off) {
            let remedy = finding.source.remedy();
            described.reason = format!("{} ({remedy})", described.reason);
        }
        described
    });
    Err(Error::Ambient(AmbientError::NotFound {
        audience: audience.to_owned(),
        looked_for: looked_for.collect(),
    }))
}

/// Returns why other sources than the chosen one were not chosen.
fn not_chosen(others: &[Finding], chosen: AmbientSource) -> Vec<AmbientFinding> {
    let reasons = others.iter().map(|other| {
        let mut described = other.describe();
        match &other.found {
            Found::Usable(..) if other.source == AmbientSource::Fallback => {
                described.reason = "another source was found".to_owned();
            }
            Found::Usable(reason, _) => {
                described.reason = format!("{reason}, but {chosen} has precedence");
            }
            Found::Broken(_) | Found::Absent(_) | Found::Off => {}
        }
        described
    });
    reasons.collect()
}

impl Found {
    fn usable(reason: String, candidate: Candidate) -> Self {
        Self::Usable(reason, Box::new(candidate))
    }
}

impl Finding {
    fn describe(&self) -> AmbientFinding {
        AmbientFinding {
            source: self.source,
            reason: match &self.found {
                Found::Usable(reason, _) | Found::Broken(reason) | Found::Absent(reason) => {
                    reason.clone()
                }
                Found::Off => "switched off".to_owned(),
            },
        }
    }
}

fn token_file(settings: &Settings) -> Found {
    match path_in(settings, TOKEN_FILE) {
        Ok(Some(path)) => Found::usable(
            format!("{TOKEN_FILE} is {}", shown(&path)),
            Candidate::File(path.into()),
        ),
        Ok(None) => Found::Absent(not_set(TOKEN_FILE)),
        Err(reason) => Found::Broken(reason),
    }
}

/// Returns the files of a directory whose tokens are for the audience, or why there is none.
fn projected_tokens(directory: &Path, audience: &str) -> Vec<Found> {
    let shown_directory = shown(&directory.display().to_string());
    let mut paths = match files(directory) {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let reason = format!("the directory {shown_directory} does not exist");
            return vec![Found::Absent(reason)];
        }
        Err(error) => {
            let reason = format!("the directory {shown_directory} could not be read: {error}");
            return vec![Found::Broken(reason)];
        }
    };
    paths.sort();
    let (mut found, mut others) = (Vec::new(), Vec::new());
    for path in paths.iter().take(MAX_FILES) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = shown(&name);
        match token_of(path) {
            Ok(FileToken::Jwt(audiences)) if audiences.iter().any(|found| found == audience) => {
                let reason = format!(
                    "{} has a token for the audience",
                    shown(&path.display().to_string())
                );
                found.push(Found::usable(reason, Candidate::File(path.clone())));
            }
            Ok(FileToken::Jwt(audiences)) => {
                let audiences = shown(&Audiences(&audiences).to_string());
                others.push(format!("{name} is for {audiences}"));
            }
            // It may become a token for the audience. Another source would be another identity.
            Ok(FileToken::Incomplete) => found.push(Found::Broken(format!(
                "{} is empty or truncated; expected a token",
                shown(&path.display().to_string())
            ))),
            Ok(FileToken::Other) => others.push(format!("{name} is not a token")),
            Err(error) => found.push(Found::Broken(shown(&error.to_string()))),
        }
    }
    if paths.len() > MAX_FILES {
        others.push(format!(
            "only the first {MAX_FILES} of {} files were read",
            paths.len()
        ));
    }
    if found.is_empty() {
        found.push(Found::Absent(if others.is_empty() {
            format!("the directory {shown_directory} contains no files")
        } else {
            let others = others.join(", ");
            format!("{shown_directory} has no token for the audience: {others}")
        }));
    }
    found
}

/// Returns the paths of the files in a directory, without hidden ones, such as those of the kubelet.
fn files(directory: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // The entry is a symbolic link in a volume of the kubelet.
        if !is_hidden && !entry.path().is_dir() {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

/// The content of a file in the place of a token.
enum FileToken {
    /// A JWT, with its audiences.
    Jwt(Vec<String>),
    /// Nothing, or the beginning of a JWT: the file is being written.
    Incomplete,
    Other,
}

fn token_of(path: &Path) -> Result<FileToken, FileError> {
    let content = read(path)?;
    let text = content.trim_ascii();
    Ok(match Token::parse_jwt(text) {
        Ok((_, audiences)) => FileToken::Jwt(audiences),
        // The base64url form of `{"`, with which the header of a JWT begins.
        Err(_) if text.is_empty() || text.starts_with(b"eyJ") => FileToken::Incomplete,
        Err(_) => FileToken::Other,
    })
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    WatchedFile::read_once(path, |bytes| Ok(Zeroizing::new(bytes.to_vec())))
}

/// The members of a file with Google's credentials that decide whether it is used.
#[derive(Deserialize)]
struct GoogleCredentials {
    #[serde(rename = "type")]
    kind: String,
    service_account_impersonation_url: Option<String>,
}

fn google(settings: &Settings) -> Found {
    let path = match path_in(settings, GOOGLE_CREDENTIALS) {
        Ok(Some(path)) => path,
        Ok(None) => return Found::Absent(not_set(GOOGLE_CREDENTIALS)),
        Err(reason) => return Found::Broken(reason),
    };
    let found = format!("{GOOGLE_CREDENTIALS} is {}", shown(&path));
    let content = match read(Path::new(&path)) {
        Ok(content) => content,
        Err(error) => return Found::Broken(format!("{found}: {}", shown(&error.to_string()))),
    };
    let credentials = match serde_json::from_slice::<Object<GoogleCredentials>>(&content) {
        Ok(Object(credentials)) => credentials,
        // The error of the parser may contain a value of the file.
        Err(error) => {
            return Found::Broken(format!(
                "{found}, which is not a JSON object with a `type` (line {}, column {})",
                error.line(),
                error.column()
            ));
        }
    };
    if credentials.kind != "external_account" {
        return Found::Absent(format!(
            "{found}, which has the type {:?}; expected \"external_account\"",
            shown(&credentials.kind)
        ));
    }
    if credentials.service_account_impersonation_url.is_none() {
        return Found::Broken(format!(
            "{found}, which has no `service_account_impersonation_url`: without a service account, Google issues no tokens for an audience; \
             create the file with `--service-account`"
        ));
    }
    match google_federation(settings, &path) {
        Ok(source) => Found::usable(
            format!("{found}, of the type external_account"),
            Candidate::Google(source),
        ),
        Err(error) => Found::Broken(format!("{found}: {}", shown(&error.to_string()))),
    }
}

/// Returns the client for a configuration file. All audiences share it, and with it the federated token.
fn google_federation(settings: &Settings, path: &str) -> Result<GoogleFederation, Error> {
    get_or_try_create(&settings.clients.google, || {
        create_google_federation(settings, path)
    })
}

fn create_google_federation(settings: &Settings, path: &str) -> Result<GoogleFederation, Error> {
    let mut builder = GoogleFederationBuilder::from_file(path)?;
    for origin in &settings.google_origins {
        builder = builder.allow_origin(origin);
    }
    if let Some(path) = &settings.ca_file {
        builder = builder.ca_file(path);
    }
    match &settings.proxy {
        Proxy::None => builder,
        Proxy::Url(url) => builder.proxy(url),
        Proxy::FromEnvironment => builder.proxy_from_environment(),
    }
    .build()
}

fn azure(settings: &Settings) -> Found {
    let is_set = |name: &&str| settings.environment.get(name).is_some();
    let path = match path_in(settings, AZURE_TOKEN_FILE) {
        Ok(Some(path)) => path,
        Ok(None) => {
            let others: Vec<_> = AZURE_OTHERS.into_iter().filter(is_set).collect();
            return Found::Absent(match others[..] {
                [] => not_set(AZURE_TOKEN_FILE),
                _ => format!("{} set, but {}", are(&others), not_set(AZURE_TOKEN_FILE)),
            });
        }
        Err(reason) => return Found::Broken(reason),
    };
    let found = format!("{AZURE_TOKEN_FILE} is {}", shown(&path));
    let missing: Vec<_> = AZURE_OTHERS
        .into_iter()
        .filter(|name| !is_set(name))
        .collect();
    if !missing.is_empty() {
        return Found::Broken(format!("{found}, but {} not set or empty", are(&missing)));
    }
    match token_of(Path::new(&path)) {
        Ok(FileToken::Jwt(_)) => {}
        Ok(FileToken::Incomplete | FileToken::Other) => {
            return Found::Broken(format!("{found}, which does not contain a token"));
        }
        Err(error) => return Found::Broken(format!("{found}: {}", shown(&error.to_string()))),
    }
    match azure_workload_identity(settings) {
        Ok(source) => Found::usable(found, Candidate::Azure(source)),
        Err(error) => Found::Broken(format!("{found}: {}", shown(&error.to_string()))),
    }
}

fn azure_workload_identity(settings: &Settings) -> Result<AzureWorkloadIdentity, Error> {
    get_or_try_create(&settings.clients.azure, || create_azure(settings))
}

fn create_azure(settings: &Settings) -> Result<AzureWorkloadIdentity, Error> {
    let environment = settings.environment.clone();
    let mut builder = AzureWorkloadIdentity::builder().with_environment(environment);
    if let Some(path) = &settings.ca_file {
        builder = builder.ca_file(path);
    }
    match &settings.proxy {
        Proxy::None => builder,
        Proxy::Url(url) => builder.proxy(url)?,
        Proxy::FromEnvironment => builder.proxy_from_environment(),
    }
    .build()
}

fn github(settings: &Settings) -> Found {
    let is_set = |name: &&str| settings.environment.get(name).is_some();
    let (set, missing): (Vec<_>, Vec<_>) = GITHUB.into_iter().partition(is_set);
    if set.is_empty() {
        let not_set = not_set(GITHUB[0]);
        return Found::Absent(if is_set(&"GITHUB_ACTIONS") {
            format!("{not_set}, although GITHUB_ACTIONS is")
        } else {
            not_set
        });
    }
    if !missing.is_empty() {
        return Found::Broken(format!(
            "{} set, but {} not set or empty",
            are(&set),
            are(&missing)
        ));
    }
    match github_actions(settings) {
        Ok(source) => Found::usable(
            format!("{} set", are(&set)),
            Candidate::GitHubActions(source),
        ),
        Err(error) => Found::Broken(shown(&error.to_string())),
    }
}

fn github_actions(settings: &Settings) -> Result<GitHubActions, Error> {
    let environment = settings.environment.clone();
    let mut builder = GitHubActions::builder().with_environment(environment);
    if let Some(path) = &settings.ca_file {
        builder = builder.ca_file(path);
    }
    match &settings.proxy {
        Proxy::None => builder,
        Proxy::Url(url) => builder.proxy(url)?,
        Proxy::FromEnvironment => builder.proxy_from_environment(),
    }
    .build()
}

fn metadata(settings: &Settings) -> Found {
    let host = settings.environment.get(METADATA_HOST);
    let is_set = |name: &&str| settings.environment.get(name).is_some();
    // Knative sets the same variable in any cluster.
    let is_cloud_run = is_set(&"K_SERVICE") && !is_set(&KUBERNETES_HOST);
    let other = ["CLOUD_RUN_JOB", "GAE_SERVICE"].into_iter().find(is_set);
    let reason = match (&host, other) {
        (Some(host), _) => format!("{METADATA_HOST} is {}", shown(host)),
        (None, Some(name)) => format!("{name} is set"),
        (None, None) if is_cloud_run => "K_SERVICE is set, as on Cloud Run".to_owned(),
        (None, None) => match std::fs::read_to_string(&settings.product_name) {
            Ok(name) if name.starts_with("Google") => {
                format!("the machine's product name is {:?}", shown(name.trim()))
            }
            _ => {
                return Found::Absent(format!(
                    "{}, and neither Cloud Run nor a machine of Google Cloud was detected",
                    not_set(METADATA_HOST)
                ));
            }
        },
    };
    match MetadataServer::with_configured_host(host.as_deref()) {
        Ok(source) => Found::usable(reason, Candidate::Metadata(source)),
        Err(error) => Found::Broken(shown(&error.to_string())),
    }
}

fn token_request(settings: &Settings) -> Found {
    if settings.environment.get(KUBERNETES_HOST).is_none() {
        return Found::Absent(not_set(KUBERNETES_HOST));
    }
    let directory = &settings.service_account_directory;
    let token = directory.join("token");
    let found = format!("{KUBERNETES_HOST} is set");
    let shown_token = shown(&token.display().to_string());
    match std::fs::exists(&token) {
        Ok(true) => {}
        Ok(false) => {
            return Found::Absent(format!(
                "{found}, but {shown_token} does not exist, since the pod has `automountServiceAccountToken: false`"
            ));
        }
        Err(error) => {
            return Found::Broken(format!(
                "{found}, but {shown_token} cannot be read: {error}"
            ));
        }
    }
    if let Err(error) = read(&token) {
        return Found::Broken(format!("{found}: {}", shown(&error.to_string())));
    }
    let create = || {
        TokenRequest::builder()
            .with_environment(settings.environment.clone())
            .service_account_directory(directory)
            .build()
    };
    match get_or_try_create(&settings.clients.token_request, create) {
        Ok(source) => Found::usable(
            format!("{found}, and {shown_token} exists"),
            Candidate::TokenRequest(source),
        ),
        Err(error) => Found::Broken(format!("{found}: {}", shown(&error.to_string()))),
    }
}

/// Returns the client in a cell. Creates it if there is none; an error is not remembered.
fn get_or_try_create<C: Clone>(
    cell: &OnceLock<C>,
    create: impl FnOnce() -> Result<C, Error>,
) -> Result<C, Error> {
    match cell.get() {
        Some(client) => Ok(client.clone()),
        None => {
            let created = create()?;
            Ok(cell.get_or_init(|| created).clone())
        }
    }
}

/// Returns the path in a variable, or `None` if the variable is not set. Returns an error if its value is not a path but a
/// credential, which must not be shown.
fn path_in(settings: &Settings, name: &str) -> Result<Option<String>, String> {
    let Some(value) = settings.environment.get(name) else {
        return Ok(None);
    };
    let is_jwt = value.starts_with("eyJ") && value.contains('.');
    let is_object = value.starts_with('{');
    if is_jwt || is_object || value.contains(char::is_control) || value.len() > 4096 {
        return Err(format!(
            "{name} contains something other than a path, such as the credential itself; write that to a file, and set the variable to its path"
        ));
    }
    Ok(Some(value))
}

fn not_set(name: &str) -> String {
    format!("{name} is not set")
}

/// Returns the names as the subject of a sentence: `A is` or `A and B are`.
fn are(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", super::super::environment::name_list(names))
}

/// Returns a text from the environment, printable and shortened.
fn shown(text: &str) -> String {
    shorten_middle(&printable(text), MAX_TEXT)
}
