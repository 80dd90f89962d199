//! Sends requests at a fixed rate regardless of the responses, each with the next token of a file.
//!
//! `flood <url> <token file> <requests per second> <seconds>` prints the number of responses by status, as JSON.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench_peers::{AnyResult, arguments};
use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

const TICK: Duration = Duration::from_millis(10);
/// The highest number of concurrent requests; further ones are not sent and counted as `not sent`. As many as may wait for keys.
const MAX_CONCURRENT: usize = 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> AnyResult {
    let [url, file, rate, seconds] = arguments("<url> <token file> <rate> <seconds>")?;
    let (rate, seconds): (usize, f64) = (rate.parse()?, seconds.parse()?);
    let text = std::fs::read_to_string(file)?;
    let headers: Vec<_> = text
        .lines()
        .map(|token| format!("Bearer {token}"))
        .collect();
    let client = Client::builder().no_proxy().build()?;
    let responses = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let (mut in_flight, mut sent) = (JoinSet::new(), 0);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for tick in 1..=(seconds / TICK.as_secs_f64()) as usize {
        ticks.tick().await;
        let due = (tick as f64 * TICK.as_secs_f64() * rate as f64) as usize;
        for number in sent..due {
            while in_flight.try_join_next().is_some() {}
            if in_flight.len() >= MAX_CONCURRENT {
                count(&responses, "not sent".to_owned());
                continue;
            }
            let request = client.get(&url);
            let request = request.header("authorization", &headers[number % headers.len()]);
            let responses = responses.clone();
            in_flight.spawn(async move {
                let outcome = match request.send().await {
                    Ok(response) => response.status().as_u16().to_string(),
                    Err(_) => "no response".to_owned(),
                };
                count(&responses, outcome);
            });
        }
        sent = due;
    }
    in_flight.join_all().await;
    let responses = responses.lock().map_err(|_| "a request task panicked")?;
    println!("{}", serde_json::to_string(&*responses)?);
    Ok(())
}

fn count(responses: &Mutex<BTreeMap<String, u64>>, outcome: String) {
    if let Ok(mut responses) = responses.lock() {
        *responses.entry(outcome).or_default() += 1;
    }
}
