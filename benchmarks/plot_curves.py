"""Plots return and success of runs against environment steps.

    python benchmarks/plot_curves.py out=curve.png label=run/metrics.jsonl [label=...] [success=0]

Each point of a metrics.jsonl is the mean over the episodes finished in the last 20 iterations that
finished any (runs of up to 40 such iterations are drawn as they are). Labels that are equal
up to a '#' (`HAPPO#1`, `HAPPO#2`) share a colour. A .csv file with the columns run, env_steps and
episode_return adds all its runs as they are, `curves.csv:happo_s` those whose name begins so.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WINDOW = 20
KEYS = ("env_steps", "episode_return", "success_rate", "episodes")


def load(name: str) -> list[dict[str, np.ndarray]]:
    """Reads the runs of one file, ``name`` or ``name:beginning of a run``."""
    runs = defaultdict(list)
    path, _, prefix = name.partition(":")
    path = Path(path)
    if path.suffix == ".csv":
        rows = csv.DictReader(line for line in path.open() if not line.startswith("#"))
        for row in rows:
            if row["run"].startswith(prefix):
                success = float(row.get("success_rate") or "nan")
                steps, value = float(row["env_steps"]), float(row["episode_return"])
                runs[row["run"]].append((steps, value, success, np.nan))
    else:
        lines = map(json.loads, path.read_text().splitlines())
        runs[""] = [[line[key] for key in KEYS] for line in lines if line["episodes"]]
    columns = [np.array(rows, dtype=float).T for rows in runs.values()]
    return [dict(zip(KEYS, values, strict=True)) for values in columns]


def smooth(run: dict[str, np.ndarray], key: str) -> np.ndarray:
    """Mean over the episodes finished in the last WINDOW points; short and csv runs as they are."""
    if np.isnan(run["episodes"]).any():
        return run[key]
    kernel = np.ones(WINDOW if len(run["episodes"]) > 2 * WINDOW else 1)

    def sums(x: np.ndarray) -> np.ndarray:
        return np.convolve(x, kernel)[: len(x)]

    return sums(run[key] * run["episodes"]) / sums(run["episodes"])


def main(argv: list[str]) -> None:
    settings = dict(argument.split("=", 1) for argument in argv)
    out = Path(settings.pop("out"))
    panels = {"episode_return": "episode return", "success_rate": "success rate"}
    if settings.pop("success", "1") == "0":
        del panels["success_rate"]
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 3.6), layout="constrained", squeeze=False
    )
    colours: dict[str, str] = {}
    for name, path in settings.items():
        group = name.split("#")[0]
        for run in load(path):
            label = group if group not in colours else None
            colour = colours.setdefault(group, f"C{len(colours)}")
            for axis, key in zip(axes[0], panels, strict=True):
                axis.plot(run["env_steps"] / 1e6, smooth(run, key), color=colour, label=label)
            end = ", ".join(f"{key} {smooth(run, key)[-1]:.3g}" for key in panels)
            print(f"{name}: {run['env_steps'][-1] / 1e6:.2f} M steps, {end}")
    for axis, title in zip(axes[0], panels.values(), strict=True):
        axis.set_xlabel("environment steps (millions)")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0, 0].legend(frameon=False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main(sys.argv[1:])
