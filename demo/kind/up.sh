#!/usr/bin/env bash
# Creates a kind cluster, runs server and client in it, and checks that they work through a token rotation.
#
#   demo/kind/up.sh      builds the image, creates the cluster, applies the manifests and runs the checks; exits with 0 only
#                        if every check passes
#   demo/kind/down.sh    deletes the cluster and the image
#
# Requires docker or podman, kind, kubectl 1.23 or newer, openssl, python3, and cargo with a C compiler. The manifests
# require Kubernetes 1.21 (see demo/README.md). With 1.20 this script still works: it applies the PodDisruptionBudget as
# policy/v1beta1.
#
# If anything fails, it prints the pods, the events and the logs of both programs.
set -euo pipefail
cd "$(dirname "$0")"

cluster=${CLUSTER:-workload-identity}
namespace=id-namespace
image=workload-identity-demo:kind
name=auth-server.$namespace.svc.cluster.local
programs=(auth-server auth-client)

step() { printf '\n== %s\n' "$1"; }
reason=
fail() {
    reason=$1
    printf 'FAILED: %s\n' "$1" >&2
    exit 1
}
kube() { kubectl --context "kind-$cluster" --namespace "$namespace" "$@"; }

# Prints what helps to find the cause of a failure. Each part is printed even if another part fails.
diagnose() {
    local quick=(--request-timeout=20s) pod
    printf '\n== pods\n'
    kube get pods "${quick[@]}" -o wide || true
    printf '\n== events\n'
    kube get events "${quick[@]}" --sort-by=.lastTimestamp || true
    for program in "${programs[@]}"; do
        for pod in $(kube get pods "${quick[@]}" -l "app.kubernetes.io/name=$program" -o name || true); do
            printf '\n== log of %s\n' "$pod"
            kube logs "${quick[@]}" "$pod" --tail=100 || true
            if kube logs "${quick[@]}" "$pod" --tail=100 --previous >"$work/previous" 2>/dev/null; then
                printf '\n== log of %s before its last restart\n' "$pod"
                cat "$work/previous"
            fi
        done
    done
}

# Not empty once the cluster exists.
has_cluster=
archive=$(mktemp)
work=$(mktemp -d)
finish() {
    local code=$?
    if [ "$code" != 0 ] && [ -n "$has_cluster" ]; then
        diagnose >&2
        printf '\nFAILED: %s\n' "${reason:-a command exited with $code; see above}" >&2
    fi
    rm -rf "$archive" "$work"
}
trap finish EXIT

# Repeats a command until it succeeds: `until_true SECONDS DESCRIPTION COMMAND…`.
until_true() {
    local seconds=$1 description=$2
    shift 2
    for _ in $(seq "$seconds"); do
        if "$@" >/dev/null 2>&1; then
            echo "ok: $description"
            return
        fi
        sleep 1
    done
    fail "$description: not true after $seconds s"
}

step "prerequisites"
engine=
for candidate in docker podman; do
    if [ -z "$engine" ] && command -v "$candidate" >/dev/null && "$candidate" info >/dev/null 2>&1; then
        engine=$candidate
    fi
done
[ -n "$engine" ] || fail "docker or podman is required and must be running"
for tool in kind kubectl openssl python3 cargo; do
    command -v "$tool" >/dev/null || fail "$tool is required; see demo/README.md"
done
[ "$engine" = docker ] || export KIND_EXPERIMENTAL_PROVIDER=$engine
echo "$engine, $(kind version), kubectl, openssl, python3 and cargo are available"

step "image"
BUILDER=$engine ../image/build.sh "$image"

step "cluster"
kind get clusters 2>/dev/null | grep -qx "$cluster" || kind create cluster --name "$cluster" --wait 120s
has_cluster=1
"$engine" save "$image" -o "$archive"
kind load image-archive "$archive" --name "$cluster"
# podman prefixes the name of an image without a registry with localhost/.
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
# Programs that already run are restarted so that they use the new image and certificates. Programs that are created now
# use them anyway, and a restart would only stop pods that are starting.
running=()
for program in "${programs[@]}"; do
    existing=$(kube get deployment "$program" -o name --ignore-not-found)
    [ -z "$existing" ] || running+=("$program")
done
policy=policy/v1
versions=$(kube api-versions)
if ! grep -qx policy/v1 <<<"$versions"; then
    policy=policy/v1beta1
    echo "this cluster does not support policy/v1, which was added in Kubernetes 1.21; using $policy"
fi
kubectl kustomize ../deploy/overlays/kind |
    sed -e "s|image: workload-identity-demo$|image: $loaded|" -e "s|^apiVersion: policy/v1$|apiVersion: $policy|" |
    kube apply -f -
for program in "${running[@]+"${running[@]}"}"; do
    kube rollout restart "deployment/$program"
done
for program in "${programs[@]}"; do
    kube rollout status "deployment/$program" --timeout 180s
done

