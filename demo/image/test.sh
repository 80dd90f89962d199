#!/usr/bin/env bash
# Starts both programs from the image against each other, by a name that only DNS knows, over TLS, with an issuer on this
# machine; asserts a guarded answer, and prints the image's size. Wants podman, openssl, python3, cargo, and port 53 of a
# loopback address.
set -euo pipefail
cd "$(dirname "$0")/../.."

image=${1:-localhost/workload-identity-demo:latest}
name=auth-server.test
audience=https://$name
port=18443
nameserver=127.0.0.53
work=$(mktemp -d)
server=
runtime=()
trap 'kill $(jobs -p) 2>/dev/null || true; [ -z "$server" ] || podman "${runtime[@]}" rm -f -t 0 "$server" >/dev/null 2>&1; rm -rf "$work"' EXIT

openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=test CA" -keyout "$work/ca.key" -out "$work/ca.crt" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$work/tls.key" -out "$work/tls.csr" 2>/dev/null
printf 'subjectAltName=DNS:%s\n' "$name" >"$work/names"
openssl x509 -req -in "$work/tls.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 2 \
    -extfile "$work/names" -out "$work/tls.crt" 2>/dev/null

python3 demo/image/nameserver.py "$nameserver" "$name" 127.0.0.1 &
echo "nameserver $nameserver" >"$work/resolv.conf"

cargo build -q --locked -p demo --example issuer
"${CARGO_TARGET_DIR:-target}/debug/examples/issuer" "$audience" "$work/token" >"$work/issuer" &
for _ in $(seq 100); do [ ! -s "$work/issuer" ] || break; sleep 0.1; done
issuer=$(cat "$work/issuer")
chmod -R a+rX "$work"

# crun does not start where cgroups are of both versions; runc does.
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

answer=$("${run[@]}" --rm --env NO_PROXY='*' "$image" /auth-client --once --ca-file /work/ca.crt --token-path /work/token \
    --service-url "https://$name:$port=$audience")
echo "$answer"
grep -q 'GET /private: 200 .*"service_account":"gke-sa"' <<<"$answer"

podman "${runtime[@]}" stop -t 10 "$server" >/dev/null
[ "$(podman "${runtime[@]}" inspect "$server" --format '{{.State.ExitCode}}')" = 0 ] || { echo "the server did not end in good order"; exit 1; }
size=$(podman image inspect "$image" --format '{{.Size}}')
echo "image: $((size / 1000)) kB"
[ "$size" -lt 30000000 ] || { echo "the image is over 30 MB"; exit 1; }
