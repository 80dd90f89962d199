#!/usr/bin/env python3
"""Prints a pod that sends one round of requests, made from the client's Deployment.

    kubectl get deployment auth-client -o json | pod.py NAME IDENTITY SERVICE_ACCOUNT [SECRET]

With the identity `none`, the pod has no projected volume. With SECRET, its token is that of the Secret instead.
"""

import json
import sys


def main():
    name, identity, account, *secret = sys.argv[1:]
    deployment = json.load(sys.stdin)
    pod = deployment["spec"]["template"]["spec"]
    pod["serviceAccountName"] = pod["serviceAccount"] = account
    pod["restartPolicy"] = "Never"
    container = pod["containers"][0]
    container["args"] = ["--once", "--identity", identity]
    if identity == "none":
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "tokens"]
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "tokens"]
    for volume in pod["volumes"]:
        if secret and volume["name"] == "tokens":
            del volume["projected"]
            volume["secret"] = {"secretName": secret[0], "defaultMode": 0o440}
    metadata = {"name": name, "namespace": deployment["metadata"]["namespace"]}
    json.dump({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}, sys.stdout)


if __name__ == "__main__":
    main()
