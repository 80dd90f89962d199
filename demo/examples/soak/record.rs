//! The record of a run: the timeline, the answers, the failures, and how late the timers of this process are.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use demo::output::print_line;

/// The largest number of failures that are written in full. Further ones are only counted.
const MAX_WRITTEN_FAILURES: u64 = 200;
/// The interval at which the lateness of timers is measured.
const TIMER_INTERVAL: Duration = Duration::from_millis(100);
/// How long late timers are remembered: longer than any check takes that allows for them.
const REMEMBERED: Duration = Duration::from_secs(180);
/// How long a request with a key that the server does not have yet waits for it: from 4.75 s to 5 s, less the inaccuracy of timers. A
/// server then responds with 401.
const KEY_WAIT: Duration = Duration::from_millis(4700);
/// How long after the issuer began to sign with a new key a server may still fetch it, on a machine that is busy.
const KEY_FETCH_LIMIT: Duration = Duration::from_secs(30);

/// Collects what happens, for the report.
#[derive(Debug)]
pub(crate) struct Record {
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    timeline: File,
    /// The number of requests by kind.
    requests: BTreeMap<&'static str, u64>,
    /// The number of failures by kind.
    failures: BTreeMap<String, u64>,
    /// The number of steps, such as token rotations, by kind.
    steps: BTreeMap<&'static str, u64>,
    /// The longest time until a step took effect, by kind.
    delays: BTreeMap<&'static str, Duration>,
    written_failures: u64,
    lateness: Lateness,
    /// When the issuer began to sign with a key that it had not published before.
    new_key: Option<Instant>,
    /// The number of requests that waited for such a key in vain.
    waited_in_vain: u64,
}

/// How late the timers of this process are: by how much the machine delays it.
#[derive(Debug, Default)]
struct Lateness {
    timers: u64,
    over_100_ms: u64,
    longest: Duration,
    recent: VecDeque<(Instant, Duration)>,
}

/// A summary of [`Lateness`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimerLateness {
    /// The number of timers.
    pub(crate) timers: u64,
    /// How many of them were more than 100 ms late.
    pub(crate) over_100_ms: u64,
    /// The longest delay.
    pub(crate) longest: Duration,
}

impl Record {
    /// Creates a record that writes its timeline to a file.
    pub(crate) fn create(timeline: &Path) -> std::io::Result<Arc<Self>> {
        let inner = Inner {
            timeline: File::create(timeline)?,
            requests: BTreeMap::new(),
            failures: BTreeMap::new(),
            steps: BTreeMap::new(),
            delays: BTreeMap::new(),
            written_failures: 0,
            lateness: Lateness::default(),
            new_key: None,
            waited_in_vain: 0,
        };
        Ok(Arc::new(Self {
            started: Instant::now(),
            inner: Mutex::new(inner),
        }))
    }

    /// Writes an event to the timeline.
    pub(crate) fn event(&self, part: &str, text: &str) {
        let line = self.line(part, text);
        write(&mut self.inner(), &line);
    }

    /// Writes an event to the timeline, and prints it.
    pub(crate) fn announce(&self, part: &str, text: &str) {
        print(&self.line(part, text));
        self.event(part, text);
    }

    /// Counts a step, and writes it to the timeline.
    pub(crate) fn step(&self, kind: &'static str, part: &str, text: &str) {
        *self.inner().steps.entry(kind).or_default() += 1;
        self.event(part, text);
    }

    /// Counts a step that took effect after `delay`.
    pub(crate) fn step_took_effect(&self, kind: &'static str, delay: Duration) {
        let mut inner = self.inner();
        let longest = inner.delays.entry(kind).or_default();
        *longest = delay.max(*longest);
    }

    /// Counts a request of a kind, and a failure if the answer is not the expected one.
    pub(crate) fn request(&self, kind: &'static str, answer: Result<(), String>) {
        *self.inner().requests.entry(kind).or_default() += 1;
        if let Err(found) = answer {
            self.failure(kind, &found);
        }
    }

    /// Counts a failure. `kind` is what failed, and `found` the circumstances.
    pub(crate) fn failure(&self, kind: &str, found: &str) {
        let mut inner = self.inner();
        *inner.failures.entry(kind.to_owned()).or_default() += 1;
        inner.written_failures += 1;
        let written = inner.written_failures;
        let line = if written <= MAX_WRITTEN_FAILURES {
            self.line("FAILURE", &format!("{kind}: {found}"))
        } else if written == MAX_WRITTEN_FAILURES + 1 {
            let text = "further failures are only counted; the report has their numbers";
            self.line("FAILURE", text)
        } else {
            return;
        };
        write(&mut inner, &line);
        drop(inner);
        print(&line);
    }

