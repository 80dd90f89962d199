//! Keys in a file that is followed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest_wi_auth::{Changes, WatchedFile};
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
}

impl KeyFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: OnceCell::new(),
        }
    }

    pub(super) async fn load(&self, trust: &Trust) -> Result<Loaded, KeysError> {
        let failed = |error: &dyn std::error::Error| KeysError::File {
            path: self.path.clone(),
            reason: chain(error),
        };
        let content = match self.file.get() {
            Some(file) => file.reread().await,
            None => {
                let open = || open(&self.path, *trust);
                let file = self.file.get_or_try_init(open).await;
                file.map(WatchedFile::current)
            }
        };
        let content = content.map_err(|error| failed(&error))?;
        let name = self.path.display().to_string();
        let loaded = trust.read(&name, &content)?;
        Ok(Loaded {
            max_age: Some(LOOK_AGAIN),
            ..loaded
        })
    }

    pub(super) fn changes(&self) -> Option<Changes<Vec<u8>>> {
        self.file.get().map(WatchedFile::subscribe)
    }
}

/// Content that holds no key is not taken: the last good one stays.
async fn open(
    path: &Path,
    trust: Trust,
) -> Result<WatchedFile<Vec<u8>>, reqwest_wi_auth::FileError> {
    let sound = move |content: &[u8]| match trust.read("it", content) {
        Ok(_) => Ok(content.to_vec()),
        Err(error) => Err(error.into()),
    };
    WatchedFile::builder(path, sound)
        .startup_limit(STARTUP_LIMIT)
        .open()
        .await
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
