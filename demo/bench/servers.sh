#!/usr/bin/env bash
# Measures each server with wrk: open path, guarded path with one token, guarded path with 3,000 tokens. Prints requests
# per second, CPU time of the server per request, and how much of it the guard adds. Requires Rust and a C compiler, and
# installs everything else. Takes about eleven minutes.
#
#   demo/bench/servers.sh [--smoke] [--rounds N] [--seconds N]
# shellcheck source-path=SCRIPTDIR source=tools.sh
source "$(dirname "$0")/tools.sh"
install_envoy
build_programs
build_google_verifiers
build_go_oidc
"$python" "$bench/servers.py" --programs "$programs" --envoy "$envoy" "$@"
