#!/usr/bin/env bash
# Prints what a client's request costs through plain reqwest, a middleware that does nothing, BearerAuth, and what
# kube-rs and google-cloud-auth do. Wants Rust, and installs the rest. About two minutes.
source "$(dirname "$0")/tools.sh"
build_programs
"$python" "$bench/client.py" --programs "$built/bin" "$@"
