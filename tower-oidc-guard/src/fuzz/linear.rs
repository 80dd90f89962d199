//! Counts the instructions of parsers for inputs of different lengths, with valgrind.
//!
//! Instructions are counted, and not time, so the result does not depend on what else the machine does. The same file is part of both
//! libraries.

use std::process::Command;

/// The variable that enables the tests, which `.ci/run fuzz` sets.
const ENABLED: &str = "FUZZ_INSTRUCTIONS";

/// The variable whose presence makes the test program count.
const COUNTS: &str = "FUZZ_COUNTS_INSTRUCTIONS";

/// The lengths of the inputs, in repetitions of a part. Four times as many.
const SHORT: usize = 16;
const LONG: usize = 4 * SHORT;

/// The allowed factor between the instructions for both lengths. Sorting makes it a little more than 4, and a quadratic algorithm nearly
/// 16.
const MAX_FACTOR: f64 = 6.0;

/// A parser, and inputs that are made of any number of equal or similar parts.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) input: fn(usize) -> Vec<u8>,
    pub(crate) parse: fn(&[u8]),
}

/// Asserts for each case that four times as long an input takes at most [`MAX_FACTOR`] times as many instructions. `test` is the path of the
/// calling test, which is run once more by valgrind. Requires valgrind.
pub(crate) fn assert_linear(test: &str, cases: &[Case]) {
    if std::env::var_os(COUNTS).is_some() {
        for case in cases {
            for length in [SHORT, LONG] {
                // The first call may initialize something.
                let input = (case.input)(length);
                (case.parse)(&input);
                counted_from_here();
                counted_by_valgrind(case.parse, &input);
            }
        }
        return;
    }
    if std::env::var_os(ENABLED).is_none() {
        return println!("skipped, because it takes a minute; set {ENABLED}=1");
    }
    let folder = tempfile::tempdir().unwrap();
    let counts = folder.path().join("counts");
    let run = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--demangle=no",
            "--zero-before=*counted_from_here*",
            "--dump-after=*counted_by_valgrind*",
        ])
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--include-ignored", "--test-threads", "1"])
        .env(COUNTS, "1")
        .output();
    let output = run.expect("valgrind runs; .ci/run installs it");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stdout)
    );
    let count = |number: usize| -> f64 {
        let dump = std::fs::read_to_string(folder.path().join(format!("counts.{number}"))).unwrap();
        let totals = dump.lines().find_map(|line| line.strip_prefix("totals: "));
        totals.unwrap().trim().parse().unwrap()
    };
    for (index, case) in cases.iter().enumerate() {
        let (short, long) = (count(2 * index + 1), count(2 * index + 2));
        let factor = long / short;
        println!(
            "{}: {short} and {long} instructions, factor {factor:.2}",
            case.name
        );
        assert!(
            short > 1000.0,
            "{}: {short} instructions were counted",
            case.name
        );
        assert!(
            factor < MAX_FACTOR,
            "{}: {short} and {long} instructions, factor {factor:.2}",
            case.name
        );
    }
}

/// Sets valgrind's counts to zero. It does not do that and a dump for one function.
#[inline(never)]
fn counted_from_here() {
    std::hint::black_box(());
}

#[inline(never)]
fn counted_by_valgrind(parse: fn(&[u8]), input: &[u8]) {
    parse(std::hint::black_box(input));
}
