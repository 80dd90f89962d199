"""Runs the benchmarks of both crates and saves their targets, allocations and growth curves in one file."""

import argparse
import json
import re
import subprocess
from pathlib import Path

from measurement import save
from processes import BENCH

ROOT = BENCH.parent.parent
CRATES = ("reqwest-wi-auth", "tower-oidc-guard")


def run_bench(crate, name):
    """Runs a bench. Returns its output, and whether it exited with 0, which means that all targets are met."""
    command = ["cargo", "bench", "--locked", "--all-features", "-p", crate, "--bench", name]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(ended.stdout, flush=True)
    if ended.returncode:
        print(f"{crate}: the bench {name} exited with {ended.returncode}\n{ended.stderr[-2000:]}")
    return ended.stdout, ended.returncode == 0


def measure_targets():
    targets, all_met = {}, True
    for crate in CRATES:
        text, met = run_bench(crate, "targets")
        lines = re.findall(r"^(target|allocations) (\S+): (\S+) (.*)$", text, re.MULTILINE)
        targets[crate] = [[kind, name, float(value), rest] for kind, name, value, rest in lines]
        all_met &= met
    return targets, all_met


def measure_curves(criterion):
    """Returns the nanoseconds of each point by curve, and the bytes held by number of cached tokens."""
    curves, memory = {}, {}
    for crate in CRATES:
        text, succeeded = run_bench(crate, "curves")
        if not succeeded:
            raise SystemExit(f"{crate}: the bench curves failed")
        for count, held in re.findall(r"^memory_by_distinct_tokens/(\d+): (\d+) bytes$", text, re.MULTILINE):
            memory[int(count)] = int(held)
    for estimates in criterion.glob("*/*/new/estimates.json"):
        curve, parameter = estimates.parts[-4], estimates.parts[-3]
        median = json.loads(estimates.read_text())["median"]["point_estimate"]
        curves.setdefault(curve, {})[int(parameter)] = median
    return {curve: dict(sorted(points.items())) for curve, points in curves.items()}, dict(sorted(memory.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--criterion", type=Path, required=True, help="the folder that Criterion writes its estimates to")
    arguments = parser.parse_args()
    targets, all_met = measure_targets()
    curves, memory = measure_curves(arguments.criterion)
    save("microbenchmarks", {"targets": targets, "curves": curves, "memory": memory})
    raise SystemExit(0 if all_met else 1)


if __name__ == "__main__":
    main()
