#!/usr/bin/env bash
# Renders the base and the overlays, and checks the result against:
#   - the Pod Security profile "restricted" and this project's own rules (check.py);
#   - Kubernetes' schemas, strictly (no unknown field), for each minor version from the lowest supported one on.
# What the schemas do not say is not checked here: admission, defaults, and whether a feature gate is on.
# Needs kubectl 1.23 or newer (for `replacements` and components), and a python3 that can make a virtual environment.
set -euo pipefail
cd "$(dirname "$0")"

# The lowest Kubernetes version that serves every kind in the manifests: policy/v1 came with 1.21. Also stated in
# demo/README.md.
lowest=21

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
tools=${TOOLS:-${TMPDIR:-/tmp}/manifest-tools}

# Each release of kubernetes-validate ships the schemas of some ten minor versions: 1.28.3 those of 1.20 to 1.28, and
# newer ones those from 1.25 on. `install NAME REQUIREMENT` makes a virtual environment with one of them.
install() {
    [ -x "$tools/$1/bin/kubernetes-validate" ] || {
        python3 -m venv "$tools/$1"
        "$tools/$1/bin/pip" install --quiet "$2" pyyaml
    }
}
install old 'kubernetes-validate==1.28.3'
install new 'kubernetes-validate>=1.37'
newest=$("$tools/new/bin/kubernetes-validate" --help | sed -n 's/.*Defaults to 1\.\([0-9]*\)\..*/\1/p')

# `valid MINOR FILE…` succeeds if each document of the files has a schema in that version and fits it. A kind that has no
# schema is only a warning to kubernetes-validate, so anything that it prints counts as a failure.
valid() {
    local minor=$1 set=new said
    shift
    [ "$minor" -ge 29 ] || set=old
    if ! said=$("$tools/$set/bin/kubernetes-validate" --strict --quiet -k "1.$minor.0" "$@" 2>&1) || [ -n "$said" ]; then
        printf '%s\n' "$said" >"$rendered/why"
        return 1
    fi
}

files=()
for layer in base overlays/kind overlays/gke; do
    file=$rendered/$(basename "$layer").yaml
    kubectl kustomize "$layer" >"$file"
    printf '%s: ' "$layer"
    "$tools/new/bin/python" check.py <"$file"
    files+=("$file")
done
for minor in $(seq "$lowest" "$newest"); do
    valid "$minor" "${files[@]}" || {
        echo "not valid for Kubernetes 1.$minor:" >&2
        cat "$rendered/why" >&2
        exit 1
    }
done
echo "base, overlays/kind and overlays/gke: valid for Kubernetes 1.$lowest to 1.$newest"

# The stated lowest version is the lowest: one before, a kind of the kind overlay is not there.
if valid $((lowest - 1)) "$rendered/kind.yaml"; then
    echo "overlays/kind is valid for Kubernetes 1.$((lowest - 1)) too: lower the version that is stated" >&2
    exit 1
fi

# check.py finds each kind of reference that it forbids, in containers and init containers.
for reference in \
    '"envFrom": [{"configMapRef": {"name": "settings"}}]' \
    '"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "A"}}}]' \
    '"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "settings", "key": "A"}}}]'; do
    for list in containers initContainers; do
        found=$(printf '{"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [], "%s": [{"name": "a", %s}]}}}}' \
            "$list" "$reference" | "$tools/new/bin/python" check.py || true)
        grep -q 'needs the API server' <<<"$found" || {
            echo "check.py does not find $reference in $list" >&2
            exit 1
        }
    done
done
echo "no container's environment refers to a ConfigMap or a Secret"
