"""Writes the saved figures into BENCHMARKING.md and README.md.

Each table is placed between a comment with its name and a comment `end`.
"""

import re

from measurement import load
from processes import BENCH

ROOT = BENCH.parent.parent
OURS = "tower-oidc-guard"
# Rows in bold: those of this project.
BOLD = {OURS, f"{OURS}, cache off", "bearer-auth", "bearer-auth-sent-once"}
CLIENTS = {
    "reqwest": "reqwest without middleware",
    "noop": "reqwest-middleware with a middleware that does nothing",
    "header": "a middleware that adds a constant header value",
    "bearer-auth": "`BearerAuth`",
    "bearer-auth-sent-once": "`BearerAuth` with `without_resend`",
    "huskarl": "huskarl's `HttpAuthorizer` in a middleware",
    "kube-rs": "the work of kube-rs",
    "google-cloud-auth": "the work of google-cloud-auth",
}
# The servers in the README.
SELECTED_SERVERS = [
    OURS,
    f"{OURS}, cache off",
    "huskarl-resource-server",
    "jwt-authorizer",
    "oauth-resource-server",
    "tower-oauth2-resource-server",
    "Go, go-oidc",
    "Envoy",
    "Envoy, cache of 4,096",
]
INSTRUCTION_PATHS = {
    "raw": "signature verification alone",
    "cold": "verification of a token",
    "bare": "request to a service that does nothing",
    "uncached": "request to the guarded service, token not cached",
    "cached": "request to the guarded service, token cached",
    "bare-behind-framework": "request behind axum or tonic to a service that does nothing",
    "cached-behind-framework": "request behind axum or tonic to the guarded service, token cached",
}


def markdown(header, rows, alignment="---:"):
    """Returns a table whose first column is aligned left, and the others as given."""
    lines = [header, ["---"] + [alignment] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def row_name(key, text=None):
    return f"**{text or key}**" if key in BOLD else text or key


def median_and_range(figures, digits=1):
    return f"{figures['median']:.{digits}f} ({figures['least']:.{digits}f} to {figures['most']:.{digits}f})"


def duration(nanoseconds):
    return f"{nanoseconds / 1000:.2f} µs" if nanoseconds >= 1000 else f"{nanoseconds:.0f} ns"


def machine():
    servers = load("servers")
    machine = servers["machine"]
    versions = {**servers["versions"], **load("attack")["versions"], **load("client")["versions"]}
    rows = [
        ["date", machine["date"]],
        ["processor", f"{machine['cpu']}, {machine['cores']} cores"],
        ["Linux, Rust", f"{machine['kernel']}, {machine['rust']}"],
        ["token", f"{servers['method']['token_bytes']} bytes, RS256, with the claims of a Kubernetes token"],
        *[[package, version] for package, version in versions.items()],
    ]
    return markdown(["item", "value"], rows)


def servers():
    rows = []
    for server, loads in load("servers")["servers"].items():
        same, different = loads["same"], loads["different"]
        rows.append([
            row_name(server),
            f"{same['open']['cpu']['median']:.1f}",
            *[median_and_range(of["added"], 2 if of["added"]["median"] < 10 else 1) for of in (same, different)],
            *[f"{path['rate']['median']:,.0f}" for path in (same["open"], same["guarded"], different["guarded"])],
        ])
    header = ["server", "open path, µs", "added, one token, µs", "added, 3,000 tokens, µs"]
    return markdown([*header, "open path, requests/s", "one token, requests/s", "3,000 tokens, requests/s"], rows)


def summary():
    measured = load("servers")["servers"]
    rows = [
        [row_name(server), *[f"{measured[server][load]['added']['median']:.1f} µs" for load in ("same", "different")]]
        for server in SELECTED_SERVERS
        if server in measured
    ]
    return markdown(["CPU time added to a request", "one token", "3,000 tokens"], rows)


def ratios():
    added = {
        server: [loads[load]["added"]["median"] for load in ("same", "different")]
        for server, loads in load("servers")["servers"].items()
    }
    rows = [
        [server, *[f"{ours / theirs:.3f}" for ours, theirs in zip(added[OURS], others)]]
        for server, others in added.items()
        if not server.startswith(OURS)
    ]
    return markdown([f"{OURS}, relative to", "one token", "3,000 tokens"], rows)


def client():
    clients = load("client")["clients"]
    base = clients["header"]["instructions"]
    rows = [
        [
            row_name(client, CLIENTS[client]),
            median_and_range(row["cpu"]),
            f"{row['instructions']:,.0f}",
            f"{row['instructions'] - base:+,.0f}",
        ]
        for client, row in clients.items()
    ]
    return markdown(["client", "CPU time per request, µs", "instructions", "relative to a constant header"], rows)


def attack():
    rows = []
    for bad_tokens, paths in load("attack")["phases"].items():
        for path, phase in paths.items():
            responses = ", ".join(f"{count:,} × {status}" for status, count in phase["bad"].items()) or "none"
            latencies = [f"{phase['latency'][name]:.0f}" for name in ("median", "99 %", "99.9 %")]
            memory = f"{phase['kilobytes'] / 1024:.1f}"
            rows.append([bad_tokens.replace("-", " "), path, *latencies, responses, phase["fetches"], memory])
    header = ["bad tokens", "path", "median, µs", "99 %, µs", "99.9 %, µs", "responses to bad requests", "key fetches"]
    return markdown([*header, "memory, MiB"], rows)


def instructions():
    counts = load("instructions")["counts"]
    rows = [[INSTRUCTION_PATHS[path], f"{count:,.0f}"] for path, count in counts.items()]
    return markdown(["path", "instructions"], rows)


def bench_lines(kind):
    for crate, lines in load("microbenchmarks")["targets"].items():
        for line_kind, name, value, rest in lines:
            if line_kind == kind:
                yield crate, f"`{name}`", f"{value:g}", rest


def counted_targets():
    for script in ("instructions", "shared_lines"):
        name, value, rest = load(script)["target"]
        yield OURS, f"`{name}`", f"{value:g}", rest


def targets():
    rows = []
    for crate, name, value, rest in [*bench_lines("target"), *counted_targets()]:
        unit, limit, absolute = re.fullmatch(r"(.+) \(limit (\S+)\)(?:, (.+))?", rest).groups()
        rows.append([crate, name, value, limit, f"{unit}, {absolute}" if absolute else unit])
    return markdown(["crate", "target", "measured", "limit", "unit"], rows)


def allocations():
    rows = [[name, value] for _, name, value, _ in bench_lines("allocations")]
    return markdown(["path", "allocations per request"], rows)


def growth():
    benches = load("microbenchmarks")
    rows = []
    for curve, points in benches["curves"].items():
        rows.append([f"`{curve}`", ", ".join(f"{int(count):,}: {duration(time)}" for count, time in points.items())])
    held = ", ".join(f"{int(count):,}: {held / int(count):,.0f} B" for count, held in benches["memory"].items())
    rows.append(["`memory_by_distinct_tokens`, per token", held])
    return markdown(["curve", "points"], rows, alignment="---")


def fill(page, tables):
    text = page.read_text()
    for table in tables:
        section = re.compile(rf"(<!-- {table.__name__} -->\n).*?(<!-- end -->)", re.DOTALL)
        content = table()
        text, count = section.subn(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"{page}: expected one comment `{table.__name__}`, found {count}")
    page.write_text(text)


def main():
    fill(
        ROOT / "BENCHMARKING.md",
        [machine, servers, ratios, client, attack, instructions, targets, allocations, growth],
    )
    fill(ROOT / "README.md", [summary])


if __name__ == "__main__":
    main()
