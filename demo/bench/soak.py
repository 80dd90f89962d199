"""Saves the figures of a run of demo/soak.sh, plots them, and fills in the tables of BENCHMARKING.md."""

import argparse
import json
from pathlib import Path

import measurement
import plots
import tables

QUANTITIES = {
    "memory": "memory, MiB",
    "anonymous": "of that anonymous, MiB",
    "descriptors": "descriptors",
    "threads": "threads",
    "tasks": "tasks",
}
# The curves, in the order of the programs.
COLORS = ["ours", "second", "others"]


def soak(colors):
    figures = measurement.load("soak")
    columns = figures["columns"]
    figure, grid = plots.plt.subplots(1, 3, figsize=(10, 3))
    for axes, quantity in zip(grid, ("memory", "descriptors", "tasks")):
        for (program, values), color in zip(figures["programs"].items(), COLORS):
            minutes = [row[0] / 60 for row in values["samples"]]
            points = [row[columns.index(quantity)] for row in values["samples"]]
            axes.plot(minutes, points, color=colors[color], linewidth=1.2, label=program)
        axes.set_ylim(0)
        axes.set_title(QUANTITIES[quantity], fontsize=10)
        axes.set_xlabel("minutes", fontsize=9)
        plots.style(axes, colors)
    grid[0].legend(frameon=False, labelcolor=colors["text"], fontsize=8)
    figure.tight_layout()
    return figure


def soak_use():
    rows = []
    for program, values in measurement.load("soak")["programs"].items():
        for quantity, name in QUANTITIES.items():
            growth = values["growth"][quantity]
            digits = 1 if name.endswith("MiB") else 0
            figures = [values["before"][quantity], growth["first"], growth["last"], values["after"][quantity]]
            rows.append([
                program,
                name,
                *[f"{value:.{digits}f}" for value in figures],
                f"{growth['trend']:+.1f}",
                f"+{growth['allowed']:.1f}",
            ])
    header = ["program", "", "before the load", "first tenth", "last tenth", "after the load", "trend", "allowed"]
    return tables.markdown(header, rows)


def soak_counts():
    figures = measurement.load("soak")
    delays = figures["longest_delays_milliseconds"]
    seconds = lambda kind: f"{delays[kind] / 1000:.1f} s" if kind in delays else ""
    rows = [[kind, f"{count:,}", seconds(kind)] for kind, count in figures["steps"].items()]
    rows.append(["requests and connections", f"{sum(figures['requests'].values()):,}", ""])
    rows.append(["unexpected answers", f"{sum(figures['failures'].values()):,}", ""])
    return tables.markdown(["", "number", "took effect within"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path, help="soak.json of the run")
    figures = json.loads(parser.parse_args().figures.read_text())
    measurement.save("soak", figures)
    plots.save("soak", soak)
    tables.fill(tables.ROOT / "BENCHMARKING.md", [soak_counts, soak_use])


if __name__ == "__main__":
    main()
