#!/usr/bin/env bash
# Saves the figures of a run of demo/soak.sh, and writes its plots and the tables in BENCHMARKING.md. Requires Python with venv, and
# installs matplotlib from PyPI below target.
#
#   demo/bench/soak.sh FIGURES
set -euo pipefail
bench=$(cd "$(dirname "$0")" && pwd)
target=$(cargo metadata --no-deps --format-version 1 --manifest-path "$bench/../../Cargo.toml" |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
built=${BENCH_TARGET:-$target/bench}
python=$built/python/bin/python
[ -x "$python" ] || python3 -m venv "$built/python"
"$python" -c "import matplotlib" 2>/dev/null || "$built/python/bin/pip" install --quiet 'matplotlib>=3.10'
"$python" "$bench/soak.py" "$1"
