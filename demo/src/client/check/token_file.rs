//! Checks the file of the projected token: whether it can be read, how it is mounted, and what it contains.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest_wi_auth::{ProjectedToken, Token};
use tokio::time::timeout;

use super::report::Check;
use crate::error_chain;

/// The largest file that is read, in bytes. Tokens are smaller.
const MAX_BYTES: u64 = 64 * 1024;
/// The largest number of a directory's entries that are listed.
const MAX_ENTRIES: usize = 8;
/// How long the file system may take.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Checks the file. Also returns the token, if the file contains one.
pub(super) async fn check(path: &Path) -> (Vec<Check>, Option<Token>) {
    let owned = path.to_owned();
    let checked = tokio::task::spawn_blocking(move || check_blocking(&owned));
    match timeout(READ_LIMIT, checked).await {
        Ok(Ok(checked)) => checked,
        Ok(Err(_)) | Err(_) => {
            let found = format!(
                "reading {} took more than {} s",
                path.display(),
                READ_LIMIT.as_secs()
            );
            let check = Check::failed("token file", found)
                .expected("a local file system")
                .advice("check the volume; if it is on the network, check the connection");
            (vec![check], None)
        }
    }
}

fn check_blocking(path: &Path) -> (Vec<Check>, Option<Token>) {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut checks = Vec::new();
    let (content, metadata) = match read(&path) {
        Ok(read) => read,
        Err(check) => return (vec![*check], None),
    };
    let access = describe_access(&metadata);
    let found = format!("{}: {} bytes{access}", path.display(), content.len());
    checks.push(Check::passed("token file", found));
    checks.push(check_mount(&path));
    checks.extend(check_permissions(&metadata));
    match Token::new(&content) {
        Ok(token) => {
            checks.push(Check::passed(
                "token format",
                "a JWT, without its signature being verified",
            ));
            (checks, Some(token))
        }
        Err(error) => {
            let check = Check::failed("token format", error_chain(&error))
                .expected("a JWT and nothing else: three parts of base64url, separated by dots")
                .advice(format_advice(&content));
            checks.push(check);
            (checks, None)
        }
    }
}

/// Reads the file.
fn read(path: &Path) -> Result<(Vec<u8>, Metadata), Box<Check>> {
    let failed = |found: String, expected: &str, advice: String| {
        let check = Check::failed("token file", found);
        Box::new(check.expected(expected).advice(advice))
    };
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return Err(Box::new(unreadable(path, &error))),
    };
    if !metadata.is_file() {
        let found = if metadata.is_dir() {
            format!("{shown} is a directory that contains {}", entries(path))
        } else {
            format!("{shown} is neither a file nor a directory")
        };
        let advice = "set --token-path (TOKEN_PATH) to the file in the volume".to_owned();
        return Err(failed(found, "a file", advice));
    }
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut content));
    if let Err(error) = read {
        return Err(Box::new(unreadable(path, &error)));
    }
    if content.len() as u64 > MAX_BYTES {
        return Err(failed(
            format!("{shown} has more than {MAX_BYTES} bytes"),
            "a token, which is smaller",
            "set --token-path (TOKEN_PATH) to the file of the token".to_owned(),
        ));
    }
    Ok((content, metadata))
}

/// Returns the failed check of a file that cannot be read.
fn unreadable(path: &Path, error: &io::Error) -> Check {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            let target = fs::read_link(path).ok();
            let found = match (target, deepest_directory(path)) {
                (Some(target), _) => format!(
                    "{shown} is a symbolic link to {}, which does not exist",
                    target.display()
                ),
                (None, Some(directory)) => format!(
                    "{shown} does not exist; {} contains {}",
                    directory.display(),
                    entries(&directory)
                ),
                (None, None) => format!("{shown} does not exist"),
            };
            Check::failed("token file", found)
                .expected("the file of a projected service account token")
                .advice("set --token-path (TOKEN_PATH) to the volume's mountPath followed by the path of its serviceAccountToken, or add that volume to the pod")
        }
        io::ErrorKind::PermissionDenied => {
            let access = fs::metadata(path).map(|metadata| describe_access(&metadata));
            let user = user().map_or(String::new(), |user| {
                format!("; this process runs as user {user}")
            });
            let access = access.unwrap_or_default();
            Check::failed("token file", format!("{shown} may not be read: {error}{access}{user}"))
                .expected("a file that this process may read")
                .advice("set securityContext.fsGroup of the pod, so that the volume belongs to a group of this process")
        }
        _ => Check::failed("token file", format!("{shown} cannot be read: {error}"))
            .expected("the file of a projected service account token")
            .advice("check the volume and the path in --token-path (TOKEN_PATH)"),
    }
}

/// Returns the deepest directory on a path that exists.
fn deepest_directory(path: &Path) -> Option<PathBuf> {
    let mut ancestors = path.ancestors().skip(1);
    ancestors
        .find(|ancestor| ancestor.is_dir())
        .map(Path::to_owned)
}

