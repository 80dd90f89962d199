//! Ten thousand replicas of a service and one issuer, simulated.

use std::time::Duration;

use tokio::time::Instant;

use super::{Ask, Schedule, Timing};

const REPLICAS: usize = 10_000;

/// A generator of numbers from 0 to 1 that are the same in each run.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The most fetches that lie within one second.
fn peak(mut fetches: Vec<Instant>) -> usize {
    fetches.sort();
    let within = |start: usize| {
        let end = fetches[start] + Duration::from_secs(1);
        fetches.partition_point(|fetch| *fetch < end) - start
    };
    (0..fetches.len()).map(within).max().unwrap_or(0)
}

/// All replicas meet a token of a new key in the same moment: the worst that a rotation can be.
#[test]
fn ten_thousand_replicas_that_meet_a_rotation_together_ask_within_the_jitter_not_at_once() {
    let (start, timing, mut dice) = (
        Instant::now(),
        Timing::default(),
        Dice(88_172_645_463_325_252),
    );
    let rotation = start + Duration::from_secs(1800);
    let mut fetches = Vec::new();
    for _ in 0..REPLICAS {
        let mut schedule = Schedule::new(timing, start);
        assert!(schedule.start(start));
        schedule.succeeded(start, None, dice.throw());
        let Ask::Fetch(at) = schedule.ask(rotation, dice.throw()) else {
            panic!("the limit allows it");
        };
        assert!(schedule.start(at));
        schedule.succeeded(at, None, dice.throw());
        assert!(matches!(schedule.ask(at, 0.0), Ask::NotBefore(_)), "once");
        fetches.push(at);
    }
    let peak = peak(fetches);
    let bound = REPLICAS as f64 / timing.unknown_kid_jitter.as_secs_f64();
    println!("10000 replicas meet one rotation together: at most {peak} fetches a second");
    assert!(
        (peak as f64) < bound * 1.1,
        "{peak} is over {bound} by more than chance"
    );
}

/// The issuer publishes its new key ahead of using it: nobody meets an unknown key, and refreshes are spread.
#[test]
fn ten_thousand_replicas_that_started_together_refresh_apart() {
    let (start, timing, mut dice) = (
        Instant::now(),
        Timing::default(),
        Dice(362_436_069_362_436_069),
    );
    let mut fetches = Vec::new();
    for _ in 0..REPLICAS {
        let mut schedule = Schedule::new(timing, start);
        assert!(schedule.start(start));
        schedule.succeeded(start, None, dice.throw());
        fetches.push(schedule.due());
    }
    let peak = peak(fetches);
    println!("10000 replicas that started together refresh: at most {peak} fetches a second");
    // The spread is a fifth of an hour; chance heaps up to three times the mean.
    assert!(peak < 3 * REPLICAS / 720, "{peak}");
}
