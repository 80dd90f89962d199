"""Counts the instructions of one request on each path through the guard, in user space, with callgrind.

Unlike time, the count does not depend on what else the machine does.
"""

import argparse
import tempfile
from pathlib import Path

from measurement import count_instructions, save

PATHS = ("raw", "cold", "bare", "uncached", "cached", "bare-behind-framework", "cached-behind-framework")
REQUESTS = 200
# What a guard that knows the token may add to a request.
LIMIT_OVER_BARE = 2000


def instructions_per_request(bench, path, profile):
    total = count_instructions([bench, path, REQUESTS], profile, "--toggle-collect=*measured*")
    return total / REQUESTS


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", type=Path, required=True, help="the compiled bench `instructions`")
    parser.add_argument("--profiles", type=Path, help="the folder to keep callgrind's profiles in")
    parser.add_argument("--smoke", action="store_true", help="do not save the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.profiles or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        counts = {
            path: instructions_per_request(arguments.bench, path, folder / f"{path}.callgrind") for path in PATHS
        }
    for path, count in counts.items():
        print(f"{path:10} {count:10.0f} instructions")
    # Behind axum or tonic, which have put something in the extensions of a request already.
    added = counts["cached-behind-framework"] - counts["bare-behind-framework"]
    target = ["cached_guard_instructions_over_bare_service", round(added), f"instructions (limit {LIMIT_OVER_BARE})"]
    print("target {}: {} {}".format(*target))
    if not arguments.smoke:
        save("instructions", {"counts": counts, "target": target})
    raise SystemExit(0 if added <= LIMIT_OVER_BARE else 1)


if __name__ == "__main__":
    main()
