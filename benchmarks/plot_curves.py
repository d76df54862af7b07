"""Plots return and success of runs against environment steps.

    python benchmarks/plot_curves.py out=curve.png label=path/to/metrics.jsonl [label=...]

Each point is the mean over the episodes finished in 20 iterations. Runs with the same label before
a '#' (`happo#1`, `happo#2`) share a colour.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

WINDOW = 20


def load(path: Path) -> dict[str, np.ndarray]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if line["episodes"]]
    keys = ("env_steps", "episode_return", "success_rate", "episodes")
    return {key: np.array([line[key] for line in lines], dtype=float) for key in keys}


def smooth(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the last WINDOW iterations, each weighted by its number of episodes."""
    kernel = np.ones(WINDOW)

    def sums(x: np.ndarray) -> np.ndarray:
        return np.convolve(x, kernel)[: len(x)]

    return sums(values * weights) / sums(weights)


def main(argv: list[str]) -> None:
    settings = dict(argument.split("=", 1) for argument in argv)
    out = Path(settings.pop("out"))
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    colours: dict[str, str] = {}
    for name, path in settings.items():
        group = name.split("#")[0]
        label = group if group not in colours else None
        colour = colours.setdefault(group, f"C{len(colours)}")
        run = load(Path(path))
        for axis, key in zip(axes, ("episode_return", "success_rate"), strict=True):
            curve = smooth(run[key], run["episodes"])
            axis.plot(run["env_steps"] / 1e6, curve, color=colour, label=label)
        print(
            f"{name}: {run['env_steps'][-1] / 1e6:.2f} M steps, last {WINDOW} iterations: "
            f"return {smooth(run['episode_return'], run['episodes'])[-1]:.2f}, "
            f"success {smooth(run['success_rate'], run['episodes'])[-1]:.3f}"
        )
    for axis, title in zip(axes, ("episode return", "success rate"), strict=True):
        axis.set_xlabel("environment steps (millions)")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main(sys.argv[1:])
