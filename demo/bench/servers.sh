#!/usr/bin/env bash
# Runs each server in turn under wrk: open path, guarded path with one token, guarded path with 3,000 tokens; prints
# requests per second, CPU microseconds of the server per request, and what its guard adds. Wants Rust, and installs
# the rest. About nine minutes.
source "$(dirname "$0")/tools.sh"
build_programs
"$python" "$bench/servers.py" --programs "$built/bin" --envoy "$envoy" "$@"
