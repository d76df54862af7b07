"""Contents of a report, and the order of its page."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from madpo_isaac import console
from madpo_isaac.report import figures, statistics, tables
from madpo_isaac.report.chart import Figure
from madpo_isaac.report.drawing import write_files
from madpo_isaac.report.page import Page
from madpo_isaac.report.runs import Tell
from madpo_isaac.report.study import ARM, Study, baseline
from madpo_isaac.system.files import write_atomic, writing

REPS = 2000
"""Resamples of every bootstrap."""
CSV_FILES = ("curves.csv", "leaderboard.csv")
"""Files of a report that a report can be about."""
MOST_DRAWN = 12
"""Number of groups that figures show; more curves cannot be told apart."""
_FEW = 5


def write(
    study: Study,
    out: Path,
    *,
    title: str,
    command: str = "",
    marks: Sequence[float] = (),
    base: str = "",
    reps: int = REPS,
    front: Sequence[Figure] = (),
    tell: Tell = lambda text: None,
) -> None:
    """Writes the page, its files and ``figures/`` to ``out``, and prints the results.

    Args:
        study: the runs.
        out: folder to write to, created if necessary.
        title: title of the page.
        command: the command line that makes the page.
        marks: environment steps at which to list returns.
        base: the group others are compared with, see :func:`baseline`.
        reps: resamples of every bootstrap.
        front: figures to show before all others.
        tell: called with the name of each part before it is made.

    Raises:
        UserError: there is no group ``base``, or ``out`` cannot be written.
    """
    base = baseline(study, base)
    study.draw_at_most(MOST_DRAWN, base)
    with writing(out):
        (out / "figures").mkdir(parents=True, exist_ok=True)
        results = tables.results(study, marks, reps)
        leaders = tables.leaderboard(study)
        report = _Report(study, out, title, base, reps, tell)
        report.fill(command, results, leaders, front)
        curves, table = (out / name for name in CSV_FILES)
        tables.write_csv(study, curves)
        write_atomic(out / "leaderboard.md", leaders.markdown().encode(errors="replace"))
        write_atomic(table, leaders.csv().encode(errors="replace"))
        write_atomic(out / "report.html", report.page.html().encode(errors="replace"))
    for line in results.lines():
        console.info(line)
    for note in study.notes():
        console.info(f"note: {note}")
    console.info(f"wrote {out / 'report.html'} and {out / 'figures'}")


class _Report:
    """The page under way, and the folder of its files."""

    def __init__(
        self, study: Study, out: Path, title: str, base: str, reps: int, tell: Tell
    ) -> None:
        self.page = Page(title)
        self._study, self._out, self._base, self._reps = study, out, base, reps
        self._tell = tell

    def fill(
        self, command: str, results: tables.Table, leaders: tables.Table, front: Sequence[Figure]
    ) -> None:
        """Adds everything in its order."""
        study, page, reps = self._study, self.page, self._reps
        self._head(command)
        for figure in front:
            self._add(figure)
        page.heading("Learning curves")
        self._add(figures.curves(study, reps))
        rates = np.concatenate([run.metrics.get("success_rate", np.zeros(0)) for run in study.runs])
        if len(np.unique(rates[~np.isnan(rates)])) > 1:  # a constant says nothing
            self._add(figures.curves(study, reps, "success_rate"))
        if any("eval/return" in run.metrics for run in study.runs):
            self._add(figures.curves(study, reps, "eval/return"))
        page.heading("Results")
        page.notes([tables.BEST])
        if len(study.tasks) > 1 < len(study.drawn):
            page.table(tables.comparison(study))
        page.table(results)
        page.heading("Leaderboard")
        page.notes(
            [
                "Each group at its own end. Mean actions: the last evaluation in training, or what "
                "madpo eval --deterministic wrote about last.pth. Sampled: the training return, "
                "with its interval. The table is in leaderboard.csv and leaderboard.md, too."
            ]
        )
        page.table(leaders.shown())
        self._aggregated()
        if any("wall_s" in run.metrics for run in study.runs):  # files of curves have no times
            page.heading("Wall time and memory")
            page.table(tables.wall_time(study, self._base))
        keys = () if ARM in study.by else figures.SENSITIVE  # named groups bring their own figure
        found = [figures.sensitivity(study, reps, key) for key in keys]
        if any(found):
            page.heading("Sensitivity")
            for figure in found:
                self._add(figure)
        self._details()

    def _head(self, command: str) -> None:
        study, page = self._study, self.page
        now = datetime.datetime.now().astimezone()
        page.made(f"{now:%Y-%m-%d %H:%M %Z}", study.tasks, command)
        lines = [*study.caption.splitlines(), *_explained(study, self._reps), *study.notes()]
        if len(study.drawn) < len(study.groups):
            lines.append(
                f"Figures show {len(study.drawn)} of {len(study.groups)} groups: {self._base}, and "
                "those with the best mean rank over their tasks. The tables have all."
            )
        page.notes(lines)
        left_out = [group for group in study.groups if group not in study.drawn]
        if left_out:
            rows = [[group] for group in left_out]
            with page.folded(f"{len(left_out)} groups that are not drawn"):
                page.table(tables.Table("Groups that are not drawn", ["group"], rows))

    def _add(self, figure: Figure | None) -> None:
        """Adds a figure, if there is one, and writes its files."""
        if figure is not None:
            self._tell(f"drawing {figure.name}")
            self.page.figure(figure)
            write_files(figure, self._out / "figures")

    def _aggregated(self) -> None:
        study, page, reps = self._study, self.page, self._reps
        scores = statistics.shared_scores(study)
        if scores is None:
            return
        page.heading("Aggregates")
        runs = ", ".join(f"{group} {len(c)}" for group, c in scores.curves.items())
        zero = (
            "0 is the mean return of all runs at their first point, 1 that of the best group at "
            "the end"
        )
        page.notes(
            [
                f"Groups that every task has, on {', '.join(scores.tasks)}. Runs a task: {runs}.",
                f"Normalized per task: {zero}." if scores.normalized else "Returns as they are.",
            ]
        )
        self._add(figures.efficiency(study, scores, reps))
        self._add(figures.aggregate(study, scores, reps))
        self._add(figures.profiles(study, scores, reps))
        if self._base in scores.curves:
            self._add(figures.improvement(study, scores, reps, self._base))

    def _details(self) -> None:
        study, page = self._study, self.page
        agents = [figures.agents(study, *cell) for cell in study.cells if cell[1] in study.drawn]
        shown = [figure for figure in agents if figure is not None]
        if shown:
            page.heading("Agents")
            with page.folded(f"{len(shown)} figures"):
                for figure in shown:
                    page.figure(figure, files=False)
        videos = [(f"{run.name}: {p.name}", p) for run in study.runs if (p := run.video())]
        if videos:
            page.heading("Videos")
            page.videos(videos)
        page.heading("Runs")
        differing = tables.settings(study)
        if differing.rows:
            with page.folded(differing.title):
                page.table(differing)
        page.table(tables.every_run(study, self._out))


def _explained(study: Study, reps: int) -> list[str]:
    lines = [
        f"Runs: {len(study.runs)}, in groups by {', '.join(study.by)}. A point of a curve is "
        "the mean training return over the episodes finished in the last twentieth of the "
        "steps, or as --window says; a point without such episodes shows the last before it.",
        f"Bands and intervals: 95 %, percentile bootstrap over seeds ({reps} resamples), and where "
        "it says so Student's t. A single seed has none. Point at a curve to see its numbers.",
    ]
    if min(len(runs) for runs in study.cells.values()) < _FEW:
        lines.append(
            f"Bootstrap intervals of fewer than {_FEW} seeds are too narrow; see those of t."
        )
    return lines