/// Lists the entries of a directory, without those that the kubelet uses for replacing its content.
fn entries(directory: &Path) -> String {
    let Ok(entries) = fs::read_dir(directory) else {
        return "entries that may not be listed".to_owned();
    };
    let names = entries
        .filter_map(Result::ok)
        .map(|entry| entry.file_name());
    let mut names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.starts_with(".."))
        .collect();
    if names.is_empty() {
        return "no files".to_owned();
    }
    names.sort();
    let more = names.len().saturating_sub(MAX_ENTRIES);
    names.truncate(MAX_ENTRIES);
    let listed: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    match more {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

/// Checks whether the mounted file can be replaced.
fn check_mount(path: &Path) -> Check {
    if is_mount_point(path) {
        return Check::failed("token mount", format!("{} is itself a mount point (subPath)", path.display()))
            .expected("a file in a mounted volume, as Kubernetes never replaces the file of a subPath mount")
            .advice("mount the whole volume, without subPath, and set --token-path (TOKEN_PATH) to the file in it");
    }
    let mut directories = path.ancestors().skip(1);
    let volume = directories.find(|directory| {
        fs::symlink_metadata(directory.join("..data")).is_ok_and(|data| data.is_symlink())
    });
    match volume {
        Some(volume) => Check::passed(
            "token mount",
            format!(
                "a volume of Kubernetes at {}, which replaces its content as a whole (..data)",
                volume.display()
            ),
        ),
        None => Check::passed(
            "token mount",
            "a plain file in no volume of Kubernetes; the program that writes it has to replace it before the token expires",
        ),
    }
}

/// Returns whether a path is a mount point, according to proc_pid_mountinfo(5). Returns false on systems without it.
fn is_mount_point(path: &Path) -> bool {
    let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else {
        return false;
    };
    let escaped = path.to_string_lossy();
    let escaped = escaped
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&*escaped))
}

#[cfg(unix)]
fn describe_access(metadata: &Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let (mode, user, group) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    format!(", mode {mode:04o}, user {user}, group {group}")
}

#[cfg(not(unix))]
fn describe_access(_: &Metadata) -> String {
    String::new()
}

/// Returns the user as which this process runs, if `/proc` is available.
fn user() -> Option<u32> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata("/proc/self")
            .ok()
            .map(|metadata| metadata.uid())
    }
    #[cfg(not(unix))]
    None
}

/// Checks which users may read or replace the token.
#[cfg(unix)]
fn check_permissions(metadata: &Metadata) -> Option<Check> {
    use std::os::unix::fs::MetadataExt as _;
    let mode = metadata.mode();
    Some(if mode & 0o002 != 0 {
        Check::warning(
            "permissions",
            "every user of this machine may replace the token",
        )
        .expected("a file that only its owner may write")
        .advice("remove the permission, such as with chmod o-w")
    } else if mode & 0o004 != 0 {
        Check::passed(
            "permissions",
            "every user of this container or machine may read the token, which is Kubernetes' default; with runAsUser or fsGroup, fewer may",
        )
    } else {
        Check::passed(
            "permissions",
            "only the token's owner and group may read it",
        )
    })
}

#[cfg(not(unix))]
fn check_permissions(_: &Metadata) -> Option<Check> {
    None
}

