//! The directories whose entries decide which file a path leads to.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::file_system as fs;

/// The number of symbolic links on one path above which they are assumed to form a cycle (Linux has the same limit).
const MAX_LINKS: usize = 40;

/// A directory that a path leads through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    id: DirectoryId,
    /// The entries of the directory that the path leads through.
    pub(super) entries: Vec<OsString>,
}

/// Distinguishes directories of the same name: device and inode, on systems that have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DirectoryId(u64, u64);

/// Returns the directory of each symbolic link on an absolute path, and the directory of the file itself. If an entry of
/// the path is missing, the directory in which it is missing is the last one.
///
/// For a projected token, these are the root of the volume, where `..data` is swapped, and the directory that `..data`
/// points to, however deep below the root the token is.
pub(super) fn directories_on_path(path: &Path) -> BTreeMap<PathBuf, Directory> {
    let mut directories = BTreeMap::new();
    let mut current = PathBuf::new();
    let mut rest: VecDeque<OsString> = components(path);
    let mut links = 0;
    while let Some(component) = rest.pop_front() {
        if component == ".." {
            current.pop();
            continue;
        }
        let next = current.join(&component);
        let Ok(metadata) = fs::symlink_metadata(&next) else {
            add_entry(&mut directories, &current, component);
            break;
        };
        if metadata.is_symlink() && links < MAX_LINKS {
            links += 1;
            add_entry(&mut directories, &current, component);
            let Ok(target) = fs::read_link(&next) else {
                break;
            };
            for component in components(&target).into_iter().rev() {
                rest.push_front(component);
            }
        } else if rest.is_empty() {
            add_entry(&mut directories, &current, component);
        } else {
            current = next;
        }
    }
    directories
}

/// Returns the components of a path. A root directory is one of them, and replaces the path that it is joined to.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

/// Adds an entry to those of a directory. Does nothing if the directory does not exist.
fn add_entry(directories: &mut BTreeMap<PathBuf, Directory>, path: &Path, entry: OsString) {
    if let Some(known) = directories.get_mut(path) {
        known.entries.push(entry);
    } else if let Ok(metadata) = fs::metadata(path) {
        let directory = Directory {
            id: directory_id(&metadata),
            entries: vec![entry],
        };
        directories.insert(path.to_owned(), directory);
    }
}

#[cfg(unix)]
fn directory_id(metadata: &fs::Metadata) -> DirectoryId {
    #[cfg(not(test))]
    use std::os::unix::fs::MetadataExt as _;
    DirectoryId(metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn directory_id(_: &fs::Metadata) -> DirectoryId {
    DirectoryId(0, 0)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<PathBuf> {
        directories_on_path(path).into_keys().collect()
    }

    fn volume() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("..1/nested/dir")).unwrap();
        fs::write(root.join("..1/token"), "t").unwrap();
        fs::write(root.join("..1/nested/dir/token"), "t").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/token", root.join("token")).unwrap();
        symlink("..data/nested", root.join("nested")).unwrap();
        (directory, root)
    }

    #[test]
    fn a_projected_token_depends_on_the_volume_root_and_the_data_directory() {
        let (_directory, root) = volume();
        assert_eq!(names(&root.join("token")), [root.clone(), root.join("..1")]);
    }

    #[test]
    fn each_directory_lists_the_entries_on_the_path() {
        let (_directory, root) = volume();
        let directories = directories_on_path(&root.join("token"));
        assert_eq!(directories[&root].entries, ["token", "..data"]);
        assert_eq!(directories[&root.join("..1")].entries, ["token"]);
    }

    #[test]
    fn a_nested_token_depends_on_the_volume_root_above_it() {
        let (_directory, root) = volume();
        let expected = [root.clone(), root.join("..1/nested/dir")];
        assert_eq!(names(&root.join("nested/dir/token")), expected);
    }

    #[test]
    fn a_missing_file_depends_on_the_directory_of_the_missing_entry() {
        let (_directory, root) = volume();
        assert_eq!(names(&root.join("missing")), std::slice::from_ref(&root));
        assert_eq!(
            names(&root.join("missing/deeper/token")),
            std::slice::from_ref(&root)
        );
    }

    #[test]
    fn a_cycle_of_symbolic_links_terminates() {
        let (_directory, root) = volume();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(names(&root.join("a")), [root]);
    }

    #[test]
    fn a_recreated_directory_is_a_different_directory() {
        let (_directory, root) = volume();
        let sub = root.join("sub");
        fs::create_dir(&sub).unwrap();
        let before = directories_on_path(&sub.join("file"));
        fs::rename(&sub, root.join("old")).unwrap();
        fs::create_dir(&sub).unwrap();
        assert_ne!(directories_on_path(&sub.join("file")), before);
    }
}