    /// Records that the issuer begins to sign with a key that it has not published before.
    pub(crate) fn new_key(&self) {
        self.inner().new_key = Some(Instant::now());
    }

    /// Returns whether a status is what a request gets that has waited for a new key for as long as a server allows. On a machine that is
    /// busy, the fetch may take longer than that, although the issuer answers at once. Such requests are counted, but are no failures.
    pub(crate) fn has_waited_for_new_key(&self, status: u16, elapsed: Duration) -> bool {
        let mut inner = self.inner();
        let is_new = inner
            .new_key
            .is_some_and(|since| since.elapsed() < KEY_FETCH_LIMIT);
        let has_waited = is_new && status == 401 && elapsed >= KEY_WAIT;
        inner.waited_in_vain += u64::from(has_waited);
        has_waited
    }

    /// Returns the number of requests that waited for a new key for as long as a server allows.
    pub(crate) fn waited_in_vain(&self) -> u64 {
        self.inner().waited_in_vain
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the number of requests by kind.
    pub(crate) fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.inner().requests.clone()
    }

    /// Returns the number of failures by kind.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        self.inner().failures.clone()
    }

    /// Returns the number of steps by kind.
    pub(crate) fn steps(&self) -> BTreeMap<&'static str, u64> {
        self.inner().steps.clone()
    }

    /// Returns the longest time until a step took effect, by kind.
    pub(crate) fn delays(&self) -> BTreeMap<&'static str, Duration> {
        self.inner().delays.clone()
    }

    /// Measures how late timers are. Never completes.
    pub(crate) async fn measure_lateness(self: Arc<Self>) {
        loop {
            let due = Instant::now() + TIMER_INTERVAL;
            tokio::time::sleep_until(due.into()).await;
            let now = Instant::now();
            let late = now.saturating_duration_since(due);
            let lateness = &mut self.inner().lateness;
            lateness.timers += 1;
            lateness.longest = lateness.longest.max(late);
            if late > TIMER_INTERVAL {
                lateness.over_100_ms += 1;
                lateness.recent.push_back((now, late));
            }
            let is_old = |&(at, _): &(Instant, Duration)| now.duration_since(at) > REMEMBERED;
            while lateness.recent.front().is_some_and(is_old) {
                lateness.recent.pop_front();
            }
        }
    }

    /// Returns by how much timers of this process were late in all since a time. A check that must be passed within a time limit
    /// allows for that, because the programs are delayed as well.
    pub(crate) fn late_since(&self, since: Instant) -> Duration {
        let inner = self.inner();
        let recent = inner.lateness.recent.iter();
        recent
            .filter(|(at, _)| *at >= since)
            .map(|(_, late)| *late)
            .sum()
    }

    /// Returns how late timers were.
    pub(crate) fn lateness(&self) -> TimerLateness {
        let lateness = &self.inner().lateness;
        TimerLateness {
            timers: lateness.timers,
            over_100_ms: lateness.over_100_ms,
            longest: lateness.longest,
        }
    }

    fn line(&self, part: &str, text: &str) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        format!("{seconds:7.1} s  {part:<11}  {text}")
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints a line, except in the tests of this program, in whose output a failure would be misleading.
fn print(line: &str) {
    if !cfg!(test) {
        print_line(line);
    }
}

/// Writes a line. A full disk is no reason to end the run: the report is printed anyway.
fn write(inner: &mut Inner, line: &str) {
    let _ = writeln!(inner.timeline, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_401_after_the_whole_wait_is_expected_only_shortly_after_a_new_key() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::create(&folder.path().join("timeline.log")).unwrap();
        let (whole, short) = (Duration::from_secs(5), Duration::from_secs(1));
        assert!(!record.has_waited_for_new_key(401, whole));
        record.new_key();
        assert!(record.has_waited_for_new_key(401, whole));
        assert!(!record.has_waited_for_new_key(401, short));
        assert!(!record.has_waited_for_new_key(403, whole));
        assert_eq!(record.waited_in_vain(), 1);
    }

    #[test]
    fn failures_are_counted_by_kind_and_written_with_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timeline.log");
        let record = Record::create(&path).unwrap();
        record.request("known token", Ok(()));
        record.request("known token", Err("401 instead of 200".to_owned()));
        assert_eq!(record.requests()["known token"], 2);
        assert_eq!(record.failures()["known token"], 1);
        let timeline = std::fs::read_to_string(path).unwrap();
        let failure = "FAILURE      known token: 401 instead of 200";
        assert!(timeline.contains(failure), "{timeline}");
    }
}
