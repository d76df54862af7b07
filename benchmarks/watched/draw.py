"""Curves of runs of the plugin watched.py: a CSV file, and a picture of groups of runs.

    python benchmarks/watched/draw.py <folder of runs> <stem of the files>

A run's folder is named <group>_s<seed>. A point is the mean over ten iterations and over agents,
and the picture shows the mean of a group and the range of its runs.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from settings import run  # noqa: E402

from madpo_isaac.errors import UserError  # noqa: E402
from madpo_isaac.report.chart import Figure, Line, Panel, step_unit  # noqa: E402
from madpo_isaac.report.drawing import write_files  # noqa: E402
from madpo_isaac.report.statistics import Estimate  # noqa: E402
from madpo_isaac.report.tables import Table  # noqa: E402
from madpo_isaac.system.files import parse_json, write_atomic  # noqa: E402

COLUMNS = {
    "episode_return": "return, sampled",
    "entropy": "entropy (nats)",
    "kl": "KL of an update (nats)",
    "agent/divergence_intra": "divergence from own past",
    "agent/divergence_inter": "divergence from other agent",
    "agent/bonus_share": "gradient share of the bonus",
    "agent/bonus_cosine": "cosine, bonus to objective",
    "agent/bonus_width": "share of std in bonus's gradient",
    "agent/step": "step of mean / std",
    "agent/step_cosine": "cosine, step to last step",
    "agent/straightness": "straightness of ten steps",
    "states/spread": "spread of states",
    "states/dimension": "dimension of states",
}
"""Columns of the file and their names in the picture; those of an agent are means over agents."""
BIN = 10


def curves(folder: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the steps (k,) and the columns (k,) of a run.

    Raises:
        UserError: the run has no metrics, or none of this plugin.
    """
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [parse_json(line) for line in text.splitlines()]
    except (OSError, ValueError) as problem:
        raise UserError(f"'{folder / 'metrics.jsonl'}' cannot be read: {problem}.") from None
    lines = lines[: len(lines) // BIN * BIN]
    whole = all(
        isinstance(line, dict) and {"env_steps", "states/spread"} <= set(line) for line in lines
    )
    if not lines or not whole:
        raise UserError(f"'{folder}' has too few iterations, or was not run with algo=watched.")
    found = {}
    for column in COLUMNS:
        head, _, name = column.rpartition("/")
        keys = [key for key in lines[0] if key.startswith(head) and key.endswith(f"/{name}")]
        keys = keys if head == "agent" else [column]
        values = [[_number(line.get(key)) for key in keys] for line in lines]
        if column == "agent/step_cosine":
            values[0] = [np.nan] * len(keys)  # there is no update before the first one
        found[column] = np.nanmean(np.reshape(values, (-1, BIN * len(keys))), axis=1)
    found["agent/straightness"][0] = np.nan  # which looks back on more updates than there are
    steps = np.array([line["env_steps"] for line in lines[BIN - 1 :: BIN]])
    return steps, found


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else np.nan


def main(argv: list[str]) -> None:
    """Writes both files."""
    if len(argv) != 2:
        raise UserError("give the folder of the runs and the stem of the files to write.")
    stem = Path(argv[1])
    files = sorted(Path(argv[0]).glob("*/metrics.jsonl"))
    folders = [file.parent for file in files if re.search(r"_s\d+$", file.parent.name)]
    if not folders:
        raise UserError(f"'{argv[0]}' has no run that is named <group>_s<seed>.")
    runs = {folder.name: curves(folder) for folder in folders}
    rows = [
        [name, str(step), *(f"{column[k]:.5g}" for column in found.values())]
        for name, (steps, found) in runs.items()
        for k, step in enumerate(steps)
    ]
    table = Table("", ["run", "env_steps", *COLUMNS], rows)
    write_atomic(stem.with_suffix(".csv"), table.csv().encode())
    groups = defaultdict(list)
    for name, of_run in runs.items():
        groups[name.rpartition("_s")[0]].append(of_run)
    unit, unit_name = step_unit(max(steps[-1] for steps, _ in runs.values()))
    panels = []
    for column, label in COLUMNS.items():
        lines = []
        for group, members in groups.items():
            if any(steps[0] != members[0][0][0] for steps, _ in members):
                raise UserError(f"Runs of '{group}' differ in the steps of an iteration.")
            size = min(len(steps) for steps, _ in members)
            values = np.stack([found[column][:size] for _, found in members])
            band = Estimate(values.mean(0), values.min(0), values.max(0))
            lines.append(Line(group, members[0][0][:size] / unit, band))
        panels.append(Panel(f"environment steps ({unit_name})", label, "", lines))
    write_files(Figure(stem.name, "", panels, sorted(groups)), stem.parent)
    stem.with_suffix(".pdf").unlink()


if __name__ == "__main__":
    run(main, __doc__)
