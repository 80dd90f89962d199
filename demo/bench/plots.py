"""Plots the saved figures, each once for light and once for dark pages."""

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from measurement import load
from processes import BENCH

OURS = "tower-oidc-guard"
THEMES = {
    "light": {"text": "#1f2328", "grid": "#d1d9e0", "ours": "#0969da", "others": "#8c959f", "second": "#bc4c00"},
    "dark": {"text": "#e6edf3", "grid": "#3d444d", "ours": "#4493f8", "others": "#768390", "second": "#f0883e"},
}
# The x-axis and the title of each growth curve.
CURVES = {
    "verification_by_issuers": ("issuers", "verification"),
    "verification_by_keys": ("keys in the set", "verification"),
    "verification_by_token_bytes": ("token size, bytes", "verification"),
    "request_by_members": ("members in the policy", "request, token cached"),
    "request_by_token_bytes": ("token size, bytes", "request, token cached"),
    "request_by_distinct_tokens": ("tokens in use, all cached", "request, token cached"),
}


def style(axes, colors):
    axes.set_facecolor("none")
    axes.tick_params(colors=colors["text"], which="both", length=0)
    axes.grid(color=colors["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for label in (axes.title, axes.xaxis.label, axes.yaxis.label):
        label.set_color(colors["text"])


def save(name, draw):
    folder = BENCH / "plots"
    folder.mkdir(exist_ok=True)
    # Text stays text, and equal figures give equal files.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "plots", "font.family": "sans-serif"})
    for theme, colors in THEMES.items():
        figure = draw(colors)
        figure.savefig(
            folder / f"{name}-{theme}.svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
        plt.close(figure)


def servers(colors):
    table = load("servers")["servers"]
    names = list(table)[::-1]
    figure, both = plt.subplots(1, 2, figsize=(10, 0.9 + 0.3 * len(names)), sharey=True)
    for axes, (tokens, title) in zip(both, {"same": "one token", "different": "3,000 tokens"}.items()):
        added = [table[name][tokens]["added"]["median"] for name in names]
        bar_colors = [colors["ours"] if name.startswith(OURS) else colors["others"] for name in names]
        bars = axes.barh(names, added, color=bar_colors, height=0.65)
        axes.bar_label(bars, [f"{value:.1f}" for value in added], padding=3, color=colors["text"], fontsize=9)
        axes.set_xscale("log")
        axes.set_xlim(0.5, 500)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("CPU time added to a request, µs (logarithmic)", fontsize=9)
        style(axes, colors)
        axes.grid(axis="y", visible=False)
    figure.tight_layout()
    return figure


def growth(colors):
    curves = load("microbenchmarks")["curves"]
    figure, grid = plt.subplots(2, 3, figsize=(10, 5.4))
    for axes, (curve, (parameter, title)) in zip(grid.flat, CURVES.items()):
        points = {int(count): nanoseconds / 1000 for count, nanoseconds in curves[curve].items()}
        counts = sorted(points)
        axes.plot(counts, [points[count] for count in counts], "o-", color=colors["ours"], markersize=4)
        axes.set_xscale("log")
        axes.set_ylim(0, max(points.values()) * 1.25)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(parameter, fontsize=9)
        axes.set_ylabel("µs", fontsize=9)
        style(axes, colors)
    figure.tight_layout()
    return figure


def memory(colors):
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3))
    held = {int(count): held / 2**20 for count, held in load("microbenchmarks")["memory"].items()}
    left.plot(list(held), list(held.values()), "o-", color=colors["ours"], markersize=4)
    left.set_xscale("log")
    left.set_yscale("log")
    left.set_title("cached tokens", fontsize=10)
    left.set_xlabel("tokens in use", fontsize=9)
    left.set_ylabel("memory for the cache, MiB", fontsize=9)
    samples = load("attack")["memory"]
    right.plot([time for time, _ in samples], [kilobytes / 1024 for _, kilobytes in samples], color=colors["second"])
    right.set_ylim(0)
    right.set_title("under attack", fontsize=10)
    right.set_xlabel("seconds; one kind of bad tokens after another", fontsize=9)
    right.set_ylabel("resident memory, MiB", fontsize=9)
    for axes in (left, right):
        style(axes, colors)
    figure.tight_layout()
    return figure


def main():
    for plot in (servers, growth, memory):
        save(plot.__name__, plot)


if __name__ == "__main__":
    main()
