#!/usr/bin/env bash
# Renders the base and the overlays, and checks the result against:
#   - the Pod Security profile "restricted" and the rules of this project (check.py);
#   - the schemas of each minor version of Kubernetes from the lowest supported one, without unknown fields.
# Not checked is what the schemas do not contain: admission, defaults and feature gates.
# Requires kubectl 1.23 or newer (for `replacements` and components), and python3 with venv.
set -euo pipefail
cd "$(dirname "$0")"

# The lowest minor version of Kubernetes that supports every kind in the manifests: policy/v1 was added in 1.21. Also stated
# in demo/README.md.
lowest=21

rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
# Programs in it are executed, so it is in a folder that only this user can write to.
tools=${TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/reqwest-wi-auth-manifests}

# Each release of kubernetes-validate contains the schemas of about ten minor versions: 1.28.3 those of 1.20 to 1.28, newer
# releases those from 1.25. `install NAME REQUIREMENT` creates a virtual environment with one release.
install() {
    [ -x "$tools/$1/bin/kubernetes-validate" ] || {
        python3 -m venv "$tools/$1"
        "$tools/$1/bin/pip" install --quiet "$2" pyyaml
    }
}
install old 'kubernetes-validate==1.28.3'
install new 'kubernetes-validate>=1.37'
newest=$("$tools/new/bin/kubernetes-validate" --help | sed -n 's/.*Defaults to 1\.\([0-9]*\)\..*/\1/p')

