#!/usr/bin/env bash
# Sends good requests and bad tokens at fixed rates, to the open path and to the guarded path. Prints the latencies of the
# good requests, the server's memory and the number of key fetches. Requires Rust and a C compiler, and installs
# everything else. Takes about three minutes.
#
#   demo/bench/attack.sh [--smoke] [--seconds N] [--good RATE] [--bad RATE]
# shellcheck source-path=SCRIPTDIR source=tools.sh
source "$(dirname "$0")/tools.sh"
build_programs
build_oha
"$python" "$bench/attack.py" --programs "$programs" --oha "$built/oha/bin/oha" "$@"
