//! The fake kubelet writes the same volumes as the real one.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use reqwest_wi_auth::testing::Kubelet;

/// Adds a line for each entry below a directory: its mode, its path, and the target of a link.
fn layout(root: &Path, below: &Path, lines: &mut Vec<String>) {
    let mut entries: Vec<_> = fs::read_dir(root.join(below))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        let metadata = fs::symlink_metadata(root.join(&path)).unwrap();
        let target = fs::read_link(root.join(&path));
        let target = target.map_or(String::new(), |target| format!(" -> {}", target.display()));
        lines.push(format!(
            "{} {}{target}",
            mode(metadata.mode()),
            path.display()
        ));
        if metadata.is_dir() {
            layout(root, &path, lines);
        }
    }
}

/// Returns a mode in the format of `ls`.
fn mode(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        _ => '-',
    };
    let mut text = String::from(kind);
    for shift in [6, 3, 0] {
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if mode >> shift & bit != 0 {
                letter
            } else {
                '-'
            });
        }
    }
    if mode & 0o1000 != 0 {
        text.pop();
        text.push('t');
    }
    text
}

/// Returns the lines of [`layout`] for a recorded output of `ls -lanR`.
fn recorded_layout(listing: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut below = String::new();
    for line in listing.lines() {
        if let Some(directory) = line
            .strip_prefix('.')
            .and_then(|line| line.strip_suffix(':'))
        {
            below = directory.trim_start_matches('/').to_owned();
        }
        let fields: Vec<_> = line.split_whitespace().collect();
        let [mode, _, _, _, _, _, _, _, name, link @ ..] = &fields[..] else {
            continue;
        };
        if ["."].contains(name) || *name == ".." {
            continue;
        }
        let path = Path::new(&below).join(name);
        let target = if link.is_empty() {
            String::new()
        } else {
            format!(" {}", link.join(" "))
        };
        lines.push(format!("{mode} {}{target}", path.display()));
    }
    lines
}

/// Replaces each digit in the names of timestamp directories by `9`, and the random number by a single `9`.
fn without_times(lines: Vec<String>) -> Vec<String> {
    let mut lines: Vec<_> = lines.into_iter().map(|line| without_time(&line)).collect();
    lines.sort();
    lines
}

fn without_time(line: &str) -> String {
    let mut result = String::new();
    for (index, part) in line.split("..2").enumerate() {
        if index == 0 {
            result.push_str(part);
            continue;
        }
        let end = part
            .find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.')
            .unwrap_or(part.len());
        let (time, rest) = part.split_at(end);
        let (date, random) = time.split_once('.').expect("a random number");
        assert!(!random.is_empty());
        let date: String = date
            .chars()
            .map(|c| if c.is_ascii_digit() { '9' } else { c })
            .collect();
        result.push_str(&format!("..9{date}.9{rest}"));
    }
    result
}

#[test]
fn the_layout_of_a_volume_is_the_recorded_one() {
    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path()).unwrap();
    kubelet.write([("token", "first")]).unwrap();
    kubelet.rotate("token", "second").unwrap();
    let mut written = Vec::new();
    layout(directory.path(), Path::new(""), &mut written);
    let expected = recorded_layout(include_str!("../data/volume-layout.txt"));
    assert_eq!(expected.len(), 4, "{expected:?}");
    assert_eq!(without_times(written), without_times(expected));
    let root = fs::metadata(directory.path()).unwrap().permissions().mode() & 0o7777;
    assert_eq!(root, 0o1777, "recorded as drwxrwxrwt");
}

#[test]
fn the_layout_of_a_volume_with_nested_paths_is_the_recorded_one() {
    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path()).unwrap();
    let files = [
        "AUDIENCE",
        "TOKEN_PATH",
        "ca.crt",
        "labels/ns",
        "nested/dir/token",
    ];
    kubelet.write(files.map(|name| (name, name))).unwrap();
    let mut written = Vec::new();
    layout(directory.path(), Path::new(""), &mut written);
    let expected = recorded_layout(include_str!("../data/volume-layout-nested.txt"));
    assert_eq!(without_times(written), without_times(expected));
}

#[test]
fn a_rotation_replaces_all_files_and_keeps_their_links() {
    let directory = tempfile::tempdir().unwrap();
    let kubelet = Kubelet::new(directory.path()).unwrap();
    kubelet
        .write([("token", "first"), ("ca.crt", "same")])
        .unwrap();
    let link = fs::symlink_metadata(kubelet.path("token")).unwrap().ino();
    kubelet.rotate("token", "second").unwrap();
    assert_eq!(fs::read(kubelet.path("token")).unwrap(), b"second");
    assert_eq!(fs::read(kubelet.path("ca.crt")).unwrap(), b"same");
    assert_eq!(
        fs::symlink_metadata(kubelet.path("token")).unwrap().ino(),
        link
    );
    kubelet.write([("ca.crt", "other")]).unwrap();
    assert!(fs::symlink_metadata(kubelet.path("token")).is_err());
}