/// Returns what to do about a file that does not contain a token, from what it looks like.
fn format_advice(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let text = text.trim();
    let starts_with = |prefix: &str| {
        let start = text.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let without_space: String = text.split_ascii_whitespace().collect();
    let is_encoded_twice = STANDARD
        .decode(without_space.trim_end_matches('\0'))
        .is_ok_and(|decoded| decoded.starts_with(b"eyJ"));
    let advice = if text.is_empty() {
        "write the token to the file; if it is a projected volume, see `kubectl describe pod` for why it is empty"
    } else if starts_with("bearer ") || starts_with("authorization:") {
        "remove the prefix: the file contains the token alone, and the client adds `Bearer`"
    } else if text.starts_with(['"', '\'', '`']) || text.ends_with(['"', '\'', '`']) {
        "remove the quotes: write the file with `printf %s`, or with jq -r instead of jq"
    } else if text.starts_with('{') || text.starts_with('[') {
        "the content is JSON: write the token alone, such as the value of status.token"
    } else if text.contains("-----BEGIN") {
        "the content is a key or certificate in PEM: set --token-path (TOKEN_PATH) to the file of the token"
    } else if text.starts_with('\u{feff}') || content.starts_with(b"\xff\xfe") {
        "save the file as ASCII without a byte order mark; PowerShell's `>` adds one"
    } else if is_encoded_twice {
        "the token is encoded in base64 once more, as in the YAML of a Secret: decode it"
    } else if text.contains(char::is_whitespace) {
        "write the token as one line without white space in it"
    } else {
        "compare with the output of `kubectl create token`; the file may be cut off"
    };
    advice.to_owned()
}

/// Checks whether a replaced token would be noticed at once.
pub(super) async fn check_rotation(path: &Path) -> Check {
    let token = match ProjectedToken::open(path).await {
        Ok(token) => token,
        Err(error) => {
            return Check::failed("rotation", error_chain(&error))
                .expected("a file that can be watched")
                .advice("see the checks above");
        }
    };
    let health = token.file().health();
    let check = if health.change_notifications {
        Check::passed(
            "rotation",
            "the system reports when the file is replaced, so a new token is used at once",
        )
    } else {
        Check::warning(
            "rotation",
            "the system does not report when the file is replaced, so it is read every 5 s instead",
        )
        .expected("change notifications (inotify)")
        .advice("nothing, if the file system has none; otherwise raise fs.inotify.max_user_instances of the node")
    };
    token.shutdown().await;
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::check::report::Status;

    fn content(text: &[u8]) -> (Vec<Check>, Option<Token>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        fs::write(&path, text).unwrap();
        check_blocking(&path)
    }

    #[test]
    fn what_a_file_contains_instead_of_a_token_is_named_with_what_to_do() {
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let token = format!(
            "{}.{}.{}",
            encode(br#"{"alg":"RS256"}"#),
            encode(br#"{"aud":"a"}"#),
            encode(&[0xa5; 256])
        );
        let (checks, parsed) = content(format!(" {token}\n").as_bytes());
        assert!(parsed.is_some(), "{checks:?}");
        assert!(checks.iter().all(|check| !check.is_failed()), "{checks:?}");
        let twice = STANDARD.encode(&token);
        for (text, expected) in [
            (format!("\"{token}\""), "remove the quotes"),
            (format!("'{token}'\n"), "remove the quotes"),
            (format!("Bearer {token}"), "remove the prefix"),
            (
                format!("Authorization: Bearer {token}"),
                "remove the prefix",
            ),
            (format!("{{\"token\":\"{token}\"}}"), "is JSON"),
            (format!("\u{feff}{token}"), "byte order mark"),
            (twice, "encoded in base64 once more"),
            (format!("{token}\n{token}"), "one line"),
            (token.replace('.', ""), "may be cut off"),
            (token[..token.len() - 9].to_owned(), "may be cut off"),
            ("-----BEGIN PRIVATE KEY-----\nabc\n".to_owned(), "PEM"),
            (" \n".to_owned(), "write the token to the file"),
            (String::new(), "write the token to the file"),
        ] {
            let (checks, parsed) = content(text.as_bytes());
            assert!(parsed.is_none(), "{expected}");
            let last = checks.last().unwrap();
            assert_eq!((last.name, last.status), ("token format", Status::Failed));
            let shown = format!("{checks:?}");
            assert!(shown.contains(expected), "{expected}: {shown}");
            for part in token.split('.') {
                assert!(!shown.contains(part), "{shown}");
            }
        }
    }

    #[test]
    fn a_missing_file_is_reported_with_what_its_directory_contains() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("gke-sa2"), "").unwrap();
        let found = |path: PathBuf| check_blocking(&path).0.remove(0).found;
        let missing = found(folder.path().join("a/b"));
        let expected = format!("{} contains \"gke-sa2\"", folder.path().display());
        assert!(missing.contains(&expected), "{missing}");
        let directory = found(folder.path().to_owned());
        assert!(
            directory.contains("is a directory that contains \"gke-sa2\""),
            "{directory}"
        );
        fs::write(folder.path().join("big"), vec![b'a'; 70_000]).unwrap();
        let big = found(folder.path().join("big"));
        assert!(big.contains("more than 65536 bytes"), "{big}");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("/nowhere", folder.path().join("link")).unwrap();
            let link = found(folder.path().join("link"));
            assert!(link.contains("symbolic link to /nowhere"), "{link}");
            let device = found(PathBuf::from("/dev/null"));
            assert!(
                device.contains("neither a file nor a directory"),
                "{device}"
            );
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_volume_of_kubernetes_is_distinguished_from_a_plain_file_and_a_mount_point() {
        let folder = tempfile::tempdir().unwrap();
        let kubelet = reqwest_wi_auth::testing::Kubelet::new(folder.path()).unwrap();
        kubelet.write([("nested/token", "a")]).unwrap();
        let volume = check_mount(&kubelet.path("nested/token"));
        assert!(
            volume.found.contains("a volume of Kubernetes"),
            "{volume:?}"
        );
        let other = tempfile::tempdir().unwrap();
        let plain = other.path().join("plain");
        fs::write(&plain, "").unwrap();
        assert!(check_mount(&plain).found.contains("a plain file"));
        #[cfg(target_os = "linux")]
        assert!(check_mount(Path::new("/proc")).is_failed());
    }
}
