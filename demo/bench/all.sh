#!/usr/bin/env bash
# Measures everything that BENCHMARKING.md shows, on this machine, and regenerates its tables and plots. Requires Rust and
# a C compiler, and installs everything else. Takes about three quarters of an hour; the machine should do nothing else.
# shellcheck source-path=SCRIPTDIR source=tools.sh
source "$(dirname "$0")/tools.sh"
install_envoy
install_module matplotlib 'matplotlib>=3.10'
build_programs
build_google_verifiers
build_go_oidc
build_oha
cd "$root"
cargo bench --quiet --locked --all-features -p reqwest-wi-auth -p tower-oidc-guard --no-run
build_instructions
# Figures of an earlier run do not replace those of a measurement that fails.
rm -f "$bench"/results/{servers,client,attack,instructions,shared_lines,microbenchmarks}.json

missed=0
"$python" "$bench/servers.py" --programs "$programs" --envoy "$envoy" || missed=1
"$python" "$bench/client.py" --programs "$programs"
"$python" "$bench/attack.py" --programs "$programs" --oha "$built/oha/bin/oha" || missed=1
"$python" "$bench/instructions.py" --bench "$instructions" || missed=1
"$python" "$bench/shared_lines.py" --bench "$instructions" || missed=1
"$python" "$bench/microbenchmarks.py" --criterion "$target/criterion" || missed=1
"$python" "$bench/plots.py"
"$python" "$bench/tables.py"
exit $missed
