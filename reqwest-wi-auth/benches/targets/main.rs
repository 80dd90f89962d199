//! Measures the performance targets of this crate, prints a line for each, and exits with a non-zero status if one is missed.
//! BENCHMARKING.md explains them.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg_attr(not(target_os = "linux"), allow(unused))]

mod allocations;
#[cfg(target_os = "linux")]
#[path = "../shared/clients.rs"]
mod clients;
#[cfg(target_os = "linux")]
mod exchange;
mod other_clients;
#[cfg(target_os = "linux")]
mod requests;
#[cfg(target_os = "linux")]
mod rotation;
mod target;
mod token;

use std::process::ExitCode;

use self::target::Target;

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    // `cargo bench … -- rotation` measures one group only.
    let groups: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let is_selected =
        |group: &str| groups.is_empty() || groups.iter().any(|selected| selected == group);
    let mut targets = Vec::new();
    if is_selected("requests") {
        targets.extend(requests::measure());
    }
    if is_selected("rotation") {
        targets.push(rotation::pickup());
        targets.push(rotation::failures());
    }
    if is_selected("metadata") {
        targets.push(rotation::metadata_requests());
    }
    if is_selected("exchange") {
        targets.push(exchange::cold_callers());
        targets.push(exchange::failures());
    }
    let missed = targets.iter().filter(|target| !target.is_met()).count();
    println!();
    targets.iter().for_each(Target::print);
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    println!("the measurements require Linux: inotify, and a file system with symbolic links");
    ExitCode::SUCCESS
}
