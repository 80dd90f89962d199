#!/usr/bin/env bash
# Runs this repository's client with identity servers of other makers, and clients of other makers with this repository's fakes.
#
#   demo/interop/run.sh            runs all checks
#   demo/interop/run.sh FILTER…    runs the checks whose names contain one of the texts, for example `oidc_provider`
#
# Requires Rust, Node.js 20 or later with npm, and Python 3.10 or later with venv. The packages, whose versions are in
# package-lock.json and requirements.txt, are installed into INTEROP_TOOLS, or by default into the user's cache, and are kept for
# the next run. Prints one line for each check, and returns an error if one failed. The checks are the tests in
# reqwest-wi-auth/tests/it/interop.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
INTEROP_TOOLS=${INTEROP_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/reqwest-wi-auth-interop}
export INTEROP_TOOLS

for program in cargo node npm python3; do
    command -v "$program" >/dev/null || { echo "interop: $program is required" >&2; exit 1; }
done

# Installs the packages if they are not those of the lists. `npm ci` replaces all packages, so it is not repeated.
install() {
    mkdir -p "$INTEROP_TOOLS"
    cp "$here/package.json" "$here/package-lock.json" "$INTEROP_TOOLS/"
    if ! cmp -s "$here/package-lock.json" "$INTEROP_TOOLS/installed.json"; then
        (cd "$INTEROP_TOOLS" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
        cp "$here/package-lock.json" "$INTEROP_TOOLS/installed.json"
    fi
    if ! cmp -s "$here/requirements.txt" "$INTEROP_TOOLS/installed.txt"; then
        python3 -m venv --clear "$INTEROP_TOOLS/python"
        "$INTEROP_TOOLS/python/bin/pip" install --quiet --no-deps --require-hashes --only-binary :all: --requirement "$here/requirements.txt"
        cp "$here/requirements.txt" "$INTEROP_TOOLS/installed.txt"
    fi
    # Node.js looks for packages in the folders above a script.
    rm -rf "$INTEROP_TOOLS/servers" "$INTEROP_TOOLS/clients"
    cp -r "$here/servers" "$here/clients" "$INTEROP_TOOLS/"
}

install
log=$INTEROP_TOOLS/run.log

cd "$here/../.."
# A failure is reported with the results below.
status=0
cargo test --workspace --all-features --locked --test it -- --ignored "${@:-interop::}" >"$log" 2>&1 || status=$?
sed -nE 's/^test interop::(.*) \.\.\. ok$/ok      \1/p; s/^test interop::(.*) \.\.\. FAILED$/FAILED  \1/p' "$log"
checks=$(grep -cE '^test interop::.* \.\.\. (ok|FAILED)$' "$log" || true)
failed=$(grep -cE '^test interop::.* \.\.\. FAILED$' "$log" || true)
if [ "$status" != 0 ] || [ "$checks" = 0 ]; then
    cat "$log"
    [ "$status" != 0 ] || status=1
fi
echo "interop: $checks checks, $failed failed"
exit "$status"
