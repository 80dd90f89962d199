"""What the benches of both crates print, in one file: targets, allocations, growth."""

import argparse
import json
import re
import subprocess
from pathlib import Path

from machine import keep
from programs import BENCH

ROOT = BENCH.parent.parent
CRATES = ("reqwest-wi-auth", "tower-oidc-guard")


def bench(crate, name):
    """What a bench prints; the exit code says whether its targets are met."""
    command = ["cargo", "bench", "--locked", "--all-features", "-p", crate, "--bench", name]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(ended.stdout, flush=True)
    if ended.returncode:
        print(f"{crate}: {name} ended with {ended.returncode}\n{ended.stderr[-2000:]}")
    return ended.stdout, ended.returncode == 0


def targets():
    lines, met = {}, True
    for crate in CRATES:
        text, all_met = bench(crate, "targets")
        found = re.findall(r"^(target|allocations) (\S+): (\S+) (.*)$", text, re.MULTILINE)
        lines[crate] = [[kind, name, float(value), rest] for kind, name, value, rest in found]
        met &= all_met
    return lines, met


def curves(folder):
    """The nanoseconds of each point, by group, and the bytes that tokens take."""
    points, memory = {}, {}
    for crate in CRATES:
        text, met = bench(crate, "curves")
        if not met:
            raise SystemExit(f"{crate}: the curves failed")
        for count, held in re.findall(r"^memory_by_distinct_tokens/(\d+): (\d+) bytes$", text, re.MULTILINE):
            memory[int(count)] = int(held)
    for estimates in folder.glob("*/*/new/estimates.json"):
        group, parameter = estimates.parts[-4], estimates.parts[-3]
        median = json.loads(estimates.read_text())["median"]["point_estimate"]
        points.setdefault(group, {})[int(parameter)] = median
    sort = lambda table: dict(sorted(table.items()))
    return {group: sort(found) for group, found in points.items()}, sort(memory)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--criterion", type=Path, required=True, help="where Criterion leaves its figures")
    arguments = arguments.parse_args()
    lines, met = targets()
    points, memory = curves(arguments.criterion)
    keep("process", {"targets": lines, "curves": points, "memory": memory})
    raise SystemExit(0 if met else 1)


if __name__ == "__main__":
    main()
