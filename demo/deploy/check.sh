#!/usr/bin/env bash
# Renders base and overlays, and holds them against the schemas of Kubernetes and the profile "restricted".
# Wants kubectl, and a python3 that can make a virtual environment.
set -euo pipefail
cd "$(dirname "$0")"

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
tools=${TOOLS:-${TMPDIR:-/tmp}/manifest-tools}
[ -x "$tools/bin/kubernetes-validate" ] || {
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet 'kubernetes-validate>=1.37' pyyaml
}

for layer in base overlays/kind overlays/gke; do
    file=$rendered/$(basename "$layer").yaml
    kubectl kustomize "$layer" >"$file"
    printf '%s: ' "$layer"
    "$tools/bin/python" check.py <"$file"
    newest=$("$tools/bin/kubernetes-validate" --help | sed -n 's/.*Defaults to 1\.\([0-9]*\)\..*/\1/p')
    for minor in $(seq 29 "$newest"); do
        "$tools/bin/kubernetes-validate" --strict --quiet -k "1.$minor.0" "$file"
    done
    echo "$layer: valid for Kubernetes 1.29 to 1.$newest"
done
