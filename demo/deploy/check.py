#!/usr/bin/env python3
"""Checks manifests against the Pod Security profile "restricted" and the rules of this project.

Reads the output of `kubectl kustomize` from standard input, prints each violation, and exits with 1 if there are any.
"""

import json
import posixpath
import sys

import yaml

# A container whose environment refers to one of these cannot restart while the API server is unreachable (observed with
# Kubernetes 1.36). Settings are plain values instead; see settings/kustomization.yaml.
REFERENCES = {"configMapKeyRef", "secretKeyRef", "envFrom"}
# A container with a token for the API server at this path may request further tokens from it.
API_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}


def pod_violations(pod):
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(forbidden):
            yield f"{forbidden} is set"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']} has the type {kinds}, which the profile does not allow"
    pod_context = pod.get("securityContext", {})
    for container in pod.get("initContainers", []) + pod["containers"]:
        for violation in container_violations(container, pod_context):
            yield f"container {container['name']}: {violation}"


def container_violations(container, pod_context):
    context = container.get("securityContext", {})

    def setting(name):
        return context.get(name, pod_context.get(name))

    if setting("runAsNonRoot") is not True or setting("runAsUser") in (0, None):
        yield "may run as root (runAsNonRoot, runAsUser)"
    if setting("seccompProfile") is None or setting("seccompProfile")["type"] not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges (allowPrivilegeEscalation)"
    if context.get("privileged"):
        yield "is privileged"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root file system (readOnlyRootFilesystem)"
    capabilities = context.get("capabilities", {})
    if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "has capabilities"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "uses a host port"
    resources = container.get("resources", {})
    if "memory" not in resources.get("limits", {}) or "cpu" not in resources.get("requests", {}):
        yield "has no CPU request or no memory limit"


