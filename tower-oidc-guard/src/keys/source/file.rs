//! Keys in a file that is followed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest_wi_auth::{FileError, WatchedFile};
use tokio::sync::OnceCell;

use super::{Loaded, Trust};
use crate::keys::error::KeysError;

/// The file is looked at again after so long though nobody reports a change, and an error is told.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The first look waits so long for sound content.
const STARTUP_LIMIT: Duration = Duration::from_secs(2);

/// A file of keys: a JSON Web Key Set, or PEM.
pub(crate) struct KeyFile {
    path: PathBuf,
    /// Followed from the first look on.
    file: OnceCell<WatchedFile<Vec<u8>>>,
    /// What was read of it last.
    loaded: Mutex<Option<Arc<Vec<u8>>>>,
}

impl KeyFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: OnceCell::new(),
            loaded: Mutex::default(),
        }
    }

    pub(super) async fn load(&self, trust: &Trust) -> Result<Loaded, KeysError> {
        // The text of such an error holds that of its cause.
        let failed = |error: FileError| KeysError::File {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let content = match self.file.get() {
            Some(file) => file.reread().await,
            None => {
                let open = || open(&self.path, *trust);
                let file = self.file.get_or_try_init(open).await;
                file.map(WatchedFile::current)
            }
        };
        let content = content.map_err(failed)?;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(content.clone());
        let name = self.path.display().to_string();
        let loaded = trust.read_set(&name, &content)?;
        Ok(Loaded {
            max_age: Some(LOOK_AGAIN),
            ..loaded
        })
    }

    /// Ends when the file holds something other than what was read of it last. Does not hold on to the file.
    pub(super) fn changes(&self) -> impl Future<Output = ()> + Send + use<> {
        let file = self.file.get();
        let changes = file.map(WatchedFile::subscribe);
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = file.is_some_and(|file| loaded.as_ref() != Some(&file.current()));
        async move {
            let changed = match changes {
                Some(mut changes) => is_new || changes.next().await.is_some(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Malformed content is not used: the last good one stays. A set without keys is good, since an operator may withdraw
/// all of them.
async fn open(path: &Path, trust: Trust) -> Result<WatchedFile<Vec<u8>>, FileError> {
    let sound = move |content: &[u8]| match trust.read_set("it", content) {
        Ok(_) => Ok(content.to_vec()),
        Err(error) => Err(error.into()),
    };
    WatchedFile::builder(path, sound)
        .startup_limit(STARTUP_LIMIT)
        .open()
        .await
}
