#!/usr/bin/env bash
# Runs auth-server, with a policy file and TLS and with a configuration file, and auth-client for some minutes, while the client's
# token rotates every 3 s, the issuer rotates its keys and fails, policies, configurations and certificates are replaced, and
# callers send good and bad tokens or misbehave. Prints requests, failures, what each program uses at start and end, and plots.
# Fails if an answer is not the expected one, or if memory, descriptors, threads or tasks grow. Requires Linux, Rust and a C
# compiler. Takes up to a minute longer than the load, and builds the programs before.
#
#   demo/soak.sh [MINUTES] [--rate REQUESTS] [--output FOLDER] [--debug] [--save]
#
#   MINUTES   how long the load lasts; 10 by default
#   --rate    requests per second; 100 by default, as SOAK_RATE, for which all programs together need a small part of one core
#   --output  folder for the timeline, the logs and the figures; target/soak by default
#   --debug   runs the debug build, which is compiled already after `cargo test --workspace --all-features`
#   --save    writes the figures and plots to demo/bench and BENCHMARKING.md; installs matplotlib from PyPI below target
set -euo pipefail
demo=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$demo/.." && pwd)
cd "$root"
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
profile=release
output=$target/soak
save=
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --debug) profile=debug ;;
        --save) save=1 ;;
        --output)
            output=${2:?--output requires a folder}
            shift
            ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
build=(cargo build --quiet --workspace --all-features --locked --bins --examples)
if [ "$profile" = release ]; then
    build=(cargo build --quiet --workspace --all-features --locked --release --bins --example soak)
fi
"${build[@]}"
run=("$target/$profile/examples/soak" --output "$output" "${arguments[@]}")
# Signals are for the program itself, which ends the others.
# The figures of an earlier run are not taken for those of this one.
rm -f "$output/soak.json" "$output/samples.csv"
[ -n "$save" ] || exec "${run[@]}"
"${run[@]}" || { code=$?; echo "soak: nothing is saved, because the run has failed; see $output/timeline.log" >&2; exit "$code"; }
"$demo/bench/soak.sh" "$output/soak.json"
