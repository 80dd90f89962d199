#!/usr/bin/env bash
# Deletes the cluster and the image that up.sh created.
set -euo pipefail

cluster=${CLUSTER:-workload-identity}
engine=docker
command -v docker >/dev/null && docker info >/dev/null 2>&1 || engine=podman
[ "$engine" = docker ] || export KIND_EXPERIMENTAL_PROVIDER=$engine
kind delete cluster --name "$cluster"
"$engine" image rm workload-identity-demo:kind >/dev/null 2>&1 || true
