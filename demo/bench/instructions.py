"""Instructions a request of the guard's paths, in user space, as callgrind counts them: the same on every run, whatever
else the machine does."""

import argparse
import tempfile
from pathlib import Path

from machine import count_instructions, keep

PATHS = ("raw", "cold", "bare", "uncached", "cached")
REQUESTS = 200


def count(bench, path, profile):
    total = count_instructions([bench, path, REQUESTS], profile, "--toggle-collect=*measured*")
    return total / REQUESTS


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--bench", type=Path, required=True, help="the built bench `instructions`")
    arguments.add_argument("--profiles", type=Path, help="where to leave callgrind's profiles")
    arguments.add_argument("--smoke", action="store_true", help="keep nothing")
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = arguments.profiles or Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        counts = {path: count(arguments.bench, path, folder / f"{path}.callgrind") for path in PATHS}
    for path, instructions in counts.items():
        print(f"{path:10} {instructions:10.0f} instructions")
    if not arguments.smoke:
        keep("instructions", {"counts": counts})


if __name__ == "__main__":
    main()
