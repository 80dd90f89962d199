#!/usr/bin/env bash
# Runs the API server of a separate kind cluster, with the commands of apiserver.sh: for contract tests on machines that
# cannot build a kube-apiserver, and with newer versions of Kubernetes. Requires docker, kind, openssl, curl and python3.
#
#   kind.sh up KEY [KEY…]       creates the cluster if it does not exist, and starts its API server. The first key signs tokens,
#                               all keys are published. Keys are named rsa1, rsa2, …, ec1, ec2, … and are created when
#                               they are first used
#   kind.sh down                deletes the cluster
#   kind.sh down keep-etcd      stops only the API server
#   kind.sh curl …              runs curl with the administrator's certificate
#   kind.sh ca | address | several-issuers
#
# Environment:
#   CLUSTER            the name of the cluster. Default: contract-tests
#   KIND_IMAGE         the node image, for another version of Kubernetes. Default: that of kind
#   ISSUER             values of --service-account-issuer, separated by spaces; the first is used for new tokens
set -euo pipefail

cluster=${CLUSTER:-contract-tests}
node=$cluster-control-plane
run=${XDG_CACHE_HOME:-$HOME/.cache}/workload-identity/kind-$cluster
issuers=${ISSUER:-https://kubernetes.default.svc.cluster.local}
manifest=/etc/kubernetes/manifests/kube-apiserver.yaml
original=/etc/kubernetes/kube-apiserver.original.yaml

fail() { echo "kind.sh: $1" >&2; exit 1; }

exists() { kind get clusters 2>/dev/null | grep -qx "$cluster"; }

# Extracts the CA and the administrator's certificate from the kubeconfig.
credentials() {
    mkdir -p "$run"
    kind get kubeconfig --name "$cluster" >"$run/kubeconfig"
    python3 - "$run" <<'PYTHON'
import base64, re, sys

folder = sys.argv[1]
text = open(f"{folder}/kubeconfig").read()

def field(name):
    return re.search(rf"{name}: (\S+)", text).group(1)

for name, file in [("certificate-authority-data", "ca.crt"), ("client-certificate-data", "admin.crt"), ("client-key-data", "admin.key")]:
    with open(f"{folder}/{file}", "wb") as out:
        out.write(base64.b64decode(field(name)))
with open(f"{folder}/address", "w") as out:
    out.write(field("server").removeprefix("https://").replace(":", " ") + "\n")
PYTHON
}

url() { echo "https://$(tr ' ' ':' <"$run/address")"; }

as_admin() { curl -sS --cacert "$run/ca.crt" --cert "$run/admin.crt" --key "$run/admin.key" "$@"; }

is_ready() { [ "$(as_admin "$(url)/readyz" 2>/dev/null)" = ok ]; }

wait_until() { # SECONDS DESCRIPTION COMMAND…
    local seconds=$1 description=$2
    shift 2
    for _ in $(seq $((seconds * 4))); do
        if "$@"; then return; fi
        sleep 0.25
    done
    docker logs "$node" 2>&1 | tail -n 20 >&2
    fail "$description: not true after $seconds s"
}

is_stopped() { ! as_admin "$(url)/readyz" >/dev/null 2>&1; }

create() { # PATH OBJECT
    as_admin -o /dev/null -H 'content-type: application/json' -d "$2" "$(url)$1"
}

# Creates the keys and copies them to the node's certificate folder, which the API server's pod mounts.
keys() { # KEY…
    local key
    for key in "$@"; do
        docker exec "$node" test -f "/etc/kubernetes/pki/$key.pub" && continue
        case $key in
            rsa[0-9]*) openssl genrsa -out "$run/$key.key" 2048 2>/dev/null ;;
            ec[0-9]*) openssl ecparam -name prime256v1 -genkey -noout -out "$run/$key.key" ;;
            *) fail "up: $key is not a valid key name; expected rsa1, rsa2, …, ec1, ec2, …" ;;
        esac
        openssl pkey -in "$run/$key.key" -pubout -out "$run/$key.pub"
        docker cp "$run/$key.key" "$node:/etc/kubernetes/pki/$key.key"
        docker cp "$run/$key.pub" "$node:/etc/kubernetes/pki/$key.pub"
    done
}

up() {
    [ $# -gt 0 ] || fail "up: expected the name of the signing key, for example rsa1"
    if ! exists; then
        kind create cluster --name "$cluster" ${KIND_IMAGE:+--image "$KIND_IMAGE"} --wait 120s >&2
        credentials
        docker exec "$node" cp "$manifest" "$original"
        # Until now the API server uses the keys that kind created.
        down_server
    fi
    keys "$@"
    local flags=(--service-account-signing-key-file=/etc/kubernetes/pki/"$1".key) name namespace account
    for name in "$@"; do flags+=(--service-account-key-file=/etc/kubernetes/pki/"$name".pub); done
    for name in $issuers; do flags+=(--service-account-issuer="$name"); done
    # The kubelet runs the manifests in this folder. The rename makes the complete file visible at once.
    docker exec "$node" cat "$original" | python3 -c '
import sys
for line in sys.stdin:
    if "--service-account-" in line:
        continue
    print(line, end="")
    if line.strip() == "- kube-apiserver":
        for flag in sys.argv[1:]:
            print(line.replace("kube-apiserver", flag), end="")
' "${flags[@]}" | docker exec -i "$node" sh -c "cat >/etc/kubernetes/new.yaml && mv /etc/kubernetes/new.yaml $manifest"
    wait_until 120 "the API server is ready" is_ready
    for namespace in id-namespace other; do
        create /api/v1/namespaces "{\"metadata\":{\"name\":\"$namespace\"}}"
        for account in gke-sa stranger guard; do
            create "/api/v1/namespaces/$namespace/serviceaccounts" "{\"metadata\":{\"name\":\"$account\"}}"
        done
    done
    url
}

down_server() {
    docker exec "$node" rm -f "$manifest"
    wait_until 120 "the API server is stopped" is_stopped
}

command=${1:-}
shift || true
case $command in
    up) up "$@" ;;
    down)
        if ! exists; then exit 0; fi
        if [ "${1:-}" = keep-etcd ]; then
            down_server
        else
            kind delete cluster --name "$cluster" >&2
            rm -rf "$run"
        fi
        ;;
    curl) as_admin "$@" ;;
    ca) cat "$run/ca.crt" ;;
    address) cat "$run/address" ;;
    several-issuers) echo yes ;;
    *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
