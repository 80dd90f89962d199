//! A kubelet that writes a projected volume.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::timestamp;
use crate::random;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Writes a projected volume as the kubelet does: a folder named by the time, `..data` swapped to it by a
/// rename, a link to each file beside it, with the modes that real volumes have.
///
/// Its volumes are held against recorded listings of volumes of real Kubernetes, flat and nested, by this crate's
/// `tests/kubelet.rs`. The real kubelet sets a file's owner a moment after the rename, so the file can be unreadable until
/// then ([`set_mode`](Self::set_mode) imitates it), and touches the folders every 60 to 90 s.
///
/// It does nothing of its own accord: each rotation is a call.
#[derive(Debug)]
pub struct Kubelet {
    volume: PathBuf,
    files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
}

impl Kubelet {
    /// Makes the volume's folder, if it is not there; it stays empty until something is
    /// [written](Self::write).
    ///
    /// # Errors
    ///
    /// If the folder cannot be made.
    pub fn new(volume: impl Into<PathBuf>) -> io::Result<Self> {
        let volume = volume.into();
        fs::create_dir_all(&volume)?;
        set_mode(&volume, 0o1777)?;
        Ok(Self {
            volume,
            files: Mutex::default(),
        })
    }

    /// The path of a file in the volume.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.volume.join(name)
    }

    /// Replaces all files of the volume in one atomic swap. Names may have folders in them.
    ///
    /// # Errors
    ///
    /// If something cannot be written; what was there before is there still, unless the swap was done.
    pub fn write<N: AsRef<Path>, B: AsRef<[u8]>>(
        &self,
        files: impl IntoIterator<Item = (N, B)>,
    ) -> io::Result<()> {
        let owned = |(name, bytes): (N, B)| (name.as_ref().to_owned(), bytes.as_ref().to_vec());
        let mut current = self.files();
        let files = files.into_iter().map(owned).collect();
        self.swap(&files)?;
        *current = files;
        Ok(())
    }

    /// Replaces one file and leaves the others as they are, in one atomic swap of them all.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn rotate(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let mut current = self.files();
        let mut files = current.clone();
        files.insert(name.as_ref().to_owned(), bytes.as_ref().to_vec());
        self.swap(&files)?;
        *current = files;
        Ok(())
    }

    /// Writes to a file in place, as no kubelet does: for content that is cut off, or is no token.
    ///
    /// # Errors
    ///
    /// If the file is not there, or cannot be written.
    pub fn spoil(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        fs::write(fs::canonicalize(self.path(name))?, bytes)
    }

    /// Changes a file's mode: 0 for the moment after a rotation in which a volume with `fsGroup` may not
    /// be read yet. The superuser reads it all the same.
    ///
    /// # Errors
    ///
    /// If the file is not there.
    pub fn set_mode(&self, name: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        set_mode(&self.path(name), mode)
    }

    /// Takes the volume's content away, as at an unmount: `..data` and what it leads to.
    ///
    /// # Errors
    ///
    /// If there is nothing, or it cannot be removed.
    pub fn vanish(&self) -> io::Result<()> {
        let data = self.volume.join(DATA);
        let folder = self.volume.join(fs::read_link(&data)?);
        fs::remove_file(data)?;
        fs::remove_dir_all(folder)
    }

    /// Removes the volume's folder itself and makes it anew, empty.
    ///
    /// # Errors
    ///
    /// If that is not possible.
    pub fn remount(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.volume)?;
        fs::create_dir(&self.volume)?;
        set_mode(&self.volume, 0o1777)
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<u8>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The kubelet's order: the new folder, the link to it, the rename, the links beside, the old folder.
    fn swap(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
        let data = self.volume.join(DATA);
        let old = fs::read_link(&data).ok();
        let new = self.make_folder()?;
        for (name, bytes) in files {
            let path = self.volume.join(&new).join(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, bytes)?;
            set_mode(&path, 0o644)?;
        }
        let new_data = self.volume.join(NEW_DATA);
        symlink(&new, &new_data)?;
        fs::rename(&new_data, &data)?;
        self.link(files)?;
        if let Some(old) = old {
            fs::remove_dir_all(self.volume.join(old))?;
        }
        Ok(())
    }

    /// A folder that no earlier one was named like.
    fn make_folder(&self) -> io::Result<PathBuf> {
        let prefix = timestamp::prefix(SystemTime::now());
        loop {
            let name = PathBuf::from(format!("{prefix}{}", (random::fraction() * 4e9) as u32));
            match fs::create_dir(self.volume.join(&name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made?;
                    set_mode(&self.volume.join(&name), 0o755)?;
                    return Ok(name);
                }
            }
        }
    }

    /// Links the first part of each name, once, and removes the links that lead nowhere now.
    fn link(&self, files: &BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
        let wanted: Vec<_> = files.keys().filter_map(|name| name.iter().next()).collect();
        for entry in fs::read_dir(&self.volume)? {
            let name = entry?.file_name();
            let is_ours = name.as_encoded_bytes().starts_with(b"..");
            if !is_ours && !wanted.contains(&name.as_os_str()) {
                fs::remove_file(self.volume.join(&name))?;
            }
        }
        for name in wanted {
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
