"""Counts the cache lines that two threads both write while they send requests with one token, with Valgrind's lackey.

A line that several threads write moves from core to core, and each core waits until it has the line. If there is none, a request
takes as long on 64 threads as on one. lackey prints the address of each write. The bench `instructions` lets two threads take
turns, and marks the begin and the end of each turn by a write to an address that it prints.
"""

import argparse
import subprocess
import threading
from pathlib import Path

from measurement import save

REQUESTS = 50
LINE_BYTES = 64
# The guarded service, and the service alone for comparison.
PATHS = {"guarded": "two-threads", "bare": "two-threads-bare"}


class Turns:
    """The cache lines that were written in each turn."""

    def __init__(self):
        self.mark = None
        self.ended = []
        self.current = None

    def read(self, trace):
        for line in trace:
            address, size = line[3:].split(",")
            first = int(address, 16)
            if first == self.mark:
                self.begin_or_end()
            elif self.current is not None:
                last = first + int(size) - 1
                self.current.update(range(first // LINE_BYTES, last // LINE_BYTES + 1))

    def begin_or_end(self):
        if self.current is None:
            self.current = set()
        else:
            self.ended.append(self.current)
            self.current = None


def lines_of_threads(bench, path):
    """Returns the cache lines that each of the two threads has written."""
    lackey = ["valgrind", "--tool=lackey", "--basic-counts=no", "--trace-mem=yes"]
    pipe = subprocess.PIPE
    program = subprocess.Popen([*lackey, bench, path, str(REQUESTS)], stdin=pipe, stdout=pipe, stderr=pipe)
    # Reads and instructions are most of the trace, and of no interest.
    writes = subprocess.Popen(["grep", "-a", "^ [SM] "], stdin=program.stderr, stdout=pipe, text=True)
    program.stderr.close()
    turns = Turns()
    reader = threading.Thread(target=turns.read, args=[writes.stdout])
    reader.start()
    name, address = program.stdout.readline().split()
    if name != b"mark":
        raise SystemExit(f"{bench} {path} printed {name}, expected the address of the mark")
    turns.mark = int(address, 16)
    # No turn is marked before this line is read.
    program.stdin.write(b"\n")
    program.stdin.close()
    code = program.wait()
    reader.join()
    if code or not turns.ended or len(turns.ended) % 2 or turns.current is not None:
        raise SystemExit(f"{bench} {path} exited with {code} after {len(turns.ended)} turns")
    return set().union(*turns.ended[0::2]), set().union(*turns.ended[1::2])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", type=Path, required=True, help="the compiled bench `instructions`")
    parser.add_argument("--smoke", action="store_true", help="do not save the figures")
    arguments = parser.parse_args()
    shared = {}
    for name, path in PATHS.items():
        first, second = lines_of_threads(arguments.bench, path)
        shared[name] = len(first & second)
        print(f"{name}: {len(first)} and {len(second)} lines written by the two threads, {shared[name]} by both")
        for line in sorted(first & second):
            print(f"  {line * LINE_BYTES:#x}")
    limit = 0
    target = ["lines_written_by_two_threads", shared["guarded"], f"lines (limit {limit})"]
    print("target {}: {} {}".format(*target))
    if not arguments.smoke:
        save("shared_lines", {"shared": shared, "target": target})
    raise SystemExit(0 if shared["guarded"] <= limit else 1)


if __name__ == "__main__":
    main()