def references(value, path=""):
    """Yields the path of each reference to a ConfigMap or a Secret in the environment of a container."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in REFERENCES:
                yield f"{path}.{key}"
            yield from references(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from references(inner, f"{path}[{index}]")


def without_role(documents):
    """Yields each Deployment whose token reviews the API server would refuse, because its service account lacks the role."""
    allowed = {
        (subject.get("namespace"), subject["name"])
        for document in documents
        if document["kind"] == "ClusterRoleBinding" and document["roleRef"]["name"] == "system:auth-delegator"
        for subject in document["subjects"]
        if subject["kind"] == "ServiceAccount"
    }
    for document in documents:
        if document["kind"] != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        account = (document["metadata"].get("namespace"), pod.get("serviceAccountName", "default"))
        names = {variable["name"] for container in pod["containers"] for variable in container.get("env", [])}
        if "TOKEN_REVIEW" in names and account not in allowed:
            yield f"Deployment {document['metadata']['name']}: TOKEN_REVIEW is set, and no ClusterRoleBinding gives system:auth-delegator to {'/'.join(map(str, account))}"


def token_roles(documents):
    """Yields the namespace and the name of each Role that allows requests for tokens, and the service accounts it is limited to."""
    for document in documents:
        if document["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in document.get("rules", []):
            if {"serviceaccounts/token", "*"} & set(rule.get("resources", [])) and {"create", "*"} & set(rule["verbs"]):
                yield document["metadata"].get("namespace"), document["metadata"]["name"], rule.get("resourceNames", [])


def unlimited_token_role(documents):
    """Yields each Role with which its holder could act as every service account of the namespace or of the cluster."""
    for namespace, name, accounts in token_roles(documents):
        if namespace is None or not accounts:
            yield f"Role {name}: allows tokens of every service account; limit it with resourceNames in a namespace"


def without_token_role(documents):
    """Yields each Deployment whose requests for tokens the API server would refuse, because its service account lacks the Role."""
    granted = {(namespace, name): accounts for namespace, name, accounts in token_roles(documents)}
    allowed = {
        (subject.get("namespace"), subject["name"])
        for document in documents
        if document["kind"] == "RoleBinding" and document["roleRef"]["kind"] == "Role"
        for subject in document["subjects"]
        if subject["kind"] == "ServiceAccount"
        and subject["name"] in granted.get((document["metadata"].get("namespace"), document["roleRef"]["name"]), [])
    }
    for document in documents:
        if document["kind"] != "Deployment":
            continue
        pod = document["spec"]["template"]["spec"]
        account = (document["metadata"].get("namespace"), pod.get("serviceAccountName", "default"))
        mounts = {mount["mountPath"] for container in pod["containers"] for mount in container.get("volumeMounts", [])}
        if API_DIRECTORY in mounts and account not in allowed:
            yield f"Deployment {document['metadata']['name']}: has a token for the API server, and no Role gives create on serviceaccounts/token to {'/'.join(map(str, account))}"


def without_account(documents):
    """Yields each binding of a service account that is not among the manifests."""
    accounts = {
        (document["metadata"].get("namespace"), document["metadata"]["name"])
        for document in documents
        if document["kind"] == "ServiceAccount"
    }
    for document in documents:
        for subject in document.get("subjects", []) if document["kind"] in ("ClusterRoleBinding", "RoleBinding") else []:
            account = (subject.get("namespace"), subject["name"])
            if subject["kind"] == "ServiceAccount" and account not in accounts:
                yield f"{document['kind']} {document['metadata']['name']}: there is no service account {'/'.join(map(str, account))}"


def file_at(pod, container, path):
    """Returns the volume that is mounted at a path of a container, and the path within it, or (None, None)."""
    for mount in container.get("volumeMounts", []):
        if posixpath.commonpath([mount["mountPath"], path]) == posixpath.normpath(mount["mountPath"]) and "subPath" not in mount:
            volume = next(volume for volume in pod.get("volumes", []) if volume["name"] == mount["name"])
            return volume, posixpath.relpath(path, mount["mountPath"])
    return None, None


def credential_configuration_violations(documents, namespace, pod, container, path):
    """Yields what is wrong with the credential configuration at that path: Google could not exchange the container's token."""
    volume, name = file_at(pod, container, path)
    config_maps = {
        (document["metadata"].get("namespace"), document["metadata"]["name"]): document["data"]
        for document in documents
        if document["kind"] == "ConfigMap"
    }
    files = config_maps.get((namespace, volume["configMap"]["name"]), {}) if volume and "configMap" in volume else {}
    if name not in files:
        yield f"GOOGLE_APPLICATION_CREDENTIALS is {path}, and no ConfigMap is mounted with that file"
        return
    configuration = json.loads(files[name])
    if configuration.get("type") != "external_account":
        yield f"the credential configuration has the type {configuration.get('type')}, expected external_account"
        return
    token_file = configuration["credential_source"].get("file")
    volume, name = file_at(pod, container, token_file)
    tokens = [source.get("serviceAccountToken", {}) for source in volume["projected"]["sources"]] if volume and "projected" in volume else []
    audiences = [token.get("audience") for token in tokens if token.get("path") == name]
    if not audiences:
        yield f"credential_source.file is {token_file}, and no projected token is mounted there"
    elif audiences != ["https:" + configuration["audience"]]:
        yield f"the token at {token_file} is for {audiences[0]}, and the provider's audience is https:{configuration['audience']}"


def credential_violations(documents):
    """Yields what is wrong with the credential configurations that the containers of Deployments use."""
    for document in documents:
        if document["kind"] != "Deployment":
            continue
        pod, namespace = document["spec"]["template"]["spec"], document["metadata"].get("namespace")
        for container in pod["containers"]:
            for variable in container.get("env", []):
                if variable["name"] == "GOOGLE_APPLICATION_CREDENTIALS":
                    for violation in credential_configuration_violations(documents, namespace, pod, container, variable["value"]):
                        yield f"Deployment {document['metadata']['name']}: {violation}"


def violations(documents):
    yield from without_role(documents)
    yield from without_account(documents)
    yield from unlimited_token_role(documents)
    yield from without_token_role(documents)
    yield from credential_violations(documents)
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        for path in references(document):
            yield f"{name}: {path[1:]} requires the API server each time a container starts; use a plain value"
        if document["kind"] == "Deployment":
            for violation in pod_violations(document["spec"]["template"]["spec"]):
                yield f"{name}: {violation}"
        if document["kind"] == "ServiceAccount" and document.get("automountServiceAccountToken") is not False:
            yield f"{name}: automountServiceAccountToken is not false"
        if document["kind"] == "Namespace":
            labels = document["metadata"].get("labels", {})
            if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
                yield f"{name}: does not enforce the Pod Security profile \"restricted\""


def main():
    documents = [document for document in yaml.safe_load_all(sys.stdin) if document]
    kinds = [document["kind"] for document in documents]
    found = list(violations(documents))
    if "Namespace" not in kinds or "Deployment" not in kinds:
        found.append("expected at least one Namespace and one Deployment")
    print("\n".join(found) or f"{len(documents)} manifests pass: {', '.join(kinds)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
