//! Simulates ten thousand replicas of a service that fetch the keys of one issuer.

use std::time::Duration;

use tokio::time::Instant;

use super::{FetchDecision, FetchTiming, Schedule};

const REPLICAS: usize = 10_000;
const SECOND: Duration = Duration::from_secs(1);

/// A deterministic generator of pseudo-random numbers from 0 to 1.
struct Jitter(u64);

impl Jitter {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Returns the schedule of a replica that fetched keys at `start`.
fn replica(start: Instant, jitter: &mut Jitter) -> Schedule {
    let mut schedule = Schedule::new(FetchTiming::default(), 60 * SECOND, start);
    assert!(schedule.start_if_due(start).is_some());
    schedule.succeeded(start, None, jitter.next());
    schedule
}

/// Returns the largest number of fetches within one second.
fn peak(mut fetches: Vec<Instant>) -> usize {
    fetches.sort();
    let within = |start: usize| {
        let end = fetches[start] + SECOND;
        fetches.partition_point(|fetch| *fetch < end) - start
    };
    (0..fetches.len()).map(within).max().unwrap_or(0)
}

/// The worst case of a key rotation: all replicas receive a token signed with the new key at the same time.
#[test]
fn replicas_that_see_a_rotation_at_the_same_time_spread_their_fetches_over_the_jitter() {
    let (start, timing, mut jitter) = (
        Instant::now(),
        FetchTiming::default(),
        Jitter(88_172_645_463_325_252),
    );
    let rotation = start + 1800 * SECOND;
    let mut fetches = Vec::new();
    for _ in 0..REPLICAS {
        let mut schedule = replica(start, &mut jitter);
        let FetchDecision::StartAt(at) = schedule.request_fetch(rotation, rotation, jitter.next())
        else {
            panic!("the limit permits a fetch");
        };
        assert_eq!(
            schedule.request_fetch(rotation, rotation, jitter.next()),
            FetchDecision::Join,
            "all requests share one fetch"
        );
        assert!(schedule.start_if_due(at).is_some());
        schedule.succeeded(at, None, jitter.next());
        fetches.push(at);
    }
    let peak = peak(fetches);
    let bound = REPLICAS as f64 / timing.on_demand_jitter.as_secs_f64();
    println!("10000 replicas see one rotation at the same time: at most {peak} fetches a second");
    assert!(
        (peak as f64) < bound * 1.1,
        "{peak} exceeds {bound} by more than chance"
    );
}

/// For five minutes, all replicas continuously receive tokens with made-up key ids.
#[test]
fn replicas_under_a_flood_of_made_up_key_ids_stay_within_the_limit_and_out_of_step() {
    let (start, timing, mut jitter) = (
        Instant::now(),
        FetchTiming::default(),
        Jitter(521_288_629_521_288_629),
    );
    let (flood, length) = (start + 100 * SECOND, 300 * SECOND);
    let mut fetches = Vec::new();
    for _ in 0..REPLICAS {
        let mut schedule = replica(start, &mut jitter);
        let (mut now, mut count) = (flood, 0);
        while now < flood + length {
            let at = match schedule.request_fetch(now, now + 5 * SECOND, jitter.next()) {
                FetchDecision::StartAt(at) => at,
                FetchDecision::NotBefore(at) => {
                    now = at;
                    continue;
                }
                FetchDecision::Join => panic!("no fetch is in flight"),
            };
            assert!(schedule.start_if_due(at).is_some());
            schedule.succeeded(at, None, jitter.next());
            fetches.push(at);
            (now, count) = (at, count + 1);
        }
        let permitted = timing.on_demand_burst + 1 + 300 / 5;
        assert!(count <= permitted, "{count} fetches of one replica");
    }
    let mean = REPLICAS as f64 / timing.on_demand_interval.as_secs_f64();
    // After the burst, the times at which the replicas fetch differ by their random delays.
    let settled = fetches.into_iter().filter(|at| *at > flood + 10 * SECOND);
    let peak = peak(settled.collect());
    println!("10000 replicas under a flood: at most {peak} fetches a second, {mean} on average");
    let bound = REPLICAS as f64 / timing.on_demand_jitter.as_secs_f64();
    assert!((peak as f64) < bound * 1.1, "{peak} exceeds {bound}");
}

/// The issuer publishes its new key before it signs with it: no request sees an unknown key, and refreshes are spread.
#[test]
fn replicas_that_started_together_refresh_at_different_times() {
    let (start, mut jitter) = (Instant::now(), Jitter(362_436_069_362_436_069));
    let fetches: Vec<_> = (0..REPLICAS)
        .map(|_| replica(start, &mut jitter).due())
        .collect();
    let peak = peak(fetches);
    println!("10000 replicas that started together refresh: at most {peak} fetches a second");
    // The spread is a fifth of an hour; a random peak stays below three times the mean.
    assert!(peak < 3 * REPLICAS / 720, "{peak}");
}
