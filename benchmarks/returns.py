"""Table of returns over seeds, and the curves behind it in one small file.

    python benchmarks/returns.py runs=FOLDER at=4e5,1e6 [only=PREFIX] [window=5e4] [csv=curves.csv]

FOLDER holds runs named `<label>_s<seed>` (`experiment=...`). A return is the mean over the episodes
that finished in the last `window` environment steps before a mark. Columns: number of seeds, mean
at each mark, half-width of the 95 % Student-t interval of the mean at the last mark, that mark's
return of every seed, wall time, and success there. The csv has one row per `window` steps and run.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % quantiles of Student's t by number of seeds."""

Curve = list[dict[str, Any]]


def average(curve: Curve, end: float, window: float, key: str) -> float:
    """Mean of ``key`` over the episodes that finished in (end - window, end]; NaN if none did."""
    lines = [x for x in curve if end - window < x["env_steps"] <= end and x["episodes"]]
    episodes = sum(x["episodes"] for x in lines)
    return sum(x[key] * x["episodes"] for x in lines) / episodes if lines else float("nan")


def load(folder: Path, prefix: str) -> dict[str, dict[int, Curve]]:
    """Reads label -> seed -> lines of metrics.jsonl."""
    runs: dict[str, dict[int, Curve]] = defaultdict(dict)
    for path in sorted(folder.glob(f"{prefix}*_s*/metrics.jsonl")):
        label, seed = path.parent.name.rsplit("_s", 1)
        runs[label][int(seed)] = [json.loads(line) for line in path.read_text().splitlines()]
    if not runs:
        sys.exit(f"error: no run {prefix}*_s<seed> in {folder}")
    return {label: dict(sorted(seeds.items())) for label, seeds in runs.items()}


def row(label: str, seeds: dict[int, Curve], marks: list[float], window: float) -> str:
    """One line of the table."""
    values = [[average(c, m, window, "episode_return") for c in seeds.values()] for m in marks]
    last, n = values[-1], len(seeds)
    known = n in T95 and all(v == v for v in last)
    half = T95[n] * statistics.stdev(last) / n**0.5 if known else float("nan")
    wall = statistics.mean(
        next((x["wall_s"] for x in c if x["env_steps"] >= marks[-1]), float("nan"))
        for c in seeds.values()
    )
    success = [average(c, marks[-1], window, "success_rate") for c in seeds.values()]
    digits = 0 if max(map(abs, last)) >= 100 else 1
    means = " ".join(f"{statistics.mean(v):9.{digits}f}" for v in values)
    each = ", ".join(f"{v:.{digits}f}" for v in last)
    return (
        f"{label:28} {n:5} {means} {half:8.{digits}f} {wall:7.0f} {statistics.mean(success):8.2f}"
        f"   {each}"
    )


def write_csv(path: Path, runs: dict[str, dict[int, Curve]], window: float) -> None:
    """Writes run, env_steps, episode_return, success_rate."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("run", "env_steps", "episode_return", "success_rate"))
        for label, seeds in runs.items():
            for seed, curve in seeds.items():
                for k in range(1, int(curve[-1]["env_steps"] / window) + 1):
                    keys = ("episode_return", "success_rate")
                    pair = [average(curve, k * window, window, key) for key in keys]
                    if pair[0] == pair[0]:
                        steps = f"{k * window:.0f}"
                        writer.writerow((f"{label}_s{seed}", steps, *(f"{x:.5g}" for x in pair)))


def main(argv: list[str]) -> None:
    """Prints the table."""
    options = dict(argument.split("=", 1) for argument in argv)
    window = float(options.get("window", "5e4"))
    marks = [float(mark) for mark in options["at"].split(",")]
    runs = load(Path(options["runs"]), options.get("only", ""))
    heads = " ".join(f"{mark / 1e6:7.2f} M" for mark in marks)
    print(f"{'':28} seeds {heads}    +-95%  wall/s  success   each seed")
    for label, seeds in runs.items():
        print(row(label, seeds, marks, window))
    if "csv" in options:
        write_csv(Path(options["csv"]), runs, window)


if __name__ == "__main__":
    main(sys.argv[1:])
