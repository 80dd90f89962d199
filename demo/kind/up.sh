#!/usr/bin/env bash
# Server and client in a kind cluster, with one command; then checks that all is as it should be.
#
#   demo/kind/up.sh      builds, creates, applies, waits, checks: exits with 0 only if every check holds
#   demo/kind/down.sh    removes all of it
#
# Wants docker or podman, kind, kubectl, openssl, python3, and cargo with a C compiler.
set -euo pipefail
cd "$(dirname "$0")"

cluster=${CLUSTER:-workload-identity}
namespace=id-namespace
image=workload-identity-demo:kind
name=auth-server.$namespace.svc.cluster.local

step() { printf '\n== %s\n' "$1"; }
fail() { printf 'FAILED: %s\n' "$1" >&2; exit 1; }
kube() { kubectl --context "kind-$cluster" --namespace "$namespace" "$@"; }

# Waits for a command to succeed: `until_true SECONDS WHAT COMMAND…`.
until_true() {
    local seconds=$1 what=$2
    shift 2
    for _ in $(seq "$seconds"); do
        if "$@" >/dev/null 2>&1; then
            echo "ok: $what"
            return
        fi
        sleep 1
    done
    fail "$what (waited $seconds s)"
}

step "prerequisites"
engine=
for candidate in docker podman; do
    if [ -z "$engine" ] && command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
        engine=$candidate
    fi
done
[ -n "$engine" ] || fail "docker or podman is needed, and has to be running"
for tool in kind kubectl openssl python3 cargo; do
    command -v "$tool" >/dev/null || fail "$tool is needed; see the prerequisites in demo/README.md"
done
[ "$engine" = docker ] || export KIND_EXPERIMENTAL_PROVIDER=$engine
echo "$engine, $(kind version), kubectl, openssl, python3 and cargo are there"

step "image"
BUILDER=$engine ../image/build.sh "$image"

step "cluster"
kind get clusters 2>/dev/null | grep -qx "$cluster" || kind create cluster --name "$cluster" --wait 120s
archive=$(mktemp)
work=$(mktemp -d)
trap 'rm -rf "$archive" "$work"' EXIT
"$engine" save "$image" -o "$archive"
kind load image-archive "$archive" --name "$cluster"
# podman gives an image without a registry the name localhost/…
loaded=$image
[ "$engine" = docker ] || loaded=localhost/$image

step "certificates"
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj "/CN=demo CA" \
    -keyout "$work/ca.key" -out "$work/ca.crt" 2>/dev/null
openssl req -newkey rsa:2048 -nodes -subj "/CN=$name" -keyout "$work/tls.key" -out "$work/tls.csr" 2>/dev/null
printf 'subjectAltName=DNS:%s\n' "$name" >"$work/names"
openssl x509 -req -in "$work/tls.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -CAcreateserial -days 30 \
    -extfile "$work/names" -out "$work/tls.crt" 2>/dev/null
kubectl --context "kind-$cluster" apply -f ../deploy/base/namespace.yaml
kube create secret tls auth-server-tls --cert "$work/tls.crt" --key "$work/tls.key" --dry-run=client -o yaml | kube apply -f -
kube create configmap auth-server-ca --from-file "$work/ca.crt" --dry-run=client -o yaml | kube apply -f -

step "server and client"
kubectl kustomize ../deploy/overlays/kind | sed "s|image: workload-identity-demo$|image: $loaded|" | kube apply -f -
kube rollout restart deployment/auth-server deployment/auth-client
kube rollout status deployment/auth-server --timeout 180s
kube rollout status deployment/auth-client --timeout 180s

step "checks"
log() { kube logs deployment/auth-client --since "${1:-1h}"; }
shows() { grep -q "$1" <<<"$(log "${2:-1h}")"; }
until_true 60 "the client is answered on the open path" shows 'GET /: 200 .*hello-exposed'
until_true 60 "the client is let in on the guarded path" shows 'GET /private: 200 .*hello-private'

# A pod that asks once: `ask NAME IDENTITY SERVICE_ACCOUNT`; prints its log.
ask() {
    kube delete pod "$1" --ignore-not-found --wait >/dev/null
    kube get deployment auth-client -o json | ./pod.py "$1" "$2" "$3" | kube apply -f - >/dev/null
    kube wait pod "$1" --for=jsonpath='{.status.phase}'=Failed --timeout 60s >/dev/null ||
        fail "the pod $1 did not end with a refusal"
    kube logs "$1"
}
ask without-volume none default | tee "$work/log"
grep -q 'GET /private: 401' "$work/log" || fail "a pod without the projected volume was not refused"
echo "ok: a pod without the projected volume is refused with 401"
kube create serviceaccount stranger --dry-run=client -o yaml | kube apply -f - >/dev/null
ask stranger cluster stranger | tee "$work/log"
grep -q 'GET /private: 403' "$work/log" || fail "a service account outside the policy was not refused with 403"
echo "ok: a service account outside the policy is refused with 403"

step "a token rotation"
echo "The token lives 600 s and would be replaced after some 8 minutes. A restart of the kubelet replaces it at once,"
echo "so that is what is done here; the client does not notice the difference."
began=$(date +%s)
for node in $(kind get nodes --name "$cluster"); do
    "$engine" exec "$node" systemctl restart kubelet
done
since() { echo "$(($(date +%s) - began + 1))s"; }
rotated() { shows 'new content taken in' "$(since)"; }
until_true 120 "the client has taken in a new token" rotated
sleep 12
answers=$(log "$(since)" | grep -E 'GET /[a-z]*: ' || true)
if grep -v ': 200 ' <<<"$answers"; then
    fail "a request failed around the rotation"
fi
shows 'GET /private: 200' 10s || fail "the client is not let in after the rotation"
echo "ok: no request failed around the rotation"

step "all checks hold"
