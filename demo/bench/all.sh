#!/usr/bin/env bash
# Measures everything that BENCHMARKING.md shows, on this machine, and writes its tables and plots anew. Wants Rust, and
# installs the rest. About half an hour; let the machine do nothing else.
source "$(dirname "$0")/tools.sh"
build_programs
build_oha
cd "$root"
cargo bench --quiet --locked --all-features -p reqwest-wi-auth -p tower-oidc-guard --no-run
counted=$(cargo bench --locked -p tower-oidc-guard --bench instructions --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
target=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

missed=0
"$python" "$bench/servers.py" --programs "$built/bin" --envoy "$envoy" || missed=1
"$python" "$bench/client.py" --programs "$built/bin"
"$python" "$bench/attack.py" --programs "$built/bin" --oha "$built/oha/bin/oha" || missed=1
"$python" "$bench/instructions.py" --bench "$counted"
"$python" "$bench/process.py" --criterion "$target/criterion" || missed=1
"$python" "$bench/plots.py"
"$python" "$bench/tables.py"
exit $missed
