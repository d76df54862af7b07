"""The report's tables: results, wall time, settings and runs."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madpo_isaac.report import statistics
from madpo_isaac.report.runs import Run
from madpo_isaac.report.study import Study, differences, show

_LONGEST = 1e13
"""Seconds that a timedelta can hold."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first row is the head."""

    title: str
    head: list[str]
    rows: list[list[str]]

    def lines(self) -> list[str]:
        """The table with aligned columns, for a terminal."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        every = [self.head, *self.rows]
        return [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in every
        ]


def results(study: Study, marks: Sequence[float], reps: int) -> Table:
    """Returns at the common end of a task and at ``marks``, with success, time and every seed."""
    heads = [f"at {_steps(mark)}" for mark in marks]
    head = ["task", "group", "seeds", "steps", *heads, "return", "95 % (t)", "95 % (bootstrap)"]
    rows = []
    for (task, group), runs in study.cells.items():
        stop = study.end(task)
        finals = study.finals(task, group)
        success = study.finals(task, group, "success_rate")
        at = study.curves(task, group, "episode_return", np.array(marks)).mean(axis=0)
        digits = 0 if np.abs(finals).max() >= 100 else 2
        interval = statistics.mean_curve(finals[:, None], reps)
        rows.append(
            [
                *(task, group, str(len(runs)), _steps(stop)),
                *(_number(value, digits) for value in at),
                _number(float(finals.mean()), digits),
                _interval("±{}", digits, statistics.t_half_width(finals)),
                _interval("{} to {}", digits, interval.low[0], interval.high[0]),
                _number(float(success.mean()), 2),
                ", ".join(_number(value, digits) for value in finals),
            ]
        )
    return Table("Results", [*head, "success", "each seed"], rows)


def wall_time(study: Study, baseline: str) -> Table:
    """Mean time to a task's common end, steps per second, and peak memory.

    Time and memory are also relative to the baseline: a quotient and a difference.
    """
    rows = []
    for (task, group), runs in study.cells.items():
        stop = study.end(task)
        seconds = _mean([run.until(stop) for run in runs])
        base = study.cells.get((task, baseline), [])
        ratio = _ratio(seconds, _mean([run.until(stop) for run in base])) if base else np.nan
        pace = _mean([_ratio(run.until(stop, "env_steps"), run.until(stop)) for run in runs])
        memory = _mean([run.peak_mb for run in runs])
        more = memory - _mean([run.peak_mb for run in base]) if base else np.nan
        rows.append(
            [
                *(task, group, _steps(stop), hours(seconds), _number(ratio, 2), _number(pace, 0)),
                *(_number(memory, 0), _number(more, 0)),
            ]
        )
    head = ["task", "group", "steps", "wall time", f"/ {baseline}", "steps per second"]
    return Table("Wall time", [*head, "peak memory (MB)", f"- {baseline}"], rows)


def settings(study: Study) -> Table:
    """Settings in which runs of one task differ."""
    found = differences(study)
    rows = [[key, *(values[group] for group in study.groups)] for key, values in found.items()]
    return Table("Settings that differ within a task", ["setting", *study.groups], rows)


def every_run(study: Study) -> Table:
    """Returns a table with one row per run."""
    rows = [
        [
            *(run.name, task, group, show(run.settings.get("seed")), _steps(run.steps)),
            *(hours(run.until(run.steps)), run.state or "-", run.revision or "-"),
        ]
        for (task, group), runs in study.cells.items()
        for run in runs
    ]
    head = ["run", "task", "group", "seed", "steps", "wall time", "state", "revision"]
    return Table("Runs", head, rows)


def write_csv(study: Study, path: Path) -> None:
    """Writes run, env_steps, episode_return and success_rate, a row per window; load() reads it."""
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("run", "env_steps", "episode_return", "success_rate"))
        for (task, _), runs in study.cells.items():
            window = study.window(task)
            for run in runs:
                stops = _stops(run, window)
                keys = ("episode_return", "success_rate")
                columns = (run.means(key, stops, window) for key in keys)
                for stop, *values in zip(stops, *columns, strict=True):
                    if np.isfinite(values[0]):
                        steps = f"{stop:.0f}"
                        writer.writerow((run.name, steps, *(f"{value:.5g}" for value in values)))


def _stops(run: Run, window: float) -> np.ndarray:
    """Returns the ends of the windows in which a run has lines, at most three times as many."""
    at = np.ceil(run.metrics["env_steps"] / window)
    near = np.unique(np.concatenate((at - 1.0, at, at + 1.0)))  # rounding may put it in the next
    return window * near[(near >= 1.0) & (near <= np.floor(run.steps / window + 1e-9))]


def hours(seconds: float) -> str:
    """Returns seconds as h:mm:ss."""
    return str(datetime.timedelta(seconds=round(seconds))) if abs(seconds) < _LONGEST else "-"


def _steps(value: float) -> str:
    return f"{value / 1e6:.4g} M" if value >= 1e5 else f"{value:.0f}"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if np.isfinite(value) else "-"


def _interval(text: str, digits: int, *ends: float) -> str:
    known = np.isfinite(ends).all()
    return text.format(*(_number(end, digits) for end in ends)) if known else "-"


def _ratio(value: float, reference: float) -> float:
    """Returns a quotient; NaN where the reference, as a clock that stood still, is 0."""
    return value / reference if reference else float("nan")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
