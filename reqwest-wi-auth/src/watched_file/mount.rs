//! Whether a file is mounted by itself, as a `subPath` mount is: then nothing ever replaces it.

use std::path::Path;

/// Whether the path itself is a mount point, as far as `/proc` tells.
pub(super) fn is_mount_point(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| names(&table, path))
}

/// Whether a table as in proc_pid_mountinfo(5) names the path as a mount point: its fifth field, with
/// blanks and backslashes as octal numbers.
fn names(table: &str, path: &Path) -> bool {
    let Some(path) = path.to_str() else {
        return false;
    };
    let escaped = path
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(&escaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
1021 1009 0:91 / /var/run/secrets/tokens ro,relatime - tmpfs tmpfs rw
1022 1009 0:92 /..2026_11_23/token /etc/token ro,relatime - tmpfs tmpfs rw
1023 1009 0:92 /a /etc/with\\040blank ro,relatime - tmpfs tmpfs rw
";

    #[test]
    fn a_file_that_is_mounted_by_itself_is_told_from_one_in_a_volume() {
        assert!(names(TABLE, Path::new("/etc/token")));
        assert!(names(TABLE, Path::new("/etc/with blank")));
        assert!(!names(TABLE, Path::new("/var/run/secrets/tokens/token")));
        assert!(!names(TABLE, Path::new("/etc")));
    }
}
