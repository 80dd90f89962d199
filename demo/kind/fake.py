#!/usr/bin/env python3
"""Plays kubectl, kind, docker and cargo for test_up.py: `fake.py NAME ARGUMENT…`.

Answers as the file `scenario` in the folder $STATE says, and records each call in the file `calls` there. It is started
some forty times in each run of up.sh, so it imports as little as it can.
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
    """How often this was called before."""
    before = os.path.getsize(path(name)) if os.path.exists(path(name)) else 0
    append(name, ".")
    return before


def kubectl(world, arguments):
    words = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--context", "--namespace"):
            next(rest)
        else:
            words.append(argument)
    command = " ".join(words)
    append("calls", f"kubectl {command}\n")
    if world["failing"] and command.startswith(world["failing"]):
        sys.exit("the fake kubectl was told to fail here")
    if words[0] == "kustomize":
        print(world["manifest"], end="")
    elif words[0] == "apply":
        if "-" in words:
            append("applied", sys.stdin.read())
    elif words[0] == "api-versions":
        print("\n".join(world["versions"]))
    elif words[:2] == ["get", "deployment"] and "name" in words:
        if words[2] in world["existing"]:
            print(f"deployment.apps/{words[2]}")
    elif words[:2] == ["get", "deployment"]:
        print(json.dumps(world["items"][0]))
    elif words[:2] == ["get", "deployments.apps,replicasets.apps,pods"]:
        first, asked = world["items_first"], count("asked")
        print(json.dumps({"kind": "List", "items": first[asked] if asked < len(first) else world["items"]}))
    elif words[:2] == ["get", "pod"]:
        print(world["phases"].get(words[2], ""), end="")
    elif words[:2] == ["get", "pods"] and "name" in words:
        print("pod/" + words[words.index("-l") + 1].split("=")[1] + "-pod")
    elif words[:2] == ["get", "pods"]:
        print("THE PODS")
    elif words[:2] == ["get", "events"]:
        print("THE EVENTS")
    elif words[0] == "logs":
        logs(world, words)


def logs(world, words):
    name = next(word for word in words[1:] if not word.startswith("-"))
    if "--previous" in words:
        sys.exit("previous terminated container not found")
    if name.startswith("pod/"):
        print(f"LOG OF {name[4:]}")
    elif os.path.exists(path("rotated")) and name in world["logs_after"]:
        print(world["logs_after"][name], end="")
    else:
        print(world["logs"].get(name, ""), end="")


def main():
    name, *arguments = sys.argv[1:]
    with open(path("scenario"), encoding="utf-8") as file:
        world = json.load(file)
    if name == "kubectl":
        kubectl(world, arguments)
        return
    append("calls", f"{name} {' '.join(arguments)}\n")
    if name == "kind" and arguments[:2] == ["get", "nodes"]:
        print("node")
    if name == "docker" and arguments[0] == "exec":
        append("rotated", "")


if __name__ == "__main__":
    main()
