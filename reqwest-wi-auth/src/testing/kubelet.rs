//! A fake of the part of the kubelet that writes projected volumes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// A fake kubelet, which writes a projected volume as the real one does: a directory named after the current time, `..data`
/// as a symbolic link to it that is replaced by a rename, and a symbolic link to each file beside it.
///
/// It does nothing by itself: each rotation is a call of [`rotate`](Self::rotate) or [`write`](Self::write).
///
/// # Differences from the real kubelet
///
/// The volumes are compared with recorded listings of real ones, with flat and nested paths, in the tests of this crate,
/// and have the same modes. The real kubelet sets the owner of a file shortly after the rename, so the file can be
/// unreadable for some milliseconds ([`set_mode`](Self::set_mode) can imitate that), and touches the directories every 60
/// to 90 s.
#[derive(Debug)]
pub struct Kubelet {
    volume: PathBuf,
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
}

impl Kubelet {
    /// Creates the directory of the volume, if it does not exist. It is empty until [`write`](Self::write) is called.
    ///
    /// # Errors
    ///
    /// Returns an error if the directory cannot be created.
    pub fn new(volume: impl Into<PathBuf>) -> io::Result<Self> {
        let volume = volume.into();
        fs::create_dir_all(&volume)?;
        set_mode(&volume, 0o1777)?;
        Ok(Self {
            volume,
            files: Mutex::default(),
        })
    }

    /// Returns the path of a file in the volume.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.volume.join(name)
    }

    /// Replaces all files of the volume at once. The names may contain directories.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be written. The previous files stay, unless they were already replaced.
    pub fn write<N: AsRef<Path>, B: AsRef<[u8]>>(
        &self,
        files: impl IntoIterator<Item = (N, B)>,
    ) -> io::Result<()> {
        let owned = |(name, bytes): (N, B)| (name.as_ref().to_owned(), bytes.as_ref().to_vec());
        let mut current = self.files();
        let files = files.into_iter().map(owned).collect();
        self.replace_data(&files)?;
        *current = files;
        Ok(())
    }

    /// Replaces one file and keeps the others, at once.
    ///
    /// # Errors
    ///
    /// Returns an error if a file cannot be written. The previous files stay, unless they were already replaced.
    pub fn rotate(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut current = self.files();
        let mut files = current.clone();
        files.insert(name.as_ref().to_owned(), bytes.as_ref().to_vec());
        self.replace_data(&files)?;
        *current = files;
        Ok(())
    }

    /// Overwrites a file in place, which the real kubelet never does. For truncated or invalid content.
    ///
    /// # Errors
    ///
    /// Returns an error if the file does not exist or cannot be written.
    pub fn overwrite(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        fs::write(fs::canonicalize(self.path(name))?, bytes)
    }

    /// Sets the mode of a file. Mode 0 imitates the moment after a rotation in which a file of a volume with `fsGroup`
    /// cannot be read yet. The superuser can read it nevertheless.
    ///
    /// # Errors
    ///
    /// Returns an error if the file does not exist.
    pub fn set_mode(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        set_mode(&self.path(name), mode)
    }

    /// Removes the content of the volume: `..data` and the directory that it points to.
    ///
    /// # Errors
    ///
    /// Returns an error if the volume is empty, or the content cannot be removed.
    pub fn remove_content(&self) -> io::Result<()> {
        let data = self.volume.join(DATA);
        let directory = self.volume.join(fs::read_link(&data)?);
        fs::remove_file(data)?;
        fs::remove_dir_all(directory)
    }

    /// Removes the directory of the volume, and creates it again, empty.
    ///
    /// # Errors
    ///
    /// Returns an error if it cannot be removed or created.
    pub fn recreate(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.volume)?;
        fs::create_dir(&self.volume)?;
        set_mode(&self.volume, 0o1777)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the files in the order of the real kubelet: creates the new directory and a symbolic link to it, renames
    /// the link to `..data`, creates the links to the files, and removes the old directory.
    fn replace_data(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
        let data = self.volume.join(DATA);
        let old = fs::read_link(&data).ok();
        let new = self.create_directory()?;
        for (name, bytes) in files {
            let path = self.volume.join(&new).join(name);
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory)?;
            }
            fs::write(&path, bytes)?;
            set_mode(&path, 0o644)?;
        }
        let new_data = self.volume.join(NEW_DATA);
        symlink(&new, &new_data)?;
        fs::rename(&new_data, &data)?;
        self.link_files(files)?;
        if let Some(old) = old {
            fs::remove_dir_all(self.volume.join(old))?;
        }
        Ok(())
    }

    /// Creates a directory with a new name, and returns the name.
    fn create_directory(&self) -> io::Result<PathBuf> {
        let prefix = timestamp_prefix(SystemTime::now());
        loop {
            let name = PathBuf::from(format!("{prefix}{}", fastrand::u32(..)));
            match fs::create_dir(self.volume.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => {
                    created?;
                    set_mode(&self.volume.join(&name), 0o755)?;
                    return Ok(name);
                }
            }
        }
    }

    /// Creates a link for the first component of each name, and removes the links to files that no longer exist.
    fn link_files(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
        let links: Vec<_> = files.keys().filter_map(|name| name.iter().next()).collect();
        for entry in fs::read_dir(&self.volume)? {
            let name = entry?.file_name();
            let is_data = name.as_encoded_bytes().starts_with(b"..");
            if !is_data && !links.contains(&name.as_os_str()) {
                fs::remove_file(self.volume.join(&name))?;
            }
        }
        for name in links {
            match symlink(Path::new(DATA).join(name), self.volume.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Returns the start of the name of a directory: `..YYYY_MM_DD_hh_mm_ss.` in UTC. A random number follows.
fn timestamp_prefix(time: SystemTime) -> String {
    let since_epoch = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let (days, seconds) = (
        since_epoch.as_secs() / 86_400,
        since_epoch.as_secs() % 86_400,
    );
    let (year, month, day) = date_from_days(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("..{year}_{month:02}_{day:02}_{hour:02}_{minute:02}_{second:02}.")
}

/// Returns the year, month and day of a number of days since 1970-01-01.
fn date_from_days(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_named_after_the_time_in_utc() {
        for (seconds, expected) in [
            (0, "..1970_01_01_00_00_00."),
            (951_827_696, "..2000_02_29_12_34_56."),
            (1_795_463_091, "..2026_11_23_19_44_51."),
            (1_798_761_599, "..2026_12_31_23_59_59."),
        ] {
            assert_eq!(
                timestamp_prefix(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
                expected
            );
        }
    }
}
