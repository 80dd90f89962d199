//! Keys in a watched file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest_wi_auth::{FileError, WatchedFile};
use tokio::sync::OnceCell;

use super::{KeyRules, LoadedKeys};
use crate::keys::error::KeysError;
use crate::keys::location::KeyLocation;

/// How often the file is read again without a change notification.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);

/// How long the first read waits for valid content.
const STARTUP_LIMIT: Duration = Duration::from_secs(2);

/// A file of keys: a JSON Web Key Set, or PEM.
pub(crate) struct KeyFile {
    path: PathBuf,
    rules: KeyRules,
    /// Watched from the first load on.
    file: OnceCell<WatchedFile<Vec<u8>>>,
    /// The content that was loaded last.
    loaded: Mutex<Option<Arc<Vec<u8>>>>,
}

impl KeyFile {
    pub(crate) fn new(path: PathBuf, rules: KeyRules) -> Self {
        Self {
            path,
            rules,
            file: OnceCell::new(),
            loaded: Mutex::default(),
        }
    }

    pub(super) async fn load(&self) -> Result<LoadedKeys, KeysError> {
        // The text of a `FileError` names the path and includes the text of its cause.
        let failed = |error: FileError| KeysError::File {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let content = match self.file.get() {
            Some(file) => file.reread().await,
            None => {
                let file = self.file.get_or_try_init(|| self.open()).await;
                file.map(WatchedFile::current)
            }
        };
        let content = content.map_err(failed)?;
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(content.clone());
        let loaded = self.rules.parse(self.location(), &content)?;
        Ok(LoadedKeys {
            max_age: Some(REREAD_INTERVAL),
            ..loaded
        })
    }

    /// Completes when the file contains something other than what was loaded last. The future does not borrow the source.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let file = self.file.get();
        let changes = file.map(WatchedFile::subscribe);
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = file.is_some_and(|file| loaded.as_ref() != Some(&file.current()));
        async move {
            let has_changed = match changes {
                Some(mut changes) => is_new || changes.next().await.is_some(),
                None => false,
            };
            if !has_changed {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Opens the file. Malformed content does not replace the current one. A key set without keys does, because an
    /// operator may withdraw all of them.
    async fn open(&self) -> Result<WatchedFile<Vec<u8>>, FileError> {
        let (rules, path) = (self.rules, self.path.clone());
        let parse = move |content: &[u8]| {
            let location = KeyLocation::File(path.clone());
            match rules.parse(location, content) {
                Ok(_) => Ok(content.to_vec()),
                // The error of the watched file names the path.
                Err(KeysError::InvalidKeySet { reason, .. }) => Err(reason.into()),
                Err(error) => Err(error.into()),
            }
        };
        WatchedFile::builder(&self.path, parse)
            .startup_limit(STARTUP_LIMIT)
            .open()
            .await
    }

    fn location(&self) -> KeyLocation {
        KeyLocation::File(self.path.clone())
    }
}
