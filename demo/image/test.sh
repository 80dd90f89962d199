#!/usr/bin/env bash
# Runs server and client from the image: over TLS, by a host name that only a DNS server knows, with an issuer on this
# machine. Fails unless the guarded path responds with 200 and the server exits cleanly, and prints the size of the image.
# Requires podman, openssl, cargo, dnsmasq, and root or sudo for port 53 of a loopback address.
#
#   demo/image/test.sh [IMAGE]       the default image is localhost/workload-identity-demo:latest
set -euo pipefail
cd "$(dirname "$0")/../.."

image=${1:-localhost/workload-identity-demo:latest}
name=auth-server.test
audience=https://$name
port=18443
nameserver=127.0.0.2
work=$(mktemp -d)
server=
runtime=()
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)
trap 'kill $(jobs -p) 2>/dev/null || true; [ -z "$server" ] || podman "${runtime[@]}" rm -f -t 0 "$server" >/dev/null 2>&1; rm -rf "$work"' EXIT

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=test CA" -keyout "$work/ca.key" -out "$work/ca.crt" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$work/tls.key" -out "$work/tls.csr" 2>/dev/null
printf 'subjectAltName=DNS:%s\n' "$name" >"$work/names"
openssl x509 -req -in "$work/tls.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
    -extfile "$work/names" -out "$work/tls.crt" 2>/dev/null

"${as_root[@]}" dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --no-resolv --no-hosts \
    --bind-interfaces --listen-address="$nameserver" --local=/test/ --host-record="$name,127.0.0.1" 2>"$work/dnsmasq.log" &
echo "nameserver $nameserver" >"$work/resolv.conf"

# With the features that the tests are built with, so that no dependency is built again.
cargo build -q --locked --workspace --all-features --example issuer
"${CARGO_TARGET_DIR:-target}/debug/examples/issuer" "$audience" "$work/token" >"$work/issuer" &
for _ in $(seq 100); do [ ! -s "$work/issuer" ] || break; sleep 0.1; done
issuer=$(cat "$work/issuer")
chmod -R a+rX "$work"

# crun does not start if both versions of cgroups are mounted; runc does.
! command -v runc >/dev/null || runtime=(--runtime runc)
run=(podman "${runtime[@]}" run --network host --ulimit nofile=1024:1024 --ulimit nproc=1000:1000
    --read-only --cap-drop all --security-opt no-new-privileges
    --volume "$work:/work:ro" --volume "$work/resolv.conf:/etc/resolv.conf:ro")
server=$("${run[@]}" --detach "$image" /auth-server --address 127.0.0.1 --port "$port" --issuer "$issuer" \
    --insecure-loopback-http --audience "$audience" --tls-certificate /work/tls.crt --tls-key /work/tls.key)
for _ in $(seq 100); do
    if podman "${runtime[@]}" logs "$server" 2>&1 | grep -q listening; then break; fi
    sleep 0.1
done

response=$("${run[@]}" --rm --env NO_PROXY='*' "$image" /auth-client --once --ca-file /work/ca.crt --token-path /work/token \
    --service-url "https://$name:$port=$audience")
echo "$response"
grep -q 'GET /private: 200 .*"service_account":"gke-sa"' <<<"$response"

podman "${runtime[@]}" stop -t 10 "$server" >/dev/null
[ "$(podman "${runtime[@]}" inspect "$server" --format '{{.State.ExitCode}}')" = 0 ] || { echo "the server did not exit with 0 after SIGTERM"; exit 1; }
size=$(podman image inspect "$image" --format '{{.Size}}')
echo "image: $((size / 1000)) kB"
[ "$size" -lt 30000000 ] || { echo "the image is larger than 30 MB"; exit 1; }
