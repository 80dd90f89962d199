#!/usr/bin/env bash
# Saves the figures of a run of demo/soak.sh, and writes its plot and the tables of BENCHMARKING.md. Installs matplotlib from PyPI
# below target.
#
#   demo/bench/soak.sh FIGURES
# shellcheck source-path=SCRIPTDIR source=tools.sh
source "$(dirname "$0")/tools.sh"
install_module matplotlib 'matplotlib>=3.10'
"$python" "$bench/soak.py" "$1"
