#!/usr/bin/env python3
"""Tests up.sh without a cluster or a container engine.

fake.py replaces kubectl, kind, docker and cargo, and responds as each scenario describes. The tests verify which commands
up.sh runs and whether it succeeds or fails.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
OPEN = 'GET /: 200 {"msg": "hello-exposed"}\n'
PRIVATE = 'GET /private: 200 {"msg":"hello-private","caller":{}}\n'
ROTATED = "2026-01-01T00:00:00Z  INFO demo::client: the projected token was replaced\n"
GOOD = OPEN + PRIVATE + ROTATED + OPEN + PRIVATE
MANIFEST = """apiVersion: apps/v1
kind: Deployment
spec:
  template:
    spec:
      containers:
      - image: workload-identity-demo
---
apiVersion: policy/v1
kind: PodDisruptionBudget
"""


def deployment(revision):
    return {
        "kind": "Deployment",
        "metadata": {
            "name": "auth-client",
            "namespace": "id-namespace",
            "uid": "deployment",
            "annotations": {"deployment.kubernetes.io/revision": revision},
        },
        "spec": {
            "template": {
                "spec": {
                    "serviceAccountName": "gke-sa",
                    "volumes": [{"name": "tokens", "projected": {"sources": []}}],
                    "containers": [{"name": "auth-client", "volumeMounts": [{"name": "tokens"}]}],
                }
            }
        },
    }


def replica_set(revision):
    return {
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"auth-client-{revision}",
            "uid": f"set-{revision}",
            "annotations": {"deployment.kubernetes.io/revision": revision},
            "ownerReferences": [{"uid": "deployment"}],
        },
    }


def pod(name, revision, created="2026-01-01T00:00:00Z", phase="Running", restarts=0, **metadata):
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "creationTimestamp": created,
            "ownerReferences": [{"uid": f"set-{revision}"}],
            **metadata,
        },
        "status": {"phase": phase, "containerStatuses": [{"restartCount": restarts}]},
    }


def scenario(**changes):
    """Returns a scenario in which all checks pass, with the given changes."""
    return {
        "existing": [],
        "manifest": MANIFEST,
        "versions": ["v1", "apps/v1", "policy/v1"],
        "items": [deployment("1"), replica_set("1"), pod("new", "1")],
        # The responses to the first requests for the lists of pods, if they differ from the later ones.
        "items_first": [],
        "logs": {
            "new": GOOD,
            "without-volume": 'GET /: 200 {"msg": "hello-exposed"}\nGET /private: 401 Unauthorized: the server found no bearer token in the request\n',
            "stranger": 'GET /: 200 {"msg": "hello-exposed"}\nGET /private: 403 Forbidden: the caller is not allowed (insufficient_scope)\n',
            "before-deletion": OPEN + PRIVATE,
            "after-deletion": 'GET /: 200 {"msg": "hello-exposed"}\nGET /private: 401 Unauthorized: the token was revoked (invalid_token)\n',
        },
        # The log after the kubelet was restarted, if it differs.
        "logs_after": {},
        "phases": {
            "without-volume": "Failed",
            "stranger": "Failed",
            "short-lived": "Failed",
            "before-deletion": "Succeeded",
            # The first confirmation is used for a while.
            "after-deletion": ["Succeeded", "Succeeded", "Failed"],
        },
        "failing": None,
        **changes,
    }


class Up(unittest.TestCase):
    """Each test runs up.sh in a scenario."""

    def run_up(self, scenario):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = pathlib.Path(folder.name)
        for part in ("kind", "image", "deploy/base", "bin", "state"):
            (root / part).mkdir(parents=True)
        for file in ("up.sh", "pod.py", "pods.py"):
            shutil.copy(HERE / file, root / "kind" / file)
        build = root / "image" / "build.sh"
        build.write_text("#!/bin/sh\n", encoding="utf-8")
        build.chmod(0o755)
        for name in ("kubectl", "kind", "docker", "cargo"):
            fake = root / "bin" / name
            fake.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {HERE / "fake.py"} {name} "$@"\n', encoding="utf-8")
            fake.chmod(0o755)
        for name in ("sleep", "openssl"):
            (root / "bin" / name).symlink_to("/bin/true")
        (root / "bin" / "python3").symlink_to(sys.executable)
        # In a scenario, what up.sh waits for happens at once or never, so three attempts are enough.
        (root / "bin" / "seq").write_text("#!/bin/sh\necho 1 2 3\n", encoding="utf-8")
        (root / "bin" / "seq").chmod(0o755)
        (root / "state" / "scenario").write_text(json.dumps(scenario), encoding="utf-8")
        environment = {**os.environ, "PATH": f"{root / 'bin'}:{os.environ['PATH']}", "STATE": str(root / "state")}
        ran = subprocess.run(
            [root / "kind" / "up.sh"], env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        self.output = ran.stdout + ran.stderr
        self.calls = (root / "state" / "calls").read_text(encoding="utf-8").splitlines()
        self.state = root / "state"
        applied = root / "state" / "applied"
        self.applied = applied.read_text(encoding="utf-8") if applied.exists() else ""
        return ran.returncode

    def succeeds(self, scenario):
        self.assertEqual(self.run_up(scenario), 0, self.output)
        self.assertEqual(self.output.strip().splitlines()[-1], "== all checks passed")
        self.assertNotIn("THE EVENTS", self.output)

    def fails(self, scenario, *messages):
        self.assertNotEqual(self.run_up(scenario), 0, self.output)
        self.assertNotIn("all checks passed", self.output)
        for part in (*messages, "THE PODS", "THE EVENTS", "LOG OF auth-server-pod", "LOG OF auth-client-pod"):
            self.assertIn(part, self.output)

    def logs_read(self):
        words = [call.split() for call in self.calls if call.startswith("kubectl logs")]
        return {next(word for word in call[2:] if not word.startswith("-")) for call in words}

    def restarted(self):
        return [call.split("/")[1] for call in self.calls if call.startswith("kubectl rollout restart")]

    def test_a_new_cluster_passes_and_nothing_is_restarted(self):
        self.succeeds(scenario())
        self.assertEqual(self.restarted(), [])
        run = {"without-volume", "stranger", "short-lived", "before-deletion", "after-deletion"}
        self.assertEqual(self.logs_read(), {"new"} | run)

    def test_the_token_of_a_deleted_pod_is_bound_to_it_and_used_after_the_deletion(self):
        self.succeeds(scenario())
        request = json.loads((self.state / "token_request").read_text(encoding="utf-8"))["spec"]
        self.assertEqual(request["boundObjectRef"]["name"], "short-lived")
        self.assertEqual(request["boundObjectRef"]["uid"], "uid-of-short-lived")
        self.assertEqual(request["audiences"], ["https://auth-server.example"])
        deleted = self.calls.index("kubectl delete pod short-lived --wait")
        runs = [i for i, call in enumerate(self.calls) if call == "kubectl logs after-deletion"]
        self.assertEqual(len(runs), 3)
        self.assertTrue(deleted < runs[0], self.calls)
        self.assertIn('"secretName": "short-lived-token"', self.applied)
        self.assertNotIn("THE.BOUND.TOKEN", self.output + self.applied + "\n".join(self.calls))

    def test_a_token_of_a_deleted_pod_that_is_still_admitted_is_a_failure(self):
        phases = {**scenario()["phases"], "after-deletion": "Succeeded"}
        self.fails(scenario(phases=phases), "the token of a deleted pod was still admitted")

    def test_a_pod_whose_token_is_refused_before_it_is_deleted_is_a_failure(self):
        phases = {**scenario()["phases"], "before-deletion": "Failed"}
        self.fails(scenario(phases=phases), "a token that is bound to a pod was not admitted while the pod exists")

    def test_a_deleted_pod_whose_token_is_not_refused_with_401_is_a_failure(self):
        logs = {**scenario()["logs"], "after-deletion": "GET /private: 503 Service Unavailable\n"}
        self.fails(scenario(logs=logs), "was not refused with 401")

    def test_only_deployments_that_existed_before_are_restarted_and_only_after_apply(self):
        for existing in (["auth-server", "auth-client"], ["auth-server"], ["auth-client"]):
            with self.subTest(existing=existing):
                self.succeeds(scenario(existing=existing))
                self.assertEqual(self.restarted(), existing)
                listed = self.calls.index("kubectl get deployment auth-server -o name --ignore-not-found")
                applied = next(i for i, call in enumerate(self.calls) if i > listed and call == "kubectl apply -f -")
                restarted = next(i for i, call in enumerate(self.calls) if "rollout restart" in call)
                self.assertTrue(listed < applied < restarted, self.calls)

    def test_the_log_of_an_older_pod_is_not_read(self):
        old = {
            "of an older ReplicaSet": pod("old", "1", created="2026-01-01T00:09:00Z"),
            "being deleted": pod("old", "2", created="2026-01-01T00:09:00Z", deletionTimestamp="2026-01-01T00:09:09Z"),
            "that has ended": pod("old", "2", created="2026-01-01T00:09:00Z", phase="Failed"),
            "created earlier": pod("old", "2", created="2025-12-31T00:00:00Z"),
        }
        for what, older in old.items():
            with self.subTest(what):
                items = [deployment("2"), replica_set("1"), replica_set("2"), older, pod("new", "2")]
                logs = {**scenario()["logs"], "old": GOOD}
                self.succeeds(scenario(items=items, logs=logs))
                self.assertNotIn("old", self.logs_read())
                self.fails(scenario(items=items, logs={**logs, "new": ""}))
                self.assertNotIn("old", self.logs_read())

    def test_a_client_that_never_runs_is_a_failure(self):
        self.fails(scenario(items=[deployment("1"), replica_set("1"), pod("new", "1", phase="Pending")]))

    def test_an_empty_log_is_a_failure(self):
        logs = scenario()["logs"]
        for name in logs:
            # Whether a pod before the deletion was admitted is known from its phase.
            with self.subTest(name):
                if name != "before-deletion":
                    self.fails(scenario(logs={**logs, name: ""}))

    def test_a_log_without_responses_after_the_rotation_is_a_failure(self):
        for what, after in {
            "nothing": "",
            "no response": ROTATED,
            "no response on the guarded path": ROTATED + OPEN,
            "no response on the open path": ROTATED + PRIVATE,
        }.items():
            with self.subTest(what):
                self.fails(scenario(logs_after={"new": after}))

    def test_a_token_that_is_not_replaced_is_a_failure(self):
        self.fails(scenario(logs_after={"new": OPEN + PRIVATE}), "the client uses a new token")

    def test_a_request_that_fails_around_the_rotation_is_a_failure(self):
        for line in ("GET /private: 401 Unauthorized: the token has expired (invalid_token)\n", "GET /: failed: connection refused\n"):
            with self.subTest(line):
                self.fails(scenario(logs_after={"new": GOOD + line}), line, "a request failed around the rotation")

    def test_a_client_that_restarts_or_is_replaced_during_the_checks_is_a_failure(self):
        first = [[deployment("1"), replica_set("1"), pod("new", "1")]] * 2
        for what, last in {
            "restarted": pod("new", "1", restarts=1),
            "replaced": pod("newer", "1", created="2026-01-01T01:00:00Z"),
        }.items():
            with self.subTest(what):
                items = [deployment("1"), replica_set("1"), last]
                self.fails(scenario(items_first=first, items=items), "after the rotation")

    def test_a_pod_that_is_admitted_although_it_must_be_refused_is_a_failure(self):
        logs = scenario()["logs"]
        for name in ("without-volume", "stranger"):
            with self.subTest(name):
                self.fails(scenario(logs={**logs, name: OPEN + PRIVATE}))
                self.fails(scenario(phases={**scenario()["phases"], name: "Succeeded"}), f"the pod {name}")
                self.fails(scenario(phases={**scenario()["phases"], name: "Pending"}), f"the pod {name}")

    def test_a_failing_command_is_a_failure_that_prints_the_state_of_the_cluster(self):
        for command in (
            "apply",
            "kustomize",
            "get deployment auth-server -o name",
            "api-versions",
            "rollout status",
            "get deployments.apps,replicasets.apps,pods",
        ):
            with self.subTest(command):
                self.fails(scenario(failing=command))

    def test_the_disruption_budget_uses_policy_v1_if_supported_and_v1beta1_otherwise(self):
        self.succeeds(scenario())
        self.assertIn("apiVersion: policy/v1\n", self.applied)
        self.assertIn("image: workload-identity-demo:kind\n", self.applied)
        self.succeeds(scenario(versions=["v1", "apps/v1", "policy/v1beta1"]))
        self.assertIn("apiVersion: policy/v1beta1\n", self.applied)
        self.assertNotIn("apiVersion: policy/v1\n", self.applied)


if __name__ == "__main__":
    unittest.main()