# `is_valid MINOR FILE…` succeeds if each document conforms to its schema in that version. For a kind without a schema,
# kubernetes-validate only prints a warning, so any output counts as a failure.
is_valid() {
    local minor=$1 release=new output
    shift
    [ "$minor" -ge 29 ] || release=old
    if ! output=$("$tools/$release/bin/kubernetes-validate" --strict --quiet -k "1.$minor.0" "$@" 2>&1) || [ -n "$output" ]; then
        printf '%s\n' "$output" >"$rendered/output"
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
# No overlay uses this component. It is rendered with each of them, as demo/README.md describes it.
mkdir "$rendered/federation"
below() { realpath --relative-to="$(realpath "$rendered/federation")" "$1"; }
for overlay in kind gke; do
    cat >"$rendered/federation/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: id-namespace
resources:
  - $(below overlays/$overlay)
components:
  - $(below components/google-federation)
END
    file=$rendered/$overlay-federation.yaml
    kubectl kustomize "$rendered/federation" >"$file"
    printf 'overlays/%s with components/google-federation: ' "$overlay"
    "$tools/new/bin/python" check.py <"$file"
    files+=("$file")
done
# No overlay uses this component either.
mkdir "$rendered/token-request"
below() { realpath --relative-to="$(realpath "$rendered/token-request")" "$1"; }
cat >"$rendered/token-request/kustomization.yaml" <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - $(below overlays/kind)
components:
  - $(below components/token-request)
END
kubectl kustomize "$rendered/token-request" >"$rendered/token-request.yaml"
printf 'overlays/kind with components/token-request: '
"$tools/new/bin/python" check.py <"$rendered/token-request.yaml"
files+=("$rendered/token-request.yaml")
kubectl kustomize monitoring >"$rendered/monitoring.yaml"
files+=("$rendered/monitoring.yaml")
for minor in $(seq "$lowest" "$newest"); do
    is_valid "$minor" "${files[@]}" || {
        echo "not valid for Kubernetes 1.$minor:" >&2
        cat "$rendered/output" >&2
        exit 1
    }
done
echo "base, overlays/kind, overlays/gke, components/google-federation, components/token-request and monitoring: valid for Kubernetes 1.$lowest to 1.$newest"

# The stated version is the lowest: the version before does not support a kind that the kind overlay uses.
if is_valid $((lowest - 1)) "$rendered/kind.yaml"; then
    echo "overlays/kind is also valid for Kubernetes 1.$((lowest - 1)); lower the stated version" >&2
    exit 1
fi

# check.py finds each type of reference that it forbids, in containers and in init containers.
for reference in \
    '"envFrom": [{"configMapRef": {"name": "settings"}}]' \
    '"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "A"}}}]' \
    '"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "settings", "key": "A"}}}]'; do
    for list in containers initContainers; do
        found=$(printf '{"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [], "%s": [{"name": "a", %s}]}}}}' \
            "$list" "$reference" | "$tools/new/bin/python" check.py || true)
        grep -q 'requires the API server' <<<"$found" || {
            echo "check.py does not find $reference in $list" >&2
            exit 1
        }
    done
done
echo "no container's environment refers to a ConfigMap or a Secret"

# The kind overlay uses the component for token reviews. check.py finds a server that reviews tokens without the role, and a role
# for a service account that does not exist.
grep -q 'name: TOKEN_REVIEW$' "$rendered/kind.yaml" || { echo "overlays/kind does not review tokens" >&2; exit 1; }
for edit in 's/name: system:auth-delegator/name: view/' 's/^\( *\)name: auth-server$/\1name: other/'; do
    found=$(sed "/^kind: ClusterRoleBinding/,/^---/ $edit" "$rendered/kind.yaml" | "$tools/new/bin/python" check.py || true)
    grep -q 'no ClusterRoleBinding gives system:auth-delegator to id-namespace/auth-server' <<<"$found" || {
        echo "check.py does not find the missing role after $edit: $found" >&2
        exit 1
    }
done
grep -q 'there is no service account id-namespace/other' <<<"$found" || {
    echo "check.py does not find the missing service account: $found" >&2
    exit 1
}
echo "the server of overlays/kind has the role for its token reviews"

# check.py finds a credential configuration that is not mounted or of another type, a token that is not mounted, and one for another
# provider.
federation=$rendered/kind-federation.yaml
if grep -q google "$rendered/kind.yaml" "$rendered/base.yaml"; then
    echo "an overlay uses components/google-federation" >&2
    exit 1
fi
while IFS='|' read -r edit expected; do
    found=$(sed "$edit" "$federation" | "$tools/new/bin/python" check.py || true)
    grep -q "$expected" <<<"$found" || {
        echo "check.py does not find \"$expected\" after $edit: $found" >&2
        exit 1
    }
done <<'END'
s#value: /etc/google/#value: /etc/other/#|no ConfigMap is mounted with that file
s#^  credential-configuration.json:#  other.json:#|no ConfigMap is mounted with that file
s#external_account#service_account#|has the type service_account, expected external_account
s#"file": "/var/run/secrets/google/token"#"file": "/var/run/secrets/google/other"#|no projected token is mounted there
s#mountPath: /var/run/secrets/google#mountPath: /var/run/secrets/other#|no projected token is mounted there
s#audience: https://iam.googleapis.com/projects/123456789#audience: https://iam.googleapis.com/projects/my-project#|and the provider's audience is https://iam.googleapis.com/projects/123456789
END
echo "the credential configuration of components/google-federation is mounted, and its token is for its provider"

# check.py finds a client without the Role for its requests for tokens, and a Role for every service account.
for edit in \
    's/^  name: token-request-gke-sa/  name: other/' \
    's/^  - serviceaccounts\/token/  - secrets/' \
    's/^  - create/  - get/' \
    '/resourceNames:/{N;s/- gke-sa/- auth-server/}'; do
    found=$(sed "/^kind: Role$/,/^---/ { $edit }" "$rendered/token-request.yaml" | "$tools/new/bin/python" check.py || true)
    grep -q 'no Role gives create on serviceaccounts/token to id-namespace/gke-sa' <<<"$found" || {
        echo "check.py does not find the missing Role after $edit: $found" >&2
        exit 1
    }
done
found=$(sed '/^kind: Role$/,/^---/ { /resourceNames:/,+1d }' "$rendered/token-request.yaml" | "$tools/new/bin/python" check.py || true)
grep -q 'allows tokens of every service account' <<<"$found" || {
    echo "check.py does not find the Role for every service account: $found" >&2
    exit 1
}
echo "the client of components/token-request has the Role for its own tokens, and only for them"
