"""Measures the latency of good requests while bad tokens arrive, on the open path and on the guarded path.

Good requests are sent at a fixed rate over their own connections; at the same time, requests with one kind of bad token
after another are sent at a fixed rate. The open path reads no token, so it shows the effect of the load alone.
"""

import argparse
import contextlib
import json
import signal
import subprocess
import threading
import time
from pathlib import Path

from measurement import SMOKE_HELP, save
from processes import Process, Server, load_cores, running_issuer, terminated

# "none" is the baseline without bad requests. With "slow-issuer", the tokens have unknown keys, and the issuer responds to no
# fetch until the end of the phase.
BAD_TOKENS = ("none", "wrong-signature", "unknown-key", "slow-issuer", "huge", "garbage")
UNKNOWN_KEYS = {"unknown-key", "slow-issuer"}
# The tokens that newer keys might verify.
NEWER_KEYS = {"wrong-signature", *UNKNOWN_KEYS}
PATHS = {"open": "/", "guarded": "/private"}
TOKENS = 3000
PERCENTILES = {"median": "p50", "99 %": "p99", "99.9 %": "p99.9"}
# The guard limits fetches for such tokens to a burst, and then to one per interval. The last requests wait for up to five seconds.
FETCH_BURST, FETCH_INTERVAL_SECONDS, LONGEST_WAIT_SECONDS = 3, 5, 5


class MemorySampler:
    """Records a server's resident memory twice a second, as pairs of seconds and kilobytes."""

    def __init__(self, server):
        self.server, self.samples, self.stopped = server, [], threading.Event()
        self.thread = threading.Thread(target=self.sample)

    def sample(self):
        started = time.monotonic()
        while not self.stopped.wait(0.5):
            self.samples.append([round(time.monotonic() - started, 1), self.server.resident_kilobytes()])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join()


@contextlib.contextmanager
def stopped(process):
    """Stops a process until the end of the block."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def measure(arguments, server, issuer, path, bad_tokens):
    """Sends good requests and one kind of bad ones. Latencies are in microseconds."""
    url = server.url(PATHS[path])
    fetches, cpu = issuer.key_fetches(), server.cpu_seconds()
    good = (issuer.folder / "good").read_text().split()[0]
    commands = [[
        arguments.oha, "--no-tui", "--output-format", "json", "-z", f"{arguments.seconds}s", "-c", 16,
        "-q", arguments.good, "--latency-correction", "-H", f"Authorization: Bearer {good}", url,
    ]]
    if bad_tokens != "none":
        tokens = issuer.folder / ("unknown-key" if bad_tokens in UNKNOWN_KEYS else bad_tokens)
        commands.append([arguments.programs / "flood", url, tokens, arguments.bad, arguments.seconds])
    with stopped(issuer.process) if bad_tokens == "slow-issuer" else contextlib.nullcontext():
        loads = [Process(command, load_cores(), stdout=subprocess.PIPE, text=True) for command in commands]
        outputs = [json.loads(load.process.communicate()[0]) for load in loads]
    latencies = outputs[0]["latencyPercentiles"]
    return {
        "good": outputs[0]["statusCodeDistribution"],
        "bad": outputs[1] if bad_tokens != "none" else {},
        "latency": {name: latencies[key] * 1e6 for name, key in PERCENTILES.items()},
        "fetches": issuer.key_fetches() - fetches,
        "cpu_seconds": server.cpu_seconds() - cpu,
        "kilobytes": server.resident_kilobytes(),
        "seconds": arguments.seconds,
    }


def violations(phases):
    """Yields what must not happen on any machine."""
    for bad_tokens, paths in phases.items():
        for path, phase in paths.items():
            if set(phase["good"]) != {"200"}:
                yield f"{bad_tokens}, {path}: good requests were answered with {phase['good']}"
            # Requests with an unknown key may wait for a fetch; then the flood reaches its limit and skips requests.
            expected = {"200"} if path == "open" else {"401", "503", "not sent"}
            if not set(phase["bad"]) <= expected:
                yield f"{bad_tokens}, {path}: bad requests were answered with {phase['bad']}"
        guarded = paths["guarded"]
        limit = 0
        if bad_tokens in NEWER_KEYS:
            limit = FETCH_BURST + (guarded["seconds"] + LONGEST_WAIT_SECONDS) / FETCH_INTERVAL_SECONDS
        if guarded["fetches"] > limit:
            yield f"{bad_tokens}: keys were fetched {guarded['fetches']} times (limit {limit:.0f})"


def print_table(phases):
    print(f"\n{'bad tokens':22} {'path':8} {'median':>8} {'99 %':>8} {'99.9 %':>8} {'fetches':>8} {'MB':>6}")
    for bad_tokens, paths in phases.items():
        for path, phase in paths.items():
            latency = " ".join(f"{phase['latency'][name]:8.0f}" for name in PERCENTILES)
            print(
                f"{bad_tokens:22} {path:8} {latency} {phase['fetches']:8} {phase['kilobytes'] / 1024:6.1f}"
                f"  bad: {phase['bad']}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="the folder of the compiled programs")
    parser.add_argument("--oha", type=Path, required=True, help="the load generator oha")
    parser.add_argument("--seconds", type=int, default=12, help="seconds for each kind of bad tokens and path")
    parser.add_argument("--good", type=int, default=1000, help="good requests per second")
    parser.add_argument("--bad", type=int, default=4000, help="bad requests per second")
    parser.add_argument("--smoke", action="store_true", help=SMOKE_HELP)
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.seconds = 2
    with running_issuer(arguments.programs, TOKENS) as issuer:
        server = Server("the server", lambda port: [arguments.programs / "tower-oidc-guard", port, issuer.url])
        with terminated([server]):
            server.wait_until_listening()
            with MemorySampler(server) as memory:
                phases = {
                    bad_tokens: {path: measure(arguments, server, issuer, path, bad_tokens) for path in PATHS}
                    for bad_tokens in BAD_TOKENS
                }
    print_table(phases)
    if not arguments.smoke:
        method = {name: getattr(arguments, name) for name in ("seconds", "good", "bad")}
        save("attack", {"versions": {"oha": "1.16.0"}, "method": method, "phases": phases, "memory": memory.samples})
    found = list(violations(phases))
    print(*found, sep="\n")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
