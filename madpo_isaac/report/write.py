"""Contents of a report, and the order of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from madpo_isaac import console
from madpo_isaac.errors import UserError
from madpo_isaac.report import figures, statistics, tables
from madpo_isaac.report.drawing import Picture
from madpo_isaac.report.page import Page
from madpo_isaac.report.study import ARM, Study, baseline
from madpo_isaac.system.files import write_atomic

REPS = 2000
"""Resamples of every bootstrap."""
_FEW = 5


def write(
    study: Study,
    out: Path,
    *,
    title: str,
    marks: Sequence[float] = (),
    base: str = "",
    reps: int = REPS,
    front: Sequence[Picture] = (),
) -> None:
    """Writes ``report.html``, ``curves.csv`` and ``figures/`` to ``out``, and prints the results.

    Args:
        study: the runs.
        out: folder to write to, created if necessary.
        title: title of the page.
        marks: environment steps at which to list returns.
        base: the group others are compared with, see :func:`baseline`.
        reps: resamples of every bootstrap.
        front: figures to show before all others.

    Raises:
        UserError: there is no group ``base``, or ``out`` cannot be written.
    """
    base = baseline(study, base)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        results = tables.results(study, marks, reps)
        page = _page(study, out / "figures", title, results, base, reps, front)
        tables.write_csv(study, out / "curves.csv")
        write_atomic(out / "report.html", page.html().encode(errors="replace"))
    except OSError as problem:
        raise UserError(f"Cannot write '{out}': {problem}.") from problem
    for line in results.lines():
        console.info(line)
    for note in study.notes():
        console.info(f"note: {note}")
    console.info(f"wrote {out / 'report.html'} and {out / 'figures'}")


def _page(
    study: Study,
    folder: Path,
    title: str,
    results: tables.Table,
    base: str,
    reps: int,
    front: Sequence[Picture],
) -> Page:
    page = Page(title)
    page.notes([*study.caption.splitlines(), *_explained(study, reps), *study.notes()])
    for picture in front:
        page.picture(picture)
    page.heading("Learning curves")
    page.picture(figures.curves(study, folder, reps))
    rates = np.concatenate([run.metrics.get("success_rate", np.zeros(0)) for run in study.runs])
    if len(np.unique(rates[~np.isnan(rates)])) > 1:  # a constant says nothing
        page.picture(figures.curves(study, folder, reps, "success_rate"))
    if any("eval/return" in run.metrics for run in study.runs):
        page.picture(figures.curves(study, folder, reps, "eval/return"))
    page.heading("Results")
    page.table(results)
    _aggregated(page, study, folder, base, reps)
    if any("wall_s" in run.metrics for run in study.runs):  # files of curves have no times
        page.heading("Wall time and memory")
        page.table(tables.wall_time(study, base))
    keys = () if ARM in study.by else figures.SENSITIVE  # named groups bring their own figure
    pictures = [figures.sensitivity(study, folder, reps, key) for key in keys]
    if any(pictures):
        page.heading("Sensitivity")
        for picture in pictures:
            page.picture(picture)
    _details(page, study, folder)
    return page


def _explained(study: Study, reps: int) -> list[str]:
    lines = [
        f"Runs: {len(study.runs)}, in groups by {', '.join(study.by)}. A point of a curve is "
        "the mean training return over the episodes finished in the last twentieth of the "
        "steps, or as --window says; a point without such episodes shows the last before it.",
        f"Bands and intervals: 95 %, percentile bootstrap over seeds ({reps} resamples), and where "
        "it says so Student's t. A single seed has none.",
    ]
    if min(len(runs) for runs in study.cells.values()) < _FEW:
        lines.append(
            f"Bootstrap intervals of fewer than {_FEW} seeds are too narrow; see those of t."
        )
    return lines


def _aggregated(page: Page, study: Study, folder: Path, base: str, reps: int) -> None:
    scores = statistics.shared_scores(study)
    if scores is None:
        return
    page.heading("Aggregates")
    runs = ", ".join(f"{group} {len(c)}" for group, c in scores.curves.items())
    zero = (
        "0 is the mean return of all runs at their first point, 1 that of the best group at the end"
    )
    page.notes(
        [
            f"Groups that every task has, on {', '.join(scores.tasks)}. Runs a task: {runs}.",
            f"Normalized per task: {zero}." if scores.normalized else "Returns as they are.",
        ]
    )
    page.picture(figures.efficiency(study, scores, folder, reps))
    page.picture(figures.aggregate(study, scores, folder, reps))
    if base in scores.curves:
        page.picture(figures.improvement(study, scores, folder, reps, base))


def _details(page: Page, study: Study, folder: Path) -> None:
    pictures = [p for cell in study.cells if (p := figures.agents(study, folder, *cell))]
    if pictures:
        page.heading("Agents")
        page.folded(f"{len(pictures)} figures", pictures)
    videos = [(f"{run.name}: {p.name}", p) for run in study.runs if (p := run.video())]
    if videos:
        page.heading("Videos")
        page.videos(videos)
    differing = tables.settings(study)
    if differing.rows:
        page.heading(differing.title)
        page.table(differing)
    page.heading("Runs")
    page.table(tables.every_run(study))
