//! Ten thousand replicas of a service and one issuer, simulated.

use std::time::Duration;

use tokio::time::Instant;

use super::{Ask, Schedule, Timing};

const REPLICAS: usize = 10_000;
const SECOND: Duration = Duration::from_secs(1);

/// A generator of numbers from 0 to 1 that are the same in each run.
struct Jitter(u64);

impl Jitter {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A replica that has fetched keys at `start`.
fn replica(start: Instant, jitter: &mut Jitter) -> Schedule {
    let mut schedule = Schedule::new(Timing::default(), 60 * SECOND, start);
    assert!(schedule.start(start).is_some());
    schedule.succeeded(start, None, jitter.next());
    schedule
}

/// The most fetches that lie within one second.
fn peak(mut fetches: Vec<Instant>) -> usize {
    fetches.sort();
    let within = |start: usize| {
        let end = fetches[start] + SECOND;
        fetches.partition_point(|fetch| *fetch < end) - start
    };
    (0..fetches.len()).map(within).max().unwrap_or(0)
}

/// All replicas meet a token of a new key in the same moment: the worst that a rotation can be.
#[test]
fn ten_thousand_replicas_that_meet_a_rotation_together_ask_within_the_jitter_not_at_once() {
    let (start, timing, mut jitter) = (
        Instant::now(),
        Timing::default(),
        Jitter(88_172_645_463_325_252),
    );
    let rotation = start + 1800 * SECOND;
    let mut fetches = Vec::new();
    for _ in 0..REPLICAS {
        let mut schedule = replica(start, &mut jitter);
        let Ask::Fetch(at) = schedule.ask(rotation, rotation, jitter.next()) else {
            panic!("the limit permits it");
        };
        assert_eq!(
            schedule.ask(rotation, rotation, jitter.next()),
            Ask::Join,
            "one fetch for all requests"
        );
        assert!(schedule.start(at).is_some());
        schedule.succeeded(at, None, jitter.next());
        fetches.push(at);
    }
    let peak = peak(fetches);
    let bound = REPLICAS as f64 / timing.on_demand_jitter.as_secs_f64();
    println!("10000 replicas meet one rotation together: at most {peak} fetches a second");
    assert!(
        (peak as f64) < bound * 1.1,
        "{peak} is over {bound} by more than chance"
    );
}

/// Somebody sends tokens with made-up key ids to all replicas, without a pause, for five minutes.
#[test]
fn ten_thousand_replicas_under_a_flood_of_made_up_keys_ask_no_more_than_the_limit_and_stay_apart() {
    let (start, timing, mut jitter) = (
        Instant::now(),
        Timing::default(),
        Jitter(521_288_629_521_288_629),
    );
    let (flood, length) = (start + 100 * SECOND, 300 * SECOND);
    let mut fetches = Vec::new();
    for _ in 0..REPLICAS {
        let mut schedule = replica(start, &mut jitter);
        let (mut now, mut own) = (flood, 0);
        while now < flood + length {
            let at = match schedule.ask(now, now + 5 * SECOND, jitter.next()) {
                Ask::Fetch(at) => at,
                Ask::NotBefore(at) => {
                    now = at;
                    continue;
                }
                Ask::Join => panic!("none is under way"),
            };
            assert!(schedule.start(at).is_some());
            schedule.succeeded(at, None, jitter.next());
            fetches.push(at);
            (now, own) = (at, own + 1);
        }
        let permitted = timing.on_demand_burst + 1 + 300 / 5;
        assert!(own <= permitted, "{own} fetches of one replica");
    }
    let mean = REPLICAS as f64 / timing.on_demand_interval.as_secs_f64();
    // After the burst, each replica has a rhythm of its own that it got from the jitter.
    let settled = fetches.into_iter().filter(|at| *at > flood + 10 * SECOND);
    let peak = peak(settled.collect());
    println!("10000 replicas under a flood: at most {peak} fetches a second, {mean} on average");
    let bound = REPLICAS as f64 / timing.on_demand_jitter.as_secs_f64();
    assert!((peak as f64) < bound * 1.1, "{peak} is over {bound}");
}

/// The issuer publishes its new key ahead of using it: nobody meets an unknown key, and refreshes are spread.
#[test]
fn ten_thousand_replicas_that_started_together_refresh_apart() {
    let (start, mut jitter) = (Instant::now(), Jitter(362_436_069_362_436_069));
    let fetches: Vec<_> = (0..REPLICAS)
        .map(|_| replica(start, &mut jitter).due())
        .collect();
    let peak = peak(fetches);
    println!("10000 replicas that started together refresh: at most {peak} fetches a second");
    // The spread is a fifth of an hour; chance heaps up to three times the mean.
    assert!(peak < 3 * REPLICAS / 720, "{peak}");
}
