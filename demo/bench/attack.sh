#!/usr/bin/env bash
# Sends bad tokens at a fixed rate beside good requests at a fixed rate, to the open path and to the guarded one, and
# prints the good requests' latencies, the server's memory and the fetches at the issuer. Wants Rust, and installs the
# rest. About two and a half minutes.
source "$(dirname "$0")/tools.sh"
build_programs
build_oha
"$python" "$bench/attack.py" --programs "$built/bin" --oha "$built/oha/bin/oha" "$@"
