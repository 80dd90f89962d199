"""Measures what each server's guard costs: CPU time of the server per request on the guarded path, minus the open path.

Both paths are sent the same header. The servers take turns in each round, so that a slow phase of the machine affects
all of them.
"""

import argparse
import json
import os
import urllib.error
import urllib.request
from pathlib import Path

from measurement import SMOKE_HELP, run, save, server_versions, spread
from processes import BENCH, Server, load_cores, running_issuer, terminated

TOKENS = 3000
SMOKE_TOKENS = 100
CONNECTIONS = 32
# How many different tokens are sent, by the name under which the results are saved.
LOADS = {"same": 1, "different": TOKENS}
PATHS = {"open": "/", "guarded": "/private"}
OURS = "tower-oidc-guard"
# The program and the environment of each server except Envoy.
PROGRAMS = {
    OURS: ("tower-oidc-guard", {}),
    f"{OURS}, cache off": ("tower-oidc-guard", {"UNCACHED": "1"}),
    "huskarl-resource-server": ("huskarl", {}),
    "jwt-authorizer": ("jwt-authorizer", {}),
    "oauth-resource-server": ("oauth-resource-server", {}),
    "tower-oauth2-resource-server": ("tower-oauth2-resource-server", {}),
    "tower-oauth2-resource-server, aws-lc-rs": ("tower-oauth2-resource-server", {"AWS_LC": "1"}),
    "google-cloud-auth": ("google-cloud-auth", {}),
    "gcloud-sdk": ("gcloud-sdk", {}),
    "Go, go-oidc": ("go-oidc", {}),
}
# Servers that accept nothing but tokens that name Google as their issuer.
GOOGLE_VERIFIERS = {"google-cloud-auth", "gcloud-sdk"}
# Envoy's cache size in tokens (none, fewer than are sent, all that are sent), and whether it passes the claims on to
# the service, as all other guards do.
ENVOY_SETTINGS = {
    "Envoy": (0, True),
    "Envoy, cache of 1,000": (1000, True),
    "Envoy, cache of 4,096": (4096, True),
    "Envoy, cache of 4,096, claims dropped": (4096, False),
}


def program_command(program, issuer):
    return lambda port: [program, port, issuer.url]


def envoy_command(envoy, issuer, cache_size, pass_claims):
    def command(port):
        text = (BENCH / "peers" / "envoy.yaml").read_text()
        text = text.replace("ISSUER_PORT", issuer.url.rpartition(":")[2]).replace("PORT", str(port))
        text = text.replace("CACHE", f"jwt_cache_config: {{ jwt_cache_size: {cache_size} }}" if cache_size else "")
        text = text.replace("CLAIMS", "payload_in_metadata: caller" if pass_claims else "")
        file = issuer.folder / f"envoy-{port}.yaml"
        file.write_text(text)
        # Instances that run at the same time need different base ids.
        return [envoy, "-c", file, "--concurrency", 1, "--base-id", port, "-l", "error"]

    return command


def start_servers(arguments, issuer):
    """Starts all servers, in the order of the table."""
    for name, (program, environment) in PROGRAMS.items():
        # Not built for a smoke run.
        if arguments.smoke and name in GOOGLE_VERIFIERS:
            continue
        yield Server(name, program_command(arguments.programs / program, issuer), environment=environment)
    for name, (cache_size, pass_claims) in ENVOY_SETTINGS.items():
        yield Server(name, envoy_command(arguments.envoy, issuer, cache_size, pass_claims))


def token_file(server, issuer):
    """Returns the file of good tokens for this server."""
    return issuer.folder / ("google" if server.name in GOOGLE_VERIFIERS else "good")


def status_of(url, authorization):
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def check(server, issuer):
    """Exits unless the server admits a good token, and refuses others and requests without a token on the guarded path."""
    good = token_file(server, issuer).read_text().split()[0]
    prefix = "google-" if server.name in GOOGLE_VERIFIERS else ""
    signed, _, signature = good.rpartition(".")
    changed = "B" if signature[20] == "A" else "A"
    bearers = {
        "a good token": (good, {200}),
        "a wrong signature": (f"{signed}.{signature[:20]}{changed}{signature[21:]}", {401}),
        # Envoy answers 403 to a token for another audience.
        "a wrong audience": ((issuer.folder / f"{prefix}wrong-audience").read_text().strip(), {401, 403}),
        "an expired token": ((issuer.folder / f"{prefix}expired").read_text().strip(), {401}),
        "text that is no token": ("garbage", {401}),
        "no token": (None, {401}),
    }
    for name, (token, expected) in bearers.items():
        status = status_of(server.url("/private"), token and f"Bearer {token}")
        if status not in expected:
            raise SystemExit(f"{server.name} answered {status} to {name}; expected {sorted(expected)}")


