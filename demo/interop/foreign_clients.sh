#!/usr/bin/env bash
# Checks this repository's server with clients and proxies of other makers.
#
#   demo/interop/foreign_clients.sh           makes all checks
#   demo/interop/foreign_clients.sh TEXT…     makes the checks whose names contain one of the texts, for example `Envoy`
#
# - curl, libcurl, Python's requests, and h11 on plain sockets send requests to auth-server.
# - Envoy forwards requests to it, and verifies the same tokens with its own filter.
# - grpcio calls a gRPC server, and hyperframe and hpack read the frames of its responses.
#
# Requires Rust, curl, and Python 3.10 or later with venv. The packages, whose versions are in foreign/requirements.txt, are
# installed into FOREIGN_TOOLS, or by default into the user's cache, and are kept for the next run. Prints one line for each check,
# and returns an error if one failed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
FOREIGN_TOOLS=${FOREIGN_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/reqwest-wi-auth-foreign}
# The tests of the gRPC server start the clients.
export FOREIGN_PYTHON=$FOREIGN_TOOLS/python/bin/python FOREIGN_CLIENTS=$here/foreign FOREIGN_CHECKS="$*"
export PYTHONDONTWRITEBYTECODE=1

for program in cargo curl python3; do
    command -v "$program" >/dev/null || { echo "foreign clients: $program is required" >&2; exit 1; }
done

mkdir -p "$FOREIGN_TOOLS"
if ! cmp -s "$here/foreign/requirements.txt" "$FOREIGN_TOOLS/installed.txt"; then
    python3 -m venv --clear "$FOREIGN_TOOLS/python"
    "$FOREIGN_TOOLS/python/bin/pip" install --quiet --no-deps --require-hashes --only-binary :all: --requirement "$here/foreign/requirements.txt"
    cp "$here/foreign/requirements.txt" "$FOREIGN_TOOLS/installed.txt"
fi

cd "$here/../.."
log=$FOREIGN_TOOLS/run.log
# With the examples, dependencies have the features that they have for tests, so they are not compiled again.
cargo build --quiet --workspace --all-features --locked --bins --examples
cargo test --quiet --workspace --all-features --locked --test it --no-run
target=$(cargo metadata --no-deps --format-version 1 --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# Most of the time is spent waiting, so both groups run at the same time.
# In a separate process group, which ends with this script however it ends.
set -m
cargo test --quiet --workspace --all-features --locked --test it -- --ignored --nocapture foreign_clients:: >"$log.grpc" 2>&1 &
grpc=$!
set +m
trap 'kill -- "-$grpc" 2>/dev/null || true' EXIT
# A failure is reported with the results below.
status=0
"$FOREIGN_PYTHON" "$here/foreign" "$target/debug/auth-server" "$@" 2>&1 | tee "$log" || status=$?
wait "$grpc" || { status=$?; cat "$log.grpc" >&2; }
grep -E '^(ok|FAILED) {2}' "$log.grpc" | tee -a "$log" || true
checks=$(grep -cE '^(ok|FAILED) {2}' "$log" || true)
failed=$(grep -cE '^FAILED {2}' "$log" || true)
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
    echo "foreign clients: a program has ended before it had made all checks; see $log and $log.grpc" >&2
    failed="at least 1"
fi
if [ "$checks" = 0 ] || [ "$failed" != 0 ]; then status=1; fi
echo "foreign clients: $checks checks, $failed failed"
exit "$status"
