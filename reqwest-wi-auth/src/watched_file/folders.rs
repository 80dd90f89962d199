//! The folders whose entries decide which file a path leads to.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// More symbolic links than this on one path lead in a circle (Linux has the same limit).
const MAX_LINKS: usize = 40;

/// A folder on the way of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folder {
    id: FolderId,
    /// The entries that the path goes through.
    pub(super) entries: Vec<OsString>,
}

/// Tells folders of the same name apart: device and inode, on systems that have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FolderId(u64, u64);

/// Returns the folder of each symbolic link on the way of an absolute path, and the folder of the file itself. If the way
/// ends early, the folder in which its next entry is missing.
///
/// For a projected token that is the volume's root, where `..data` is swapped, however deep below it the
/// token lies, and the folder that `..data` leads to.
pub(super) fn on_the_way(path: &Path) -> BTreeMap<PathBuf, Folder> {
    let mut folders = BTreeMap::new();
    let mut here = PathBuf::new();
    let mut rest: VecDeque<OsString> = parts(path);
    let mut links = 0;
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        let Ok(metadata) = fs::symlink_metadata(&next) else {
            note(&mut folders, &here, part);
            break;
        };
        if metadata.is_symlink() && links < MAX_LINKS {
            links += 1;
            note(&mut folders, &here, part);
            let Ok(target) = fs::read_link(&next) else {
                break;
            };
            for part in parts(&target).into_iter().rev() {
                rest.push_front(part);
            }
        } else if rest.is_empty() {
            note(&mut folders, &here, part);
        } else {
            here = next;
        }
    }
    folders
}

/// The parts of a path; a root replaces what it is joined to.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter(|component| *component != Component::CurDir)
        .map(|component| component.as_os_str().to_owned())
        .collect()
}

fn note(folders: &mut BTreeMap<PathBuf, Folder>, folder: &Path, entry: OsString) {
    if let Some(known) = folders.get_mut(folder) {
        known.entries.push(entry);
    } else if let Ok(metadata) = fs::metadata(folder) {
        let folder_on_the_way = Folder {
            id: id(&metadata),
            entries: vec![entry],
        };
        folders.insert(folder.to_owned(), folder_on_the_way);
    }
}

#[cfg(unix)]
fn id(metadata: &fs::Metadata) -> FolderId {
    use std::os::unix::fs::MetadataExt as _;
    FolderId(metadata.dev(), metadata.ino())
}

#[cfg(not(unix))]
fn id(_: &fs::Metadata) -> FolderId {
    FolderId(0, 0)
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<PathBuf> {
        on_the_way(path).into_keys().collect()
    }

    fn volume() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("..1/nested/dir")).unwrap();
        fs::write(root.join("..1/token"), "t").unwrap();
        fs::write(root.join("..1/nested/dir/token"), "t").unwrap();
        symlink("..1", root.join("..data")).unwrap();
        symlink("..data/token", root.join("token")).unwrap();
        symlink("..data/nested", root.join("nested")).unwrap();
        (folder, root)
    }

    #[test]
    fn a_projected_token_depends_on_the_volume_s_root_and_the_folder_behind() {
        let (_folder, root) = volume();
        assert_eq!(names(&root.join("token")), [root.clone(), root.join("..1")]);
    }

    #[test]
    fn each_folder_knows_the_entries_that_the_path_goes_through() {
        let (_folder, root) = volume();
        let folders = on_the_way(&root.join("token"));
        assert_eq!(folders[&root].entries, ["token", "..data"]);
        assert_eq!(folders[&root.join("..1")].entries, ["token"]);
    }

    #[test]
    fn a_nested_token_depends_on_the_volume_s_root_folders_above_it() {
        let (_folder, root) = volume();
        let expected = [root.clone(), root.join("..1/nested/dir")];
        assert_eq!(names(&root.join("nested/dir/token")), expected);
    }

    #[test]
    fn a_missing_file_depends_on_the_folder_where_the_way_ends() {
        let (_folder, root) = volume();
        assert_eq!(names(&root.join("missing")), std::slice::from_ref(&root));
        assert_eq!(
            names(&root.join("missing/deeper/token")),
            std::slice::from_ref(&root)
        );
    }

    #[test]
    fn links_in_a_circle_come_to_an_end() {
        let (_folder, root) = volume();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(names(&root.join("a")), [root]);
    }

    #[test]
    fn a_folder_that_is_made_anew_is_another_one() {
        let (_folder, root) = volume();
        let sub = root.join("sub");
        fs::create_dir(&sub).unwrap();
        let before = on_the_way(&sub.join("file"));
        fs::rename(&sub, root.join("old")).unwrap();
        fs::create_dir(&sub).unwrap();
        assert_ne!(on_the_way(&sub.join("file")), before);
    }
}