def send(server, path, tokens, file, seconds):
    """Runs wrk once. Returns requests per second, and the server's CPU microseconds per request."""
    cpu = server.cpu_seconds()
    output = run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", BENCH / "load.lua", server.url(PATHS[path])],
        env={**os.environ, "TOKEN_FILE": str(file), "TOKENS": str(tokens)},
        preexec_fn=lambda: os.sched_setaffinity(0, load_cores()),
    )
    summary = json.loads(output.splitlines()[-1])
    if summary["failed"] or not summary["requests"]:
        raise SystemExit(f"{server.name}, {path}: {summary['failed']} of {summary['requests']} requests failed")
    return {
        "rate": summary["requests"] / summary["microseconds"] * 1e6,
        "cpu": (server.cpu_seconds() - cpu) / summary["requests"] * 1e6,
    }


def warm_up(servers, issuer, seconds):
    """Sends requests to both paths of each server, which are not counted."""
    for server in servers:
        for path in PATHS:
            send(server, path, TOKENS, token_file(server, issuer), seconds)


def measure(servers, issuer, loads, rounds, seconds):
    """Returns the result of each round by server, load and path."""
    runs = {server.name: {load: {path: [] for path in PATHS} for load in loads} for server in servers}
    for number in range(rounds):
        for server in servers:
            file = token_file(server, issuer)
            for load, tokens in loads.items():
                for path in PATHS:
                    runs[server.name][load][path].append(send(server, path, tokens, file, seconds))
        print(f"round {number + 1} of {rounds}", flush=True)
    return runs


def summarize(runs):
    """Adds what the guard costs: the difference of both paths in each round, when the machine was equally fast."""
    table = {}
    for name, loads in runs.items():
        table[name] = {}
        for load, paths in loads.items():
            pairs = zip(paths["guarded"], paths["open"])
            row = {"added": spread([guarded["cpu"] - open_["cpu"] for guarded, open_ in pairs])}
            for path, rounds in paths.items():
                row[path] = {quantity: spread([run[quantity] for run in rounds]) for quantity in ("cpu", "rate")}
            table[name][load] = row
    return table


def print_table(table):
    print(f"\n{'server':40} {'token':>9} {'open':>7} {'guarded':>8} {'added':>7} {'(least to most)':>18} {'req/s':>8}")
    for name, loads in table.items():
        for load, row in loads.items():
            added = row["added"]
            print(
                f"{name:40} {load:>9} {row['open']['cpu']['median']:7.2f} {row['guarded']['cpu']['median']:8.2f} "
                f"{added['median']:7.2f} {added['least']:8.2f} to {added['most']:6.2f} "
                f"{row['guarded']['rate']['median']:8.0f}"
            )


def targets(table):
    """Yields a line for each target, and whether it is met."""

    def added(name, load):
        return table[name][load]["added"]["median"]

    peers = {"Envoy, cache of 1,000": 5, "Go, go-oidc": 3}
    # 0.07 to 0.18 and 0.28 to 0.35 on two machines. Without a cache, a request takes 2.5 to 4 times as long as the open path.
    for load, limit in {"same": 1 / 3, "different": 1}.items():
        ratio = added(OURS, load) / table[OURS][load]["open"]["cpu"]["median"]
        line = f"target added_{load}_token: {ratio:.3f} times the open path (limit {limit:.2g})"
        yield f"{line}, {added(OURS, load):.2f} us", ratio <= limit
        for peer, factor in peers.items():
            ratio = added(OURS, load) / added(peer, load)
            name = peer.split(",")[0].lower()
            yield f"target added_{load}_token_over_{name}: {ratio:.3f} (limit 1/{factor})", ratio <= 1 / factor


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=Path, required=True, help="the folder of the compiled programs")
    parser.add_argument("--envoy", type=Path, required=True, help="the Envoy binary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="seconds for each run of wrk")
    parser.add_argument("--smoke", action="store_true", help=SMOKE_HELP)
    arguments = parser.parse_args()
    loads = LOADS
    if arguments.smoke:
        arguments.rounds, arguments.seconds, loads = 1, 1, {"different": SMOKE_TOKENS}
    with running_issuer(arguments.programs, max(loads.values())) as issuer:
        with terminated([]) as servers:
            for server in start_servers(arguments, issuer):
                servers.append(server)
            for server in servers:
                server.wait_until_listening()
                check(server, issuer)
            token = (issuer.folder / "good").read_text().splitlines()[0]
            if not arguments.smoke:
                warm_up(servers, issuer, arguments.seconds)
            runs = measure(servers, issuer, loads, arguments.rounds, arguments.seconds)
    table = summarize(runs)
    print_table(table)
    if arguments.smoke:
        return
    lines = list(targets(table))
    print(*[line for line, _ in lines], sep="\n")
    method = {"rounds": arguments.rounds, "seconds": arguments.seconds, "token_bytes": len(token)}
    save("servers", {"versions": server_versions(), "method": method, "servers": table})
    raise SystemExit(0 if all(met for _, met in lines) else 1)


if __name__ == "__main__":
    main()
