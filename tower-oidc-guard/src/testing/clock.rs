//! A time of day that follows tokio's time.

use std::time::SystemTime;

use tokio::time::Instant;

/// Returns a clock that shows `start` now and follows tokio's time, for [`OidcGuardBuilder::clock`](crate::OidcGuardBuilder::clock)
/// in tests that pause and advance it.
///
/// Each call of the returned function returns the time. For a complete test see [the module](crate::testing#time).
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use tower_oidc_guard::testing::tokio_clock;
///
/// # // In a test: #[tokio::test(start_paused = true)]
/// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
/// # runtime.block_on(async {
/// let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
/// let clock = tokio_clock(start);
/// assert_eq!(clock(), start);
/// tokio::time::advance(Duration::from_secs(600)).await;
/// assert_eq!(clock(), start + Duration::from_secs(600));
/// # });
/// ```
pub fn tokio_clock(start: SystemTime) -> impl Fn() -> SystemTime + Clone + Send + Sync + 'static {
    let began = Instant::now();
    move || start + began.elapsed()
}
