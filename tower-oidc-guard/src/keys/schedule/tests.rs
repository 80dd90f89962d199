//! Tests of the fetch schedule.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LOST_AFTER: Duration = Duration::from_secs(60);

fn schedule(now: Instant) -> Schedule {
    Schedule::new(FetchTiming::default(), LOST_AFTER, now)
}

fn fetched(now: Instant) -> Schedule {
    let mut schedule = schedule(now);
    assert!(schedule.start_if_due(now).is_some());
    schedule.succeeded(now, None, 0.0);
    schedule
}

/// Performs a successful fetch that a request causes.
fn fetch_on_demand(schedule: &mut Schedule, now: Instant) {
    assert_eq!(
        schedule.request_fetch(now, now, 0.0),
        FetchDecision::StartAt(now)
    );
    assert!(schedule.start_if_due(now).is_some());
    schedule.succeeded(now, None, 0.0);
}

#[test]
fn the_first_fetch_is_due_immediately_and_starts_once() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    assert_eq!(schedule.due(), now);
    assert!(schedule.start_if_due(now).is_some());
    assert!(
        schedule.start_if_due(now).is_none(),
        "only one fetch at a time"
    );
    assert_eq!(schedule.next_due(), None);
    assert_eq!(schedule.request_fetch(now, now, 0.0), FetchDecision::Join);
}

#[test]
fn refresh_follows_max_age_within_bounds() {
    let now = Instant::now();
    for (max_age, jitter, expected) in [
        (None, 0.0, 3600),
        (Some(600), 0.0, 600),
        (Some(600), 1.0, 480),
        (Some(1), 0.0, 60),
        (Some(1_000_000), 0.0, 3600),
    ] {
        let mut schedule = schedule(now);
        schedule.start_if_due(now);
        schedule.succeeded(now, max_age.map(Duration::from_secs), jitter);
        let due = schedule.due() - now;
        assert_eq!(due, expected * SECOND, "{max_age:?}");
    }
}

#[test]
fn a_key_set_without_a_usable_key_is_fetched_again_within_seconds() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    schedule.start_if_due(now);
    schedule.succeeded_without_usable_key(now, 0.0);
    assert_eq!(schedule.due() - now, 10 * SECOND);
}

#[test]
fn a_request_may_cause_a_fetch_right_after_another_one() {
    let now = Instant::now();
    let mut schedule = fetched(now);
    assert_eq!(
        schedule.request_fetch(now, now, 0.5),
        FetchDecision::StartAt(now + SECOND)
    );
    for _ in 0..1000 {
        assert_eq!(
            schedule.request_fetch(now, now, 0.9),
            FetchDecision::Join,
            "all requests share one fetch"
        );
    }
}

#[test]
fn requests_cause_a_burst_of_fetches_and_then_one_per_interval() {
    let now = Instant::now();
    let mut schedule = fetched(now);
    for _ in 0..3 {
        fetch_on_demand(&mut schedule, now);
    }
    let next = now + 5 * SECOND;
    for _ in 0..1000 {
        let decision = schedule.request_fetch(now, now + 4 * SECOND, 0.0);
        assert_eq!(decision, FetchDecision::NotBefore(next));
    }
    let latest_start = next + SECOND;
    assert_eq!(
        schedule.request_fetch(now, latest_start, 1.0),
        FetchDecision::StartAt(next)
    );
    assert_eq!(
        schedule.request_fetch(now, latest_start, 1.0),
        FetchDecision::Join
    );
    assert_eq!(
        schedule.request_fetch(now, now, 1.0),
        FetchDecision::NotBefore(next)
    );
    assert!(schedule.start_if_due(next).is_some());
    schedule.succeeded(next, None, 0.0);
    assert_eq!(
        schedule.request_fetch(next, next, 0.0),
        FetchDecision::NotBefore(next + 5 * SECOND)
    );
}

