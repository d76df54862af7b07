"""Runs sorted into groups, and their curves on common grids of environment steps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from madpo_isaac.errors import UserError, unknown
from madpo_isaac.report.runs import SHORT, Run

POINTS = 40
"""Largest number of points of a curve."""
WINDOW = 0.05
"""Share of a task's steps before a point of a curve over which returns are averaged."""
_EVEN = 0.9
"""Runs that reach this share of the longest run's steps count as equally long."""
ARM = "arm"
"""Key of a run's group where the groups have names of their own."""
_OF_A_RUN = frozenset(
    (
        *(ARM, "seed", "run", "experiment", "runs_dir", "checkpoint", "resume", "num_threads"),
        *("headless", "save_frequency", "max_iterations", "max_dumps", "test", "test_episodes"),
        *("eval_frequency", "eval_episodes", "eval_envs"),
        *("capture_video", "capture_video_freq", "capture_video_len", "capture_video_envs"),
        *("wandb_activate", "wandb_project", "wandb_group", "wandb_entity", "wandb_name"),
        "wandb_tags",
    )
)
"""Settings that do not distinguish experiments."""


class Study:
    """Runs by task and group. Runs without a finished episode are left out, unless all lack one.

    Args:
        runs: any number, at least one.
        by: settings that make a group, such as ``["algo", "algo.divergence.lam"]``; ``run`` is
            the name of a run without its seed. A run that has none of these settings is named
            by its algorithm.
        window: environment steps before a point of a curve over which returns are averaged; 0
            for a twentieth of the task's steps.
        caption: lines that stand on every figure and on the page.

    Raises:
        UserError: no run has a setting of that name.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        by: Sequence[str] = ("algo",),
        window: float = 0.0,
        caption: str = "",
    ) -> None:
        known = {key for run in runs for key in run.settings}
        for key in by:
            if SHORT.get(key, key) not in known:
                raise unknown("key", key, known | SHORT.keys())
        active = [run for run in runs if run.metrics["episodes"].any()]
        self._idle = [run.name for run in runs if not run.metrics["episodes"].any()]
        self.runs = runs = active or list(runs)
        self.by = list(by)
        self.caption = caption
        self._window = window
        cells: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in runs:
            cells[run.task, label(run, by)].append(run)
        self.tasks = sorted({task for task, _ in cells}, key=natural)
        self.groups = sorted({group for _, group in cells}, key=natural)
        self.drawn = self.groups
        """The groups that figures show, see :meth:`draw_at_most`."""
        self.cells = {
            (task, group): sorted(cells[task, group], key=lambda run: natural(run.name))
            for task in self.tasks
            for group in self.groups
            if (task, group) in cells
        }

    def draw_at_most(self, count: int, keep: str) -> None:
        """Chooses the groups that figures show, in their order: ``keep`` and the best others.

        The best have the least mean rank over their tasks of the return at the end.
        """
        if len(self.groups) <= count:
            return
        ranks: dict[str, list[int]] = defaultdict(list)
        for task in self.tasks:
            means = {group: self.finals(task, group).mean() for group in self.of_task(task)}
            order = sorted(means, key=lambda g: np.nan_to_num(means[g], nan=-np.inf), reverse=True)
            for rank, group in enumerate(order):
                ranks[group].append(rank)
        best = sorted(self.groups, key=lambda g: (g != keep, float(np.mean(ranks[g]))))[:count]
        self.drawn = [group for group in self.groups if group in best]

    def of_task(self, task: str) -> dict[str, list[Run]]:
        """The runs of a task by group."""
        return {group: runs for (name, group), runs in self.cells.items() if name == task}

    def end(self, task: str, group: str | None = None) -> float:
        """Environment steps that all runs of a task, or of a group in it, have reached."""
        cells = self.of_task(task)
        return min(run.steps for g, runs in cells.items() if group in (None, g) for run in runs)

    def uneven(self, task: str) -> bool:
        """Returns whether runs of a task go far beyond its common end."""
        longest = max(run.steps for runs in self.of_task(task).values() for run in runs)
        return self.end(task) < _EVEN * longest

    def window(self, task: str, group: str | None = None) -> float:
        """Returns the environment steps before a point over which returns are averaged."""
        return self._window or WINDOW * self.end(task, group)

    def grid(self, task: str, group: str | None = None, key: str = "episode_return") -> np.ndarray:
        """Returns the environment steps of a curve's points, (P,), which every run has reached."""
        runs = [r for g, rs in self.of_task(task).items() if group in (None, g) for r in rs]
        points = min(int(np.isfinite(run.metrics.get(key, np.nan)).sum()) for run in runs)
        points = min(max(points, 1), POINTS)
        return self.end(task, group) * np.arange(1, points + 1) / points

    def curves(
        self, task: str, group: str, key: str, grid: np.ndarray, window: float = 0.0
    ) -> np.ndarray:
        """Returns the curves of a group's runs, (runs, P).

        ``window`` 0 is the task's. A point whose window has no finished episode shows the value
        before it. It is NaN if there is none, or if the run had ended before the window.
        """
        window = window or self.window(task)
        runs = self.cells[task, group]
        curves = np.array([run.means(key, grid, window) for run in runs])
        latest = np.array([run.latest(key, grid) for run in runs])
        over = grid - window >= np.array([[run.steps] for run in runs])
        return np.where(over, np.nan, np.where(np.isnan(curves), latest, curves))

    def whole_curves(self, task: str, group: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns a grid up to the end of a group's runs, (P,), and the curves on it, (runs, P)."""
        grid = self.grid(task, group, key)
        return grid, self.curves(task, group, key, grid, self.window(task, group))

    def finals(self, task: str, group: str, key: str = "episode_return") -> np.ndarray:
        """Returns the values of a group's curves at the task's common end. (runs,)"""
        return self.curves(task, group, key, np.array([self.end(task)]))[:, 0]

    def notes(self) -> list[str]:
        """Returns notes for the reader about the runs: unequal lengths and mixed settings."""
        notes = []
        if self._idle:
            left_out = "" if self.runs[0].name in self._idle else "; left out"
            notes.append(f"No episode has finished in {', '.join(self._idle)}{left_out}.")
        for (task, group), runs in self.cells.items():
            mixed = [key for key in varied(runs) if SHORT.get(key, key) not in self.by]
            if mixed:
                names = ", ".join(mixed[:4]) + (", ..." if len(mixed) > 4 else "")
                notes.append(f"{task}, {group}: runs with different {names}. Split them with --by.")
            seeds = [show(run.settings["seed"]) for run in runs if "seed" in run.settings]
            if not mixed and len(set(seeds)) < len(seeds):
                notes.append(f"{task}, {group}: a seed comes more than once.")
        for task in filter(self.uneven, self.tasks):
            every = [run for runs in self.of_task(task).values() for run in runs]
            shortest, *_, longest = sorted(every, key=lambda run: run.steps)
            notes.append(
                f"{task}: compared at {shortest.steps:,.0f} steps, where {shortest.name} ends; "
                f"the longest run has {longest.steps:,.0f}."
            )
        return notes


def label(run: Run, by: Sequence[str]) -> str:
    """Returns the group of a run: ``madpo``, or with other keys ``madpo lam=0.2``."""
    parts = []
    for key in by:
        full = SHORT.get(key, key)
        if key == ARM:
            parts.append(str(run.settings[key]))
        elif full in run.settings:
            value = show(run.settings[full])
            parts.append(value if key in (*SHORT, "run") else f"{full.split('.')[-1]}={value}")
    return " ".join(parts) or show(run.settings["algo.name"])


def varied(runs: Sequence[Run]) -> list[str]:
    """Settings in which runs differ, but for seeds, names and lengths."""
    keys = sorted({key for run in runs for key in run.settings} - _OF_A_RUN)
    return [key for key in keys if len({show(run.settings.get(key)) for run in runs}) > 1]


def differences(study: Study) -> dict[str, dict[str, str]]:
    """Settings in which runs of one task differ: key to group to its values."""
    keys: set[str] = set()
    for task in study.tasks:
        keys.update(varied([run for runs in study.of_task(task).values() for run in runs]))
    result: dict[str, dict[str, str]] = {}
    for key in sorted(keys):
        result[key] = {}
        for group in study.groups:
            runs = [
                run for (_, name), found in study.cells.items() if name == group for run in found
            ]
            values = {show(run.settings.get(key)) for run in runs}
            result[key][group] = " | ".join(sorted(values, key=natural))
    return result


def baseline(study: Study, name: str = "") -> str:
    """Returns the group that others are compared with: ``name``, else HAPPO, else the first.

    Raises:
        UserError: there is no group ``name``.
    """
    if name and name not in study.groups:
        raise unknown("group", name, study.groups)
    happo = [group for group in study.groups if group.split()[0] == "happo"]
    return name or next(iter((*happo, *study.groups)))


def show(value: Any) -> str:
    """Returns a setting as written on the command line; ``-`` if there is none."""
    if value is None:
        return "-"
    text = f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")
    return text.encode(errors="replace").decode()  # YAML may hold halves of letters


def natural(text: str) -> list[tuple[int, float, str]]:
    """Key to sort names with their numbers by value; a sign follows ``=``, as in ``coef=-1``."""
    parts = re.split(r"((?:(?<==)-)?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", text)
    return [(0, float(p), "") if k % 2 else (1, 0.0, p) for k, p in enumerate(parts)]


def numbers(text: str, name: str) -> list[float]:
    """Reads ``4e5,1e6``.

    Raises:
        UserError: one of them is not a positive number.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [0.0]
    if not all(0.0 < value < float("inf") for value in values):
        raise UserError(f"{name} {text}: positive numbers are needed, separated by commas.")
    return values
