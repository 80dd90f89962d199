#!/usr/bin/env python3
"""Replaces kubectl, kind, docker and cargo in test_up.py: `fake.py NAME ARGUMENT…`.

Responds as described by the file `scenario` in the folder $STATE, and records each call in the file `calls` there. Each run
of up.sh starts it about forty times, so it imports few modules.
"""

import json
import os
import sys

STATE = os.environ["STATE"]


def path(name):
    return os.path.join(STATE, name)


def append(name, text):
    with open(path(name), "a", encoding="utf-8") as file:
        file.write(text)


def count(name):
    """Returns how often this function was called before with this name."""
    previous_calls = os.path.getsize(path(name)) if os.path.exists(path(name)) else 0
    append(name, ".")
    return previous_calls


def kubectl(scenario, arguments):
    words = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--context", "--namespace"):
            next(rest)
        else:
            words.append(argument)
    command = " ".join(words)
    append("calls", f"kubectl {command}\n")
    if scenario["failing"] and command.startswith(scenario["failing"]):
        sys.exit(f"the scenario makes `kubectl {scenario['failing']}` fail")
    if words[0] == "kustomize":
        print(scenario["manifest"], end="")
    elif words[0] == "apply":
        if "-" in words:
            append("applied", sys.stdin.read())
    elif words[0] == "api-versions":
        print("\n".join(scenario["versions"]))
    elif words[:2] == ["get", "deployment"] and "name" in words:
        if words[2] in scenario["existing"]:
            print(f"deployment.apps/{words[2]}")
    elif words[:2] == ["get", "deployment"] and "audience" in words[-1]:
        print("https://auth-server.example", end="")
    elif words[:2] == ["get", "deployment"]:
        print(json.dumps(scenario["items"][0]))
    elif words[:2] == ["get", "deployments.apps,replicasets.apps,pods"]:
        first, lists = scenario["items_first"], count("lists")
        print(json.dumps({"kind": "List", "items": first[lists] if lists < len(first) else scenario["items"]}))
    elif words[:2] == ["get", "pod"] and "metadata.uid" in words[-1]:
        print(f"uid-of-{words[2]}", end="")
    elif words[:2] == ["get", "pod"]:
        phase = scenario["phases"].get(words[2], "")
        # A list has a phase for each time that the pod was run.
        print(phase if isinstance(phase, str) else phase[min(count(f"phase-{words[2]}"), len(phase) - 1)], end="")
    elif words[:2] == ["create", "--raw"]:
        with open(words[-1], encoding="utf-8") as file:
            append("token_request", file.read())
        print(json.dumps({"status": {"token": "THE.BOUND.TOKEN"}}))
    elif words[:2] == ["get", "pods"] and "name" in words:
        print("pod/" + words[words.index("-l") + 1].split("=")[1] + "-pod")
    elif words[:2] == ["get", "pods"]:
        print("THE PODS")
    elif words[:2] == ["get", "events"]:
        print("THE EVENTS")
    elif words[0] == "logs":
        logs(scenario, words)


def logs(scenario, words):
    name = next(word for word in words[1:] if not word.startswith("-"))
    if "--previous" in words:
        sys.exit("previous terminated container not found")
    if name.startswith("pod/"):
        print(f"LOG OF {name[4:]}")
    elif os.path.exists(path("rotated")) and name in scenario["logs_after"]:
        print(scenario["logs_after"][name], end="")
    else:
        print(scenario["logs"].get(name, ""), end="")


def main():
    name, *arguments = sys.argv[1:]
    with open(path("scenario"), encoding="utf-8") as file:
        scenario = json.load(file)
    if name == "kubectl":
        kubectl(scenario, arguments)
        return
    append("calls", f"{name} {' '.join(arguments)}\n")
    if name == "kind" and arguments[:2] == ["get", "nodes"]:
        print("node")
    if name == "docker" and arguments[0] == "exec":
        append("rotated", "")


if __name__ == "__main__":
    main()