#[test]
fn a_fetch_on_demand_bypasses_caches_until_it_succeeds() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    assert_eq!(
        schedule.request_fetch(now, now, 0.0),
        FetchDecision::StartAt(now)
    );
    let fetch =
        |schedule: &mut Schedule| schedule.start_if_due(schedule.due()).unwrap().cache_policy;
    assert_eq!(
        fetch(&mut schedule),
        CachePolicy::AllowCached,
        "the first fetch"
    );
    schedule.succeeded(now, None, 0.0);
    assert_eq!(
        schedule.request_fetch(now, now, 0.0),
        FetchDecision::StartAt(now)
    );
    assert_eq!(fetch(&mut schedule), CachePolicy::Revalidate);
    schedule.failed(now, 0.0);
    assert_eq!(fetch(&mut schedule), CachePolicy::Revalidate);
    schedule.succeeded(now, None, 0.0);
    assert_eq!(
        fetch(&mut schedule),
        CachePolicy::AllowCached,
        "a scheduled refresh"
    );
}

#[test]
fn a_failed_fetch_does_not_count_against_the_limit() {
    let now = Instant::now();
    let mut schedule = fetched(now);
    fetch_on_demand(&mut schedule, now);
    fetch_on_demand(&mut schedule, now);
    assert_eq!(
        schedule.request_fetch(now, now, 0.0),
        FetchDecision::StartAt(now)
    );
    assert!(schedule.start_if_due(now).is_some());
    schedule.failed(now, 0.0);
    let again = now + SECOND / 2;
    assert_eq!(
        schedule.request_fetch(now, now, 0.0),
        FetchDecision::NotBefore(again)
    );
    assert_eq!(
        schedule.request_fetch(now, again + SECOND, 0.0),
        FetchDecision::StartAt(again)
    );
    assert!(schedule.start_if_due(again).is_some());
    schedule.succeeded(again, None, 0.0);
    // The last fetch of the burst is still permitted.
    assert_eq!(
        schedule.request_fetch(again, again, 0.0),
        FetchDecision::StartAt(again)
    );
}

#[test]
fn pauses_after_failures_grow_up_to_the_maximum() {
    let mut now = Instant::now();
    let mut schedule = schedule(now);
    let mut pauses = Vec::new();
    for _ in 0..40 {
        assert!(schedule.start_if_due(now).is_some());
        schedule.failed(now, 1.0);
        let due = schedule.due();
        pauses.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(pauses[..6], [1, 2, 4, 8, 10, 10]);
    assert_eq!(pauses.last(), Some(&10));
}

#[test]
fn an_interrupted_fetch_is_due_again_immediately() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    assert!(schedule.start_if_due(now).is_some());
    schedule.interrupted(now + SECOND);
    assert!(schedule.start_if_due(now + SECOND).is_some());
}

#[test]
fn a_fetch_that_never_finishes_is_replaced_and_its_result_ignored() {
    let now = Instant::now();
    let mut schedule = schedule(now);
    let first = schedule.start_if_due(now).unwrap();
    let later = now + LOST_AFTER;
    assert_eq!(
        schedule.request_fetch(later - SECOND, later, 0.0),
        FetchDecision::Join
    );
    assert_eq!(
        schedule.request_fetch(later, later, 0.0),
        FetchDecision::StartAt(later)
    );
    let second = schedule.start_if_due(later).unwrap();
    assert!(!schedule.is_in_flight(first) && schedule.is_in_flight(second));
}

#[test]
fn the_limit_permits_a_burst_and_then_one_fetch_per_interval() {
    let start = Instant::now();
    let mut limit = FetchLimit::new(3, 5 * SECOND, start);
    let mut now = start;
    let mut permitted = Vec::new();
    for _ in 0..6 {
        now = limit.earliest(now);
        limit.record(now);
        permitted.push((now - start).as_secs());
    }
    assert_eq!(permitted, [0, 0, 0, 5, 10, 15]);
}

#[test]
fn an_unused_limit_permits_no_more_than_its_burst() {
    let start = Instant::now();
    let mut limit = FetchLimit::new(2, 5 * SECOND, start);
    let later = start + 1000 * SECOND;
    for _ in 0..2 {
        assert_eq!(limit.earliest(later), later);
        limit.record(later);
    }
    assert_eq!(limit.earliest(later), later + 5 * SECOND);
}

#[test]
fn a_refunded_fetch_does_not_count() {
    let start = Instant::now();
    let mut limit = FetchLimit::new(1, 5 * SECOND, start);
    limit.record(start);
    assert_eq!(limit.earliest(start), start + 5 * SECOND);
    limit.refund();
    assert_eq!(limit.earliest(start), start);
}
