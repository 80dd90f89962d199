//! Requests at a fixed rate, whatever becomes of them, each with the next token of a file.
//!
//! `flood <url> <token file> <requests a second> <seconds>`: prints how many were answered with which status, as JSON.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bench_peers::{Anything, arguments};
use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

const TICK: Duration = Duration::from_millis(10);
/// Beyond these, requests are dropped here and counted as such: the server has stopped to answer.
const MOST_UNDER_WAY: usize = 512;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Anything {
    let [url, file, rate, seconds] = arguments("<url> <token file> <rate> <seconds>")?;
    let (rate, seconds): (usize, f64) = (rate.parse()?, seconds.parse()?);
    let text = std::fs::read_to_string(file)?;
    let headers: Vec<_> = text
        .lines()
        .map(|token| format!("Bearer {token}"))
        .collect();
    let client = Client::builder().no_proxy().build()?;
    let answers = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let (mut under_way, mut sent) = (JoinSet::new(), 0);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for tick in 1..=(seconds / TICK.as_secs_f64()) as usize {
        ticks.tick().await;
        let due = (tick as f64 * TICK.as_secs_f64() * rate as f64) as usize;
        for number in sent..due {
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= MOST_UNDER_WAY {
                count(&answers, "not sent".to_owned());
                continue;
            }
            let request = client.get(&url);
            let request = request.header("authorization", &headers[number % headers.len()]);
            let answers = answers.clone();
            under_way.spawn(async move {
                let answer = match request.send().await {
                    Ok(response) => response.status().as_u16().to_string(),
                    Err(_) => "no answer".to_owned(),
                };
                count(&answers, answer);
            });
        }
        sent = due;
    }
    under_way.join_all().await;
    let answers = answers.lock().map_err(|_| "a panic")?;
    println!("{}", serde_json::to_string(&*answers)?);
    Ok(())
}

fn count(answers: &Mutex<BTreeMap<String, u64>>, answer: String) {
    if let Ok(mut answers) = answers.lock() {
        *answers.entry(answer).or_default() += 1;
    }
}
