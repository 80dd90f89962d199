"""Writes the kept figures into the pages: each table between two comments that name it."""

import re

from machine import kept
from programs import BENCH

ROOT = BENCH.parent.parent
OURS = "tower-oidc-guard"
BOLD = {OURS, f"{OURS}, cache off", "bearer-auth", "bearer-auth-sent-once"}
WAYS = {
    "reqwest": "plain reqwest",
    "noop": "reqwest-middleware, a middleware that does nothing",
    "header": "the same, a ready header value",
    "bearer-auth": "`BearerAuth`",
    "bearer-auth-sent-once": "`BearerAuth`, `without_resend`",
    "kube-rs": "what kube-rs does",
    "google-cloud-auth": "what google-cloud-auth does",
}
SUMMARY = [
    OURS,
    f"{OURS}, cache off",
    "jwt-authorizer",
    "oauth-resource-server",
    "tower-oauth2-resource-server",
    "Go, go-oidc",
    "Envoy",
    "Envoy, cache of 4,096",
]
PATHS = {
    "raw": "the bare check of the signature",
    "cold": "a whole verification",
    "bare": "a service that does nothing",
    "uncached": "the same behind the guard, token unknown",
    "cached": "the same behind the guard, token known",
}


def table(head, rows):
    """Names to the left, figures to the right."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def name(of, told=None):
    return f"**{told or of}**" if of in BOLD else told or of


def span(figures, digits=1):
    return f"{figures['median']:.{digits}f} ({figures['least']:.{digits}f} to {figures['most']:.{digits}f})"


def machine():
    about, servers = kept("servers")["machine"], kept("servers")
    versions = {**servers["versions"], **kept("attack")["versions"], **kept("client")["versions"]}
    rows = [
        ["date", about["date"]],
        ["processor", f"{about['cpu']}, {about['cores']} cores"],
        ["Linux, Rust", f"{about['kernel']}, {about['rust']}"],
        ["token", f"{servers['method']['token_bytes']} bytes, RS256, as Kubernetes makes them"],
        *[[package, version] for package, version in versions.items()],
    ]
    return table(["what", "which"], rows)


def servers():
    rows = []
    for server, kinds in kept("servers")["servers"].items():
        same, different = kinds["same"], kinds["different"]
        rows.append([
            name(server),
            f"{same['open']['cpu']['median']:.1f}",
            *[span(kind["added"], 2 if kind["added"]["median"] < 10 else 1) for kind in (same, different)],
            *[f"{path['rate']['median']:,.0f}" for path in (same["open"], same["guarded"], different["guarded"])],
        ])
    head = ["server", "open path, µs", "guard adds, one token, µs", "guard adds, 3,000 tokens, µs"]
    return table([*head, "open, req/s", "one token, req/s", "3,000 tokens, req/s"], rows)


def summary():
    """The README's: some servers, the medians alone."""
    measured = kept("servers")["servers"]
    rows = [
        [name(server), *[f"{measured[server][kind]['added']['median']:.1f} µs" for kind in ("same", "different")]]
        for server in SUMMARY
    ]
    return table(["what the guard adds to a request", "one token", "3,000 tokens"], rows)


def ratios():
    added = {server: [kinds[kind]["added"]["median"] for kind in ("same", "different")]
             for server, kinds in kept("servers")["servers"].items()}
    ours = added[OURS]
    rows = [
        [server, *[f"{mine / theirs:.3f}" for mine, theirs in zip(ours, others)]]
        for server, others in added.items() if not server.startswith(OURS)
    ]
    return table([f"{OURS} over", "one token", "3,000 tokens"], rows)


def client():
    ways = kept("client")["ways"]
    base = ways["header"]["instructions"]
    rows = [
        [name(way, WAYS[way]), span(row["cpu"]), f"{row['instructions']:,.0f}", f"{row['instructions'] - base:+,.0f}"]
        for way, row in ways.items()
    ]
    return table(["way", "CPU, µs a request", "instructions", "over a ready header"], rows)


def attack():
    rows = []
    for kind, paths in kept("attack")["phases"].items():
        for path, told in paths.items():
            answers = ", ".join(f"{count:,} × {status}" for status, count in told["bad"].items()) or "none"
            latencies = [f"{told['latency'][part]:.0f}" for part in ("median", "99 %", "99.9 %")]
            rows.append([
                kind.replace("-", " "), path, *latencies, answers, told["fetches"], f"{told['kilobytes'] / 1024:.1f}",
            ])
    head = ["bad tokens", "path", "median, µs", "99 %, µs", "99.9 %, µs", "answers to the bad", "fetches", "MiB"]
    return table(head, rows)


def instructions():
    counts = kept("instructions")["counts"]
    return table(["path", "instructions"], [[PATHS[path], f"{count:,.0f}"] for path, count in counts.items()])


def promised(kind):
    def rows():
        for crate, lines in kept("process")["targets"].items():
            for found, what, value, rest in lines:
                if found == kind:
                    yield [crate, f"`{what}`", f"{value:g}", rest.replace("(", "").replace(")", "")]
    return list(rows())


def targets():
    return table(["crate", "target", "measured", "unit, limit"], promised("target"))


def allocations():
    return table(["path", "allocations a request"], [row[1:3] for row in promised("allocations")])


def growth():
    process = kept("process")
    rows = []
    for group, points in process["curves"].items():
        told = ", ".join(f"{int(count):,}: {microseconds(value)}" for count, value in points.items())
        rows.append([f"`{group}`", told])
    held = ", ".join(f"{int(count):,}: {value / int(count):,.0f} B" for count, value in process["memory"].items())
    rows.append(["`memory_by_distinct_tokens`, a token", held])
    lines = [["curve", "points"], ["---", "---"], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def microseconds(nanoseconds):
    return f"{nanoseconds / 1000:.2f} µs" if nanoseconds >= 1000 else f"{nanoseconds:.0f} ns"


def fill(page, tables):
    text = page.read_text()
    for make in tables:
        between = re.compile(rf"(<!-- {make.__name__} -->\n).*?(<!-- end -->)", re.DOTALL)
        filled = make()
        text, found = between.subn(lambda match: f"{match[1]}\n{filled}\n\n{match[2]}", text)
        if found != 1:
            raise SystemExit(f"{page}: {make.__name__} has {found} places")
    page.write_text(text)


if __name__ == "__main__":
    fill(
        ROOT / "BENCHMARKING.md",
        [machine, servers, ratios, client, attack, instructions, targets, allocations, growth],
    )
    fill(ROOT / "README.md", [summary])
