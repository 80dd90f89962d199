#!/usr/bin/env python3
"""Finds the pods of a Deployment's current ReplicaSet.

    kubectl get deployments.apps,replicasets.apps,pods -o json | pods.py DEPLOYMENT

Prints a line `NAME RESTARTS` for each pod that belongs to the ReplicaSet of the Deployment's newest revision, is running
and is not being deleted; the newest pod first. Prints nothing if there is no such pod.
"""

import json
import sys

REVISION = "deployment.kubernetes.io/revision"


def owned_by(item, uid):
    return any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", []))


def revision(item):
    return item["metadata"].get("annotations", {}).get(REVISION)


def current_pods(items, name):
    def of_kind(kind):
        return [item for item in items if item["kind"] == kind]

    deployments = [item for item in of_kind("Deployment") if item["metadata"]["name"] == name]
    for deployment in deployments:
        uid, newest = deployment["metadata"]["uid"], revision(deployment)
        sets = [item for item in of_kind("ReplicaSet") if owned_by(item, uid) and newest and revision(item) == newest]
        pods = [pod for pod in of_kind("Pod") if any(owned_by(pod, owner["metadata"]["uid"]) for owner in sets)]
        pods = [
            pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") == "Running"
        ]
        yield from sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"], reverse=True)


def restarts(pod):
    return sum(status["restartCount"] for status in pod["status"].get("containerStatuses", []))


def main():
    items = json.load(sys.stdin)["items"]
    for pod in current_pods(items, sys.argv[1]):
        print(pod["metadata"]["name"], restarts(pod))


if __name__ == "__main__":
    main()
