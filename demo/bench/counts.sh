#!/usr/bin/env bash
# Counts what a request costs the guard, independently of the speed of the machine: instructions on each path, and the cache lines
# that two threads with one token both write. Requires Rust and a C compiler, and installs everything else. Takes about two minutes.
#
#   demo/bench/counts.sh [--smoke]
# shellcheck source-path=SCRIPTDIR source=tools.sh
source "$(dirname "$0")/tools.sh"
cd "$root"
build_instructions
missed=0
"$python" "$bench/instructions.py" --bench "$instructions" "$@" || missed=1
"$python" "$bench/shared_lines.py" --bench "$instructions" "$@" || missed=1
exit $missed
