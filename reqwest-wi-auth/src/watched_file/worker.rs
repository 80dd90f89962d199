//! The task that follows one file.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use crate::background::TaskGuard;

/// So many reads are made at once within the interval; in a folder that is busier, reads lie apart.
const BURST: u32 = 16;
const BURST_INTERVAL: Duration = Duration::from_millis(100);
const PAUSE_AFTER_BURST: Duration = Duration::from_millis(2);

/// Starts the task on the current runtime, if none follows the file and there is a runtime. `is_read`: the file has just
/// been read.
pub(super) fn ensure_followed<T>(shared: &Arc<Shared<T>>, is_read: bool)
where
    T: PartialEq + Send + Sync + 'static,
{
    let task = |guard| follow(shared.clone(), guard, is_read);
    shared.background.ensure_running(task);
}

async fn follow<T>(shared: Arc<Shared<T>>, guard: TaskGuard, mut is_read: bool)
where
    T: PartialEq + Send + Sync + 'static,
{
    let limit = shared.timing.read_limit;
    let (mut burst, mut burst_began) = (0, Instant::now());
    loop {
        if is_read {
            let pause = shared.pause();
            if !guard.continues(pause) {
                return;
            }
            // A change and the end of the pause are both reasons to read.
            let _ = timeout(pause, shared.signal.changed()).await;
        }
        is_read = true;
        if !guard.continues(limit) {
            return;
        }
        shared.reader.read(limit).await;
        shared.report();
        if burst_began.elapsed() >= BURST_INTERVAL {
            (burst, burst_began) = (0, Instant::now());
        }
        burst += 1;
        if burst > BURST {
            sleep(PAUSE_AFTER_BURST).await;
        }
    }
}
