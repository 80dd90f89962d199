"""Measures what a client's request costs with each kind of middleware: CPU time, and instructions in user space.

Each program sends requests one after the other over one loopback connection to a server on another core. Start-up is
subtracted: for CPU time a run without requests, for instructions the difference of two runs.
"""

import argparse
import math
import os
import subprocess
import tempfile
from pathlib import Path

from measurement import SMOKE_HELP, count_instructions, output_of, save, spread
from processes import Server, load_cores, running_issuer, terminated

CLIENTS = ("reqwest", "noop", "header", "bearer-auth", "bearer-auth-sent-once", "huskarl", "kube-rs", "google-cloud-auth")
# The clients that send no token.
WITHOUT_TOKEN = {"reqwest", "noop"}
# The clients whose instructions are counted in a smoke run; each run under callgrind takes several seconds.
COUNTED_IN_SMOKE = {"header", "bearer-auth"}
# Requests that are counted under callgrind.
COUNTED = 1000


def cpu_seconds(command):
    """Runs a command and returns its user and system time."""
    child = os.fork()
    if not child:
        os.sched_setaffinity(0, load_cores())
        os.execv(command[0], [str(part) for part in command])
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return usage.ru_utime + usage.ru_stime


def is_admitted(program, client, url, token):
    command = [program, client, url, token, "1"]
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0


def check(program, server, token, folder):
    """Exits unless the guarded path admits exactly the requests of clients that send a token, and only with a good one."""
    forged = folder / "forged"
    forged.write_text((folder / "wrong-signature").read_text().split()[0])
    for client in CLIENTS:
        url = server.url("/private")
        if is_admitted(program, client, url, token) == (client in WITHOUT_TOKEN):
            raise SystemExit(f"{client} does not send the token, or one that it was not given")
        if is_admitted(program, client, url, forged):
            raise SystemExit(f"{client} does not send the token that it was given")


def instructions(command, requests):
    with tempfile.TemporaryDirectory() as folder:
        return count_instructions([*command, requests], Path(folder) / "profile")


def measure(program, url, token, rounds, requests, counted, counted_clients):
    """Returns CPU microseconds and instructions per request, by client. The clients take turns in each round."""

    def counted_instructions(client, command):
        if client not in counted_clients:
            return math.nan
        return (instructions(command, 2 * counted) - instructions(command, counted)) / counted

    commands = {client: [program, client, url, token] for client in CLIENTS}
    microseconds = {client: [] for client in CLIENTS}
    for _ in range(rounds):
        for client, command in commands.items():
            startup = cpu_seconds([*command, 0])
            microseconds[client].append((cpu_seconds([*command, requests]) - startup) / requests * 1e6)
    return {
        client: {
            "cpu": spread(microseconds[client]),
            "instructions": counted_instructions(client, command),
        }
        for client, command in commands.items()
    }


def print_table(table):
    print(f"{'client':22} {'CPU us':>8} {'(least to most)':>18} {'instructions':>13} {'over header':>12}")
    base = table["header"]["instructions"]
    for client, row in table.items():
        cpu = row["cpu"]
        print(
            f"{client:22} {cpu['median']:8.2f} {cpu['least']:8.2f} to {cpu['most']:6.2f} "
            f"{row['instructions']:13.0f} {row['instructions'] - base:+12.0f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="the folder of the compiled programs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=40_000, help="requests per round")
    parser.add_argument("--smoke", action="store_true", help=SMOKE_HELP)
    arguments = parser.parse_args()
    counted, counted_clients = COUNTED, set(CLIENTS)
    if arguments.smoke:
        arguments.rounds, arguments.requests, counted, counted_clients = 1, 1000, 50, COUNTED_IN_SMOKE
    with running_issuer(arguments.programs, 1) as issuer:
        token = issuer.folder / "token"
        token.write_text((issuer.folder / "good").read_text().strip())
        server = Server("the server", lambda port: [arguments.programs / "tower-oidc-guard", port, issuer.url])
        with terminated([server]):
            server.wait_until_listening()
            program = arguments.programs / "client"
            check(program, server, token, issuer.folder)
            method = (arguments.rounds, arguments.requests, counted, counted_clients)
            table = measure(program, server.url("/"), token, *method)
    print_table(table)
    if not arguments.smoke:
        versions = {"valgrind": output_of("valgrind", "--version").removeprefix("valgrind-")}
        method = {"rounds": arguments.rounds, "requests": arguments.requests, "counted": counted}
        save("client", {"versions": versions, "method": method, "clients": table})


if __name__ == "__main__":
    main()
