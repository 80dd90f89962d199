#!/usr/bin/env python3
"""Checks manifests against the Pod Security profile "restricted" and against this project's own rules.

Reads the output of `kubectl kustomize` from standard input, prints each fault, and exits with 1 if there are any.
"""

import sys

import yaml

# A container whose environment refers to one of these cannot restart while the API server is away (seen on 1.36). The
# settings are plain values instead; see settings/kustomization.yaml.
REFERENCES = {"configMapKeyRef", "secretKeyRef", "envFrom"}
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def pod_faults(pod):
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(forbidden):
            yield f"{forbidden} is set"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} is of the kind {kinds}"
    of_pod = pod.get("securityContext", {})
    for container in pod.get("initContainers", []) + pod["containers"]:
        for fault in container_faults(container, of_pod):
            yield f"container {container['name']}: {fault}"


def container_faults(container, of_pod):
    own = container.get("securityContext", {})

    def setting(name):
        return own.get(name, of_pod.get(name))

    if setting("runAsNonRoot") is not True or setting("runAsUser") in (0, None):
        yield "may run as root"
    if setting("seccompProfile", ) is None or setting("seccompProfile")["type"] not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if own.get("privileged"):
        yield "is privileged"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    capabilities = own.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "has capabilities"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the host"
    resources = container.get("resources", {})
    if "memory" not in resources.get("limits", {}) or "cpu" not in resources.get("requests", {}):
        yield "has no requests and limits"


def references(value, path=""):
    """Yields the path of each reference to a ConfigMap or Secret in an environment, wherever it is."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in REFERENCES:
                yield f"{path}.{key}"
            yield from references(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from references(inner, f"{path}[{index}]")


def faults(documents):
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        for path in references(document):
            yield f"{name}: {path[1:]} needs the API server each time a container starts; use a plain value"
        if document["kind"] == "Deployment":
            for fault in pod_faults(document["spec"]["template"]["spec"]):
                yield f"{name}: {fault}"
        if document["kind"] == "ServiceAccount" and document.get("automountServiceAccountToken") is not False:
            yield f"{name}: automountServiceAccountToken is not false"
        if document["kind"] == "Namespace":
            labels = document["metadata"].get("labels", {})
            if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
                yield f"{name}: does not enforce the profile"


def main():
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    kinds = [document["kind"] for document in documents]
    found = list(faults(documents))
    if "Namespace" not in kinds or "Deployment" not in kinds:
        found.append("no namespace or no deployment is among the manifests")
    print("\n".join(found) or f"{len(documents)} manifests pass: {', '.join(kinds)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
