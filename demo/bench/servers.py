"""What each server's guard costs a request: CPU of the server's process on the guarded path minus the open path.

Every server gets the same header on both paths. The rounds take turns, so that what slows the machine slows all.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

from machine import keep, spread, versions
from programs import BENCH, Server, cores, issuer, running

TOKENS = 3000
CONNECTIONS = 32
LOADS = {"same": 1, "different": TOKENS}
PATHS = {"open": "/", "guarded": "/private"}
OURS = "tower-oidc-guard"
RUST = {
    OURS: ("ours", {}),
    f"{OURS}, cache off": ("ours", {"UNCACHED": "1"}),
    "jwt-authorizer": ("jwt-authorizer", {}),
    "oauth-resource-server": ("oauth-resource-server", {}),
    "tower-oauth2-resource-server": ("tower-oauth2-resource-server", {}),
    "tower-oauth2-resource-server, aws-lc-rs": ("tower-oauth2-resource-server-aws-lc", {}),
    "Go, go-oidc": ("go-oidc", {}),
}
# How many tokens a worker of Envoy keeps (none, fewer than there are, all), and whether what stands behind jwt_authn
# gets the claims, as it does from all the others.
ENVOYS = {
    "Envoy": (0, True),
    "Envoy, cache of 1,000": (1000, True),
    "Envoy, cache of 4,096": (4096, True),
    "Envoy, cache of 4,096, claims dropped": (4096, False),
}


def start(programs, envoy, url, folder):
    """All servers, in the order of the table."""

    def plain(program):
        return lambda port: [programs / program, port, url]

    def configured(cache, told):
        def command(port):
            text = (BENCH / "peers" / "envoy.yaml").read_text()
            text = text.replace("ISSUER_PORT", url.rpartition(":")[2]).replace("PORT", str(port))
            text = text.replace("CACHE", f"jwt_cache_config: {{ jwt_cache_size: {cache} }}" if cache else "")
            text = text.replace("TOLD", "payload_in_metadata: caller" if told else "")
            file = Path(folder) / f"envoy-{port}.yaml"
            file.write_text(text)
            # A number of its own for each, since several run side by side.
            return [envoy, "-c", file, "--concurrency", 1, "--base-id", port, "-l", "error"]

        return command

    for name, (program, environment) in RUST.items():
        yield Server(name, plain(program), environment=environment)
    for name, (cache, told) in ENVOYS.items():
        yield Server(name, configured(cache, told))


def load(server, path, tokens, file, seconds):
    """One run of wrk; requests a second, and the server's CPU microseconds a request."""
    before = server.cpu_seconds()
    wrk = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", BENCH / "load.lua", server.url(PATHS[path])],
        env={**os.environ, "FILE": str(file), "TOKENS": str(tokens)},
        preexec_fn=lambda: os.sched_setaffinity(0, cores()[1]),
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(wrk.stdout.splitlines()[-1])
    if said["failed"] or not said["requests"]:
        raise SystemExit(f"{server.name}, {path}: {said['failed']} of {said['requests']} requests failed")
    return {
        "rate": said["requests"] / said["microseconds"] * 1e6,
        "cpu": (server.cpu_seconds() - before) / said["requests"] * 1e6,
    }


def measure(servers, file, rounds, seconds):
    """For each server and load, the figures of both paths, round by round."""
    runs = {server.name: {kind: {path: [] for path in PATHS} for kind in LOADS} for server in servers}
    for server in servers:
        for path in PATHS:
            load(server, path, TOKENS, file, seconds)
    for round in range(rounds):
        for server in servers:
            for kind, tokens in LOADS.items():
                for path in PATHS:
                    runs[server.name][kind][path].append(load(server, path, tokens, file, seconds))
        print(f"round {round + 1} of {rounds}", flush=True)
    return runs


def figures(runs):
    """Medians and spreads, and what the guard adds: round by round, so that both sides met the same machine."""
    table = {}
    for name, kinds in runs.items():
        table[name] = {}
        for kind, paths in kinds.items():
            pairs = zip(paths["guarded"], paths["open"])
            row = {"added": spread([guarded["cpu"] - open_["cpu"] for guarded, open_ in pairs])}
            for path, rounds in paths.items():
                row[path] = {what: spread([run[what] for run in rounds]) for what in ("cpu", "rate")}
            table[name][kind] = row
    return table


def show(table):
    print(f"\n{'server':40} {'token':>9} {'open':>7} {'guarded':>8} {'added':>7} {'(least to most)':>18} {'req/s':>8}")
    for name, kinds in table.items():
        for kind, row in kinds.items():
            added = row["added"]
            print(
                f"{name:40} {kind:>9} {row['open']['cpu']['median']:7.2f} {row['guarded']['cpu']['median']:8.2f} "
                f"{added['median']:7.2f} {added['least']:8.2f} to {added['most']:6.2f} "
                f"{row['guarded']['rate']['median']:8.0f}"
            )


def verdicts(table):
    """The figures that are promised."""
    def added(name, kind):
        return table[name][kind]["added"]["median"]

    peers = {"Envoy, cache of 1,000": 5, "Go, go-oidc": 3}
    for kind, most in {"same": 1, "different": 20}.items():
        yield f"target added_{kind}_token: {added(OURS, kind):.2f} us (limit {most})", added(OURS, kind) <= most
        for peer, times in peers.items():
            part = added(OURS, kind) / added(peer, kind)
            name = peer.split(",")[0].lower()
            yield f"target added_{kind}_token_over_{name}: {part:.3f} (limit 1/{times})", part <= 1 / times


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--programs", type=Path, required=True)
    arguments.add_argument("--envoy", type=Path, required=True)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=int, default=2)
    arguments.add_argument("--smoke", action="store_true", help="see that all runs: short, not judged, not kept")
    arguments = arguments.parse_args()
    if arguments.smoke:
        arguments.rounds, arguments.seconds = 1, 1
    with issuer(arguments.programs, TOKENS) as keys:
        with running([]) as servers:
            for server in start(arguments.programs, arguments.envoy, keys.url, keys.folder):
                servers.append(server)
            for server in servers:
                server.wait()
            token = (keys.folder / "good").read_text().splitlines()[0]
            runs = measure(servers, keys.folder / "good", arguments.rounds, arguments.seconds)
    table = figures(runs)
    show(table)
    verdict = list(verdicts(table))
    print(*[line for line, _ in verdict], sep="\n")
    if arguments.smoke:
        return
    method = {"rounds": arguments.rounds, "seconds": arguments.seconds, "token_bytes": len(token)}
    keep("servers", {"versions": versions(), "method": method, "servers": table})
    raise SystemExit(0 if all(met for _, met in verdict) else 1)


if __name__ == "__main__":
    main()
