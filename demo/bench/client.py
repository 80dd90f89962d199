"""What a client's request costs on each way: CPU of the process, and instructions in user space.

One loop of requests on one connection of loopback, to a server on another core. Start-up is taken off: it is measured
with no requests, and for the instructions the difference of two loops counts.
"""

import argparse
import os
import tempfile
from pathlib import Path

from machine import count_instructions, keep, output, spread
from programs import Server, cores, issuer, running

WAYS = ("reqwest", "noop", "header", "bearer-auth", "bearer-auth-sent-once", "kube-rs", "google-cloud-auth")
COUNTED = 1000


def run(command):
    """User and system seconds of the process."""
    started = os.fork()
    if not started:
        os.sched_setaffinity(0, cores()[1])
        os.execv(command[0], [str(part) for part in command])
    _, status, usage = os.wait4(started, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime


def instructions(command, requests):
    with tempfile.TemporaryDirectory() as folder:
        return count_instructions([*command, requests], Path(folder) / "profile")


def measure(client, url, token, rounds, requests):
    seconds = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            command = [client, way, url, token]
            empty = run([*command, 0])
            seconds[way].append((run([*command, requests]) - empty) / requests * 1e6)
    counted = {}
    for way in WAYS:
        command = [client, way, url, token]
        more, less = instructions(command, 2 * COUNTED), instructions(command, COUNTED)
        counted[way] = (more - less) / COUNTED
    return {way: {"cpu": spread(seconds[way]), "instructions": counted[way]} for way in WAYS}


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--requests", type=int, default=40_000)
    arguments.add_argument("--smoke", action="store_true", help="see that all runs: short, not judged, not kept")
    arguments = arguments.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.requests = 1, 1000
    with issuer(arguments.programs, 1) as keys:
        token = keys.folder / "token"
        token.write_text((keys.folder / "good").read_text().strip())
        server = Server("the server", lambda port: [arguments.programs / "ours", port, keys.url])
        with running([server]):
            server.wait()
            url = server.url("/")
            table = measure(arguments.programs / "client", url, token, arguments.rounds, arguments.requests)
    print(f"{'way':22} {'CPU us':>8} {'(least to most)':>18} {'instructions':>13} {'over header':>12}")
    base = table["header"]["instructions"]
    for way, row in table.items():
        cpu = row["cpu"]
        print(
            f"{way:22} {cpu['median']:8.2f} {cpu['least']:8.2f} to {cpu['most']:6.2f} "
            f"{row['instructions']:13.0f} {row['instructions'] - base:+12.0f}"
        )
    if not arguments.smoke:
        versions = {"valgrind": output("valgrind", "--version").removeprefix("valgrind-")}
        method = {"rounds": arguments.rounds, "requests": arguments.requests, "counted": COUNTED}
        keep("client", {"versions": versions, "method": method, "ways": table})


if __name__ == "__main__":
    main()
