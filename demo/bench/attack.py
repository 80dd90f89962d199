"""What bad tokens do to good requests: the same load once to the open path and once to the guarded one.

Good requests come at a fixed rate on connections of their own, and beside them bad ones at a fixed rate, of each kind
in turn. The open path reads no token, so what it shows is the load alone.
"""

import argparse
import json
import subprocess
import threading
import time
from pathlib import Path

from machine import keep
from programs import Program, Server, issuer, running

KINDS = (None, "wrong-signature", "unknown-key", "huge", "garbage")
PATHS = {"open": "/", "guarded": "/private"}
TOKENS = 3000
PERCENTILES = {"median": "p50", "99 %": "p99", "99.9 %": "p99.9"}


class Memory:
    """Looks at the server's memory every half second."""

    def __init__(self, server):
        self.server, self.seen, self.stopped = server, [], threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self):
        began = time.monotonic()
        while not self.stopped.wait(0.5):
            self.seen.append([round(time.monotonic() - began, 1), self.server.resident_kilobytes()])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


def phase(arguments, server, keys, path, kind):
    """One kind of bad tokens beside good ones; latencies in microseconds."""
    url = server.url(PATHS[path])
    fetches, cpu = keys.key_fetches(), server.cpu_seconds()
    good = (keys.folder / "good").read_text().split()[0]
    oha = [
        arguments.oha, "--no-tui", "--output-format", "json", "-z", f"{arguments.seconds}s", "-c", 16,
        "-q", arguments.good, "--latency-correction", "-H", f"Authorization: Bearer {good}", url,
    ]
    loads = [Program(oha, of_load=True, stdout=subprocess.PIPE, text=True)]
    if kind:
        flood = [arguments.programs / "flood", url, keys.folder / kind, arguments.bad, arguments.seconds]
        loads.append(Program(flood, of_load=True, stdout=subprocess.PIPE, text=True))
    said = [json.loads(load.process.communicate()[0]) for load in loads]
    latencies = said[0]["latencyPercentiles"]
    return {
        "good": said[0]["statusCodeDistribution"],
        "bad": said[1] if kind else {},
        "latency": {name: latencies[key] * 1e6 for name, key in PERCENTILES.items()},
        "fetches": keys.key_fetches() - fetches,
        "cpu_seconds": server.cpu_seconds() - cpu,
        "kilobytes": server.resident_kilobytes(),
    }


def faults(phases):
    """What must not happen, whatever the machine."""
    for kind, paths in phases.items():
        for path, told in paths.items():
            if set(told["good"]) != {"200"}:
                yield f"{kind}, {path}: good requests were answered with {told['good']}"
            # Requests with a made-up key may wait for a fetch, and then the flood holds back.
            refused = {"200"} if path == "open" else {"401", "503", "not sent"}
            if not set(told["bad"]) <= refused:
                yield f"{kind}, {path}: bad requests were answered with {told['bad']}"
        # A made-up key may have the issuer asked once in five seconds, whatever the flood; nothing else may at all.
        most = 0 if kind != "unknown-key" else 1 + told["seconds"] / 5
        if paths["guarded"]["fetches"] > most:
            yield f"{kind}: the issuer was asked {paths['guarded']['fetches']} times"


def show(phases):
    print(f"\n{'beside good requests':22} {'path':8} {'median':>8} {'99 %':>8} {'99.9 %':>8} {'fetches':>8} {'MB':>6}")
    for kind, paths in phases.items():
        for path, told in paths.items():
            latency = " ".join(f"{told['latency'][name]:8.0f}" for name in PERCENTILES)
            print(f"{kind:22} {path:8} {latency} {told['fetches']:8} {told['kilobytes'] / 1024:6.1f}  bad: {told['bad']}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=Path, required=True)
    arguments.add_argument("--oha", type=Path, required=True)
    arguments.add_argument("--seconds", type=int, default=12)
    arguments.add_argument("--good", type=int, default=1000, help="good requests a second")
    arguments.add_argument("--bad", type=int, default=4000, help="bad requests a second")
    arguments.add_argument("--smoke", action="store_true", help="see that all runs: short, not judged, not kept")
    arguments = arguments.parse_args()
    if arguments.smoke:
        arguments.seconds = 2
    phases = {}
    with issuer(arguments.programs, TOKENS) as keys:
        server = Server("the server", lambda port: [arguments.programs / "ours", port, keys.url])
        with running([server]):
            server.wait()
            with Memory(server) as memory:
                for kind in KINDS:
                    phases[kind or "nothing"] = {
                        path: {**phase(arguments, server, keys, path, kind), "seconds": arguments.seconds}
                        for path in PATHS
                    }
    show(phases)
    if not arguments.smoke:
        method = {name: getattr(arguments, name) for name in ("seconds", "good", "bad")}
        keep("attack", {"versions": {"oha": "1.16.0"}, "method": method, "phases": phases, "memory": memory.seen})
    wrong = list(faults(phases))
    print(*wrong, sep="\n")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
