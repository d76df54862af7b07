"""The report's tables: results, wall time, settings and runs."""

from __future__ import annotations

import csv
import io
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from madpo_isaac import console
from madpo_isaac.report import statistics
from madpo_isaac.report.runs import EPISODE, Run, distinct
from madpo_isaac.report.study import Study, differences, show
from madpo_isaac.system.files import write_atomic

BEST = (
    "Bold: the best mean of a task, and every group whose 95 % t interval overlaps with that of "
    "the best; a single seed has no interval."
)
"""The rule by which results are highlighted."""
_OF_A_FOLDER = ("experiment", "runs_dir", "resume")
"""Settings of the place of a run, which do not affect its results; a run from the checkpoint of
another one needs a name, though."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first row is the head."""

    title: str
    head: list[str]
    rows: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    """Row and column of cells to highlight."""
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)
    """Row and column of cells that lead somewhere, and the address, relative to the page."""

    def lines(self) -> list[str]:
        """The table with aligned columns, for a terminal."""
        widths = [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]
        every = [self.head, *self.rows]
        return [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in every
        ]

    def markdown(self) -> str:
        """The table in the Markdown of GitHub."""
        head, *rows = self._written(lambda text: text.replace("|", "\\|"), "**{}**")
        lines = [head, ["---"] * len(head), *rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def csv(self) -> str:
        """The table as comma-separated values."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.head, *self.rows])
        return text.getvalue()

    def latex(self) -> str:
        """The table in LaTeX, for the package booktabs."""
        written = self._written(_latex, r"\textbf{{{}}}")
        head, *rows = (" & ".join(row) + r" \\" for row in written)
        columns = "l" * len(self.head)
        parts = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *rows]
        return "\n".join([*parts, r"\bottomrule", r"\end{tabular}", ""])

    def shown(self) -> Table:
        """The table without the columns in which every row has a dash."""
        kept = [j for j in range(len(self.head)) if any(row[j] != "-" for row in self.rows)]
        places = {(i, j): (i, kept.index(j)) for i in range(len(self.rows)) for j in kept}
        return Table(
            self.title,
            [self.head[j] for j in kept],
            [[row[j] for j in kept] for row in self.rows],
            frozenset(places[cell] for cell in self.best if cell in places),
            {places[cell]: link for cell, link in self.links.items() if cell in places},
        )

    def _written(self, escape: Callable[[str], str], best: str) -> list[list[str]]:
        """Returns head and rows with their texts escaped, and the best in the form ``best``."""
        rows = [list(map(escape, row)) for row in self.rows]
        for row, column in self.best:
            rows[row][column] = best.format(rows[row][column])
        return [list(map(escape, self.head)), *rows]


def _latex(text: str) -> str:
    """Returns a text with LaTeX's special characters written out."""
    special = {c: f"\\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"±": r"$\pm$", "<": r"$<$", ">": r"$>$"}
    return "".join(special.get(c, c) for c in text)


def results(study: Study, marks: Sequence[float], reps: int) -> Table:
    """The table of returns at a task's common end and at ``marks``, with success and times."""
    heads = [f"at {_steps(mark)}" for mark in marks]
    head = ["task", "group", "seeds", "steps", *heads, "return", "95 % (t)", "95 % (bootstrap)"]
    rows = []
    for (task, group), runs in study.cells.items():
        stop = study.end(task)
        finals = study.finals(task, group)
        success = study.finals(task, group, "success_rate")
        at = study.curves(task, group, "episode_return", np.array(marks)).mean(axis=0)
        digits = _digits(finals)
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
    place = head.index("return")
    best = frozenset((row, place) for row in _best(study))
    return Table("Results", [*head, "success", "each seed"], rows, best)


def _best(study: Study) -> list[int]:
    """Returns the rows of :func:`results` that are highlighted, by :data:`BEST`."""
    best = {task: best_groups(study, task) for task in study.tasks}
    return [k for k, (task, group) in enumerate(study.cells) if group in best[task]]


def best_groups(study: Study, task: str) -> list[str]:
    """Returns the groups of a task that are highlighted, by :data:`BEST`."""
    ends = {}
    for group in study.of_task(task):
        finals = study.finals(task, group)
        half = float(np.nan_to_num(statistics.t_half_width(finals)))
        mean = float(finals.mean())
        if np.isfinite(mean):
            ends[group] = (mean, mean - half, mean + half)
    if len(ends) < 2:
        return []
    least = ends[max(ends, key=lambda group: ends[group][0])][1]
    return [group for group, (_, _, high) in ends.items() if high >= least]


def comparison(study: Study) -> Table:
    """The table of returns with half of their t interval: tasks in rows, groups in columns."""
    rows, best = [], set()
    for i, task in enumerate(study.tasks):
        row, marked = [task], best_groups(study, task)
        for j, group in enumerate(study.drawn):
            if group not in study.of_task(task):
                row.append("-")
                continue
            finals = study.finals(task, group)
            digits = _digits(finals)
            half = statistics.t_half_width(finals)
            interval = f" ± {half:,.{digits}f}" if np.isfinite(half) else ""
            row.append(_number(float(finals.mean()), digits) + interval)
            if group in marked:
                best.add((i, j + 1))
        rows.append(row)
    return Table("Comparison", ["task", *study.drawn], rows, frozenset(best))


def leaderboard(study: Study) -> Table:
    """A row for each task and group: the scores at the group's own end, and how it was trained.

    A task's rows begin with the best, by mean actions if all of its groups have that score.
    """
    found = {cell: _scores(study, *cell) for cell in study.cells}
    rows = []
    for task in study.tasks:
        cells = [cell for cell in study.cells if cell[0] == task]
        by = 0 if all(np.isfinite(found[cell][0]) for cell in cells) else 1
        for cell in sorted(cells, key=lambda c: np.nan_to_num(-found[c][by], nan=np.inf)):
            means, sampled, success = found[cell]
            end = study.end(*cell)
            finals = study.curves(*cell, "episode_return", np.array([end]), study.window(*cell))
            digits, runs = _digits(finals), study.cells[cell]
            half = statistics.t_half_width(finals[:, 0])
            rows.append(
                [
                    *(*cell, _steps(end), str(len(runs)), _number(means, digits)),
                    *(_number(sampled, digits), _interval("±{}", digits, half)),
                    *(_number(success, 2), command(runs)),
                ]
            )
    head = ["task", "group", "steps", "seeds", "return (mean actions)", "return (sampled)"]
    return Table("Leaderboard", [*head, "95 % (t)", "success", "command"], rows)


def _scores(study: Study, task: str, group: str) -> tuple[float, float, float]:
    """Returns a group's return with mean and with sampled actions, and its success, at its end."""
    runs = study.cells[task, group]
    at = np.array([study.end(task, group)])
    means = [run.score_of_means(at[0]) for run in runs]
    rates = np.array([run.latest("eval/success_rate", at)[0] for run in runs])
    window = study.window(task, group)
    if not np.isfinite(rates).all():
        rates = study.curves(task, group, "success_rate", at, window)[:, 0]
    sampled = study.curves(task, group, "episode_return", at, window)[:, 0]
    return _mean(means), float(sampled.mean()), float(rates.mean())


def command(runs: Sequence[Run]) -> str:
    """Returns the command that trains runs which differ in nothing but the seed, else the first."""
    each = []
    for run in runs:
        pairs = [line.partition("=") for line in run.overrides()]
        each.append(
            {
                key: value
                for key, _, value in pairs
                if key not in _OF_A_FOLDER and not key.startswith("wandb_")
            }
        )
        if "max_iterations" in each[-1]:  # a continued run may have another number by now
            now = run.settings.get("max_iterations", each[-1]["max_iterations"])
            each[-1]["max_iterations"] = f"{now}"
        if "checkpoint" in each[-1]:
            each[-1]["experiment"] = run.name
    if not each[0]:
        return "-"
    seeds = [found.pop("seed", None) for found in each]
    alike = all(found == each[0] for found in each)
    words = [f"{key}={value}" for key, value in each[0].items()]
    if alike and len(set(seeds)) == len(seeds) > 1:
        sweep = ",".join(map(str, seeds))
        return f"python train.py -m {shlex.join([*words, f'seed={sweep}'])}"
    words += [f"seed={seeds[0]}"] if seeds[0] is not None else []
    return f"python train.py {shlex.join(words)}"


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
        pace = _mean([run.pace(stop) for run in runs])
        memory = _mean([run.peak_mb for run in runs])
        more = memory - _mean([run.peak_mb for run in base]) if base else np.nan
        rows.append(
            [
                *(task, group, _steps(stop), console.hours(seconds), _number(ratio, 2)),
                *(_number(pace, 0), _number(memory, 0), _number(more, 0)),
            ]
        )
    head = ["task", "group", "steps", "wall time", f"/ {baseline}", "steps per second"]
    return Table("Wall time", [*head, "peak memory (MB)", f"- {baseline}"], rows)


def settings(study: Study) -> Table:
    """Settings in which runs of one task differ."""
    found = differences(study)
    rows = [[key, *(values[group] for group in study.groups)] for key, values in found.items()]
    return Table("Settings that differ within a task", ["setting", *study.groups], rows)


def every_run(study: Study, out: Path) -> Table:
    """Returns a table with one row per run, with links from ``out`` to what its folder has."""
    head = ["run", "task", "group", "seed", "steps", "wall time", "state", "revision"]
    head += ["settings", "episode"]
    rows, links = [], {}
    for (task, group), runs in study.cells.items():
        for run in runs:
            settings, episode = run.link("config.yaml"), run.link(EPISODE)
            targets = {"run": run.folder, "settings": settings, "episode": episode}
            links |= {
                (len(rows), head.index(name)): quote(os.path.relpath(path.resolve(), out.resolve()))
                for name, path in targets.items()
                if path is not None
            }
            rows.append(
                [
                    *(run.name, task, group, show(run.settings.get("seed")), _steps(run.steps)),
                    *(console.hours(run.until(run.steps)), run.state or "-", run.revision or "-"),
                    *("-" if path is None else path.name for path in (settings, episode)),
                ]
            )
    return Table("Runs", head, rows, links=links).shown()


def write_csv(study: Study, path: Path) -> None:
    """Writes run, env_steps, episode_return and success_rate, a row per window; load() reads it."""
    head, rows = ["run", "env_steps", "episode_return", "success_rate"], []
    names = iter(distinct([run for runs in study.cells.values() for run in runs]))
    for (task, _), runs in study.cells.items():
        window = study.window(task)
        for run in runs:
            name, stops = next(names), _stops(run, window)
            columns = (run.means(key, stops, window) for key in head[2:])
            for stop, *values in zip(stops, *columns, strict=True):
                if np.isfinite(values[0]):
                    rows.append([name, f"{stop:.0f}", *(f"{value:.5g}" for value in values)])
    write_atomic(path, Table("", head, rows).csv().encode(errors="replace"))


def _stops(run: Run, window: float) -> np.ndarray:
    """Returns the ends of the windows in which a run has lines, at most three times as many."""
    at = np.ceil(run.metrics["env_steps"] / window)
    near = np.unique(np.concatenate((at - 1.0, at, at + 1.0)))  # rounding may put it in the next
    return window * near[(near >= 1.0) & (near <= np.floor(run.steps / window + 1e-9))]


def _steps(value: float) -> str:
    return f"{value / 1e6:.4g} M" if value >= 1e5 else f"{value:.0f}"


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if np.isfinite(value) else "-"


def _digits(values: np.ndarray) -> int:
    """Returns how many decimals to show."""
    return 0 if np.abs(values).max() >= 100 else 2


def _interval(text: str, digits: int, *ends: float) -> str:
    known = np.isfinite(ends).all()
    return text.format(*(_number(end, digits) for end in ends)) if known else "-"


def _ratio(value: float, reference: float) -> float:
    """Returns a quotient; NaN where the reference, as a clock that stood still, is 0."""
    return value / reference if reference else float("nan")


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
