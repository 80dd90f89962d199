//! What a user can bring to the following of a file.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::ParseError;

/// Makes a value of the content.
pub(super) type Parse<T> = Arc<dyn Fn(&[u8]) -> Result<T, ParseError> + Send + Sync>;
/// Reads the file.
pub(super) type Read = Arc<dyn Fn(&Path) -> io::Result<Vec<u8>> + Send + Sync>;
/// When a value wants the file to be read, told the time.
pub(super) type Renewal<T> = Arc<dyn Fn(&T, SystemTime) -> Option<SystemTime> + Send + Sync>;
/// Tells the time of day.
pub(super) type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;
/// Says why a new value may not replace the current one, if it may not.
pub(super) type Replace<T> = Arc<dyn Fn(&T, &T) -> Result<(), ParseError> + Send + Sync>;