step "checks"
# Prints `NAME RESTARTS` of the client's newest running pod, from the current ReplicaSet. Older pods that are still
# terminating are not checked.
client() { kube get deployments.apps,replicasets.apps,pods -o json | ./pods.py auth-client | sed -n 1p; }
is_running() { [ -n "$(client)" ]; }
until_true 60 "a pod of the client is running" is_running
found=$(client)
pod=${found% *}
log() { kube logs "$pod" --since "${1:-1h}"; }
shows() { grep -q "$1" <<<"$(log "${2:-1h}")"; }
until_true 60 "the client receives 200 on the open path" shows 'GET /: 200 .*hello-exposed'
until_true 60 "the client receives 200 on the guarded path" shows 'GET /private: 200 .*hello-private'

# Runs a pod that sends one round of requests, prints its log, and sets $phase to whether it succeeded:
# `run_client NAME IDENTITY SERVICE_ACCOUNT [SECRET]`.
run_client() {
    kube delete pod "$1" --ignore-not-found --wait >/dev/null
    kube get deployment auth-client -o json | ./pod.py "$@" | kube apply -f - >/dev/null
    phase=
    for _ in $(seq 60); do
        phase=$(kube get pod "$1" -o 'jsonpath={.status.phase}')
        case $phase in
            Failed | Succeeded) break ;;
        esac
        sleep 1
    done
    kube logs "$1"
}

# Runs such a pod, expects it to fail, and prints its log: `request_refused NAME IDENTITY SERVICE_ACCOUNT`.
request_refused() {
    local phase
    run_client "$@"
    [ "$phase" = Failed ] || fail "the pod $1 should have failed because its request is refused, but its phase is ${phase:-unknown}"
}
request_refused without-volume none default | tee "$work/log"
grep -q 'GET /private: 401' "$work/log" || fail "a pod without the projected volume was not refused with 401"
echo "ok: a pod without the projected volume is refused with 401"
kube create serviceaccount stranger --dry-run=client -o yaml | kube apply -f - >/dev/null
request_refused stranger cluster stranger | tee "$work/log"
grep -q 'GET /private: 403' "$work/log" || fail "a service account outside the policy was not refused with 403"
echo "ok: a service account outside the policy is refused with 403"

step "a deleted pod"
# A pod whose token outlives it: a token that is bound to the pod is stored in a Secret, which another pod uses.
run_client short-lived none gke-sa >/dev/null
uid=$(kube get pod short-lived -o 'jsonpath={.metadata.uid}')
audience=$(kube get deployment auth-client -o \
    'jsonpath={.spec.template.spec.volumes[?(@.name=="tokens")].projected.sources[0].serviceAccountToken.audience}')
printf '{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["%s"], "expirationSeconds": 3600, "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "short-lived", "uid": "%s"}}}' \
    "$audience" "$uid" >"$work/request"
(
    umask 077
    kube create --raw "/api/v1/namespaces/$namespace/serviceaccounts/gke-sa/token" -f "$work/request" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["status"]["token"], end="")' >"$work/gke-sa"
) || fail "no token could be created that is bound to the pod short-lived"
kube create secret generic short-lived-token --from-file "$work/gke-sa" --dry-run=client -o yaml | kube apply -f - >/dev/null
run_client before-deletion cluster gke-sa short-lived-token
[ "$phase" = Succeeded ] || fail "a token that is bound to a pod was not admitted while the pod exists"
echo "ok: a token that is bound to a pod is admitted while the pod exists"
kube delete pod short-lived --wait >/dev/null
deleted=$SECONDS
# A confirmation is used for 60 s, and the API server may repeat its own for 10 s. A pod takes a few seconds to start and to end.
for _ in $(seq 60); do
    run_client after-deletion cluster gke-sa short-lived-token >"$work/log"
    if [ "$phase" = Failed ] || [ $((SECONDS - deleted)) -gt 100 ]; then break; fi
done
[ "$phase" = Failed ] || fail "the token of a deleted pod was still admitted $((SECONDS - deleted)) s after the pod was deleted"
cat "$work/log"
grep -q 'GET /private: 401' "$work/log" || fail "the token of a deleted pod was not refused with 401"
echo "ok: the token of a deleted pod is refused with 401, $((SECONDS - deleted)) s after the pod was deleted"

step "a token rotation"
echo "The token is valid for 600 s and would be replaced after about 8 minutes. Restarting the kubelet replaces it at once;"
echo "for the client there is no difference."
began=$(date +%s)
for node in $(kind get nodes --name "$cluster"); do
    "$engine" exec "$node" systemctl restart kubelet
done
since() { echo "$(($(date +%s) - began + 1))s"; }
rotated() { shows 'the projected token was replaced' "$(since)"; }
until_true 120 "the client uses a new token" rotated
sleep 12
responses=$(log "$(since)" | grep -E 'GET /[a-z]*: ' || true)
for path in / /private; do
    grep -q "GET $path: " <<<"$responses" || fail "the log of $pod has no response on $path around the rotation"
done
if grep -v ': 200 ' <<<"$responses"; then
    fail "a request failed around the rotation"
fi
shows 'GET /private: 200' 10s || fail "the client does not receive 200 on the guarded path after the rotation"
# Each container has its own log, so a restart would hide earlier lines.
current=$(client)
[ "$current" = "$found" ] || fail "the client's pod (name, restarts) was \"$found\" and is \"$current\" after the rotation"
echo "ok: no request failed around the rotation"

step "all checks passed"
