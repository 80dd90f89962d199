"""Plots of the kept figures, each for a light page and for a dark one."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from machine import kept
from programs import BENCH

SHADES = {
    "light": {"ink": "#1f2328", "faint": "#d1d9e0", "ours": "#0969da", "others": "#8c959f", "second": "#bc4c00"},
    "dark": {"ink": "#e6edf3", "faint": "#3d444d", "ours": "#4493f8", "others": "#768390", "second": "#f0883e"},
}


def style(axes, shade):
    axes.set_facecolor("none")
    axes.tick_params(colors=shade["ink"], which="both", length=0)
    axes.grid(color=shade["faint"], linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for label in (axes.title, axes.xaxis.label, axes.yaxis.label):
        label.set_color(shade["ink"])


def save(name, draw):
    folder = BENCH / "plots"
    folder.mkdir(exist_ok=True)
    # Text stays text, and the same figures make the same file.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plots", "font.family": "sans-serif"})
    for theme, shade in SHADES.items():
        figure = draw(shade)
        figure.savefig(
            folder / f"{name}-{theme}.svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
        plt.close(figure)


def servers(shade):
    table = kept("servers")["servers"]
    names = list(table)[::-1]
    figure, both = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for axes, (kind, title) in zip(both, {"same": "one token", "different": "3,000 tokens"}.items()):
        added = [table[name][kind]["added"]["median"] for name in names]
        colors = [shade["ours"] if name.startswith("tower-oidc-guard") else shade["others"] for name in names]
        bars = axes.barh(names, added, color=colors, height=0.65)
        axes.bar_label(bars, [f"{value:.1f}" for value in added], padding=3, color=shade["ink"], fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(0.5, 500)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("CPU µs that the guard adds to a request (logarithmic)", fontsize=9)
        style(axes, shade)
        axes.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


GROWTH = {
    "verification_by_issuers": ("issuers", "whole verification"),
    "verification_by_keys": ("keys in the set", "whole verification"),
    "verification_by_token_bytes": ("bytes of the token", "whole verification"),
    "request_by_members": ("members in the policy", "request, token known"),
    "request_by_token_bytes": ("bytes of the token", "request, token known"),
    "request_by_distinct_tokens": ("tokens in use, all known", "request, token known"),
}


def growth(shade):
    process = kept("process")
    figure, grid = plt.subplots(2, 3, figsize=(10, 5.4))
    for axes, (group, (over, what)) in zip(grid.flat, GROWTH.items()):
        points = {int(count): value / 1000 for count, value in process["curves"][group].items()}
        counts = sorted(points)
        axes.plot(counts, [points[count] for count in counts], "o-", color=shade["ours"], markersize=4)
        axes.set_xscale("log")
        axes.set_ylim(0, max(points.values()) * 1.25)
        axes.set_title(what, fontsize=10)
        axes.set_xlabel(over, fontsize=9)
        axes.set_ylabel("µs", fontsize=9)
        style(axes, shade)
    figure.tight_layout()
    return figure


def memory(shade):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
    held = {int(count): value / 2**20 for count, value in kept("process")["memory"].items()}
    left.plot(list(held), list(held.values()), "o-", color=shade["ours"], markersize=4)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_title("known tokens", fontsize=10)
    left.set_xlabel("tokens in use", fontsize=9)
    left.set_ylabel("MiB held for them", fontsize=9)
    seen = kept("attack")["memory"]
    right.plot([time for time, _ in seen], [kilobytes / 1024 for _, kilobytes in seen], color=shade["second"])
    right.set_ylim(0)
    right.set_title("under attack", fontsize=10)
    right.set_xlabel("seconds, one kind of bad tokens after another", fontsize=9)
    right.set_ylabel("resident MiB", fontsize=9)
    for axes in (left, right):
        style(axes, shade)
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    for plot in (servers, growth, memory):
        save(plot.__name__, plot)
