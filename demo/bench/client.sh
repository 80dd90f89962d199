#!/usr/bin/env bash
# Prints what a client's request costs with plain reqwest, with a middleware that does nothing, with BearerAuth, and with
# the work that kube-rs and google-cloud-auth do. Requires Rust and a C compiler, and installs everything else. Takes about
# two minutes.
#
#   demo/bench/client.sh [--smoke] [--rounds N] [--requests N]
# shellcheck source-path=SCRIPTDIR source=tools.sh
source "$(dirname "$0")/tools.sh"
build_programs
"$python" "$bench/client.py" --programs "$programs" "$@"
