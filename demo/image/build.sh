#!/usr/bin/env bash
# Builds the image `workload-identity-demo` with docker, podman or buildah, from programs that cargo builds on this machine.
#
#   demo/image/build.sh [TAG]             the default tag is workload-identity-demo:latest
#   BUILDER=podman demo/image/build.sh    chooses the builder; default: the first of docker, podman and buildah
#
# If the musl target and its C compiler are installed, the programs are linked statically. Otherwise they are linked to
# this machine's glibc, and its libraries are copied into the image: statically linked glibc cannot resolve host names.
set -euo pipefail
cd "$(dirname "$0")/../.."

tag=${1:-workload-identity-demo:latest}
builder=${BUILDER:-}
for candidate in docker podman buildah; do
    [ -n "$builder" ] || ! command -v "$candidate" >/dev/null || builder=$candidate
done
[ -n "$builder" ] || { echo "docker, podman or buildah is required to build the image" >&2; exit 1; }

[ "$(uname -s)" = Linux ] || { echo "the image can be built on Linux only, because the programs are built on this machine" >&2; exit 1; }
machine=$(uname -m)
musl=$machine-unknown-linux-musl
arguments=(build --profile image --locked -p demo --bin auth-server --bin auth-client)
binaries=${CARGO_TARGET_DIR:-target}/image
if command -v "$machine-linux-musl-gcc" >/dev/null && rustc --print target-libdir --target "$musl" 2>/dev/null | xargs -r test -d; then
    arguments+=(--target "$musl")
    binaries=${CARGO_TARGET_DIR:-target}/$musl/image
fi
cargo "${arguments[@]}"

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
root=$context/rootfs
mkdir -p "$root/etc/ssl/certs" "$root/tmp"
cp demo/image/Containerfile "$context/"
for program in auth-server auth-client; do
    cp "$binaries/$program" "$root/$program"
    # The loader and the libraries of a dynamically linked program, at the paths where it looks for them.
    { ldd "$binaries/$program" 2>/dev/null || true; } | grep -oE '/[^ ]+' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -Lu "$library" "$root$library"
    done
done

certificates=
for bundle in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    [ -n "$certificates" ] || ! [ -s "$bundle" ] || certificates=$bundle
done
[ -n "$certificates" ] || { echo "no file with CA certificates was found; set SSL_CERT_FILE to one" >&2; exit 1; }
cp -L "$certificates" "$root/etc/ssl/certs/ca-certificates.crt"
echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' >"$root/etc/passwd"
echo 'nonroot:x:65532:' >"$root/etc/group"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
chmod -R a+rX "$root"

case $builder in
    buildah) buildah build --isolation chroot --tag "$tag" "$context" ;;
    *) "$builder" build --tag "$tag" "$context" ;;
esac
echo "built $tag, $(du -sk "$root" | cut -f1) kB"
