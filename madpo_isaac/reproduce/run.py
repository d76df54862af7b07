"""Runs the unfinished jobs of a figure, and reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from madpo_isaac import console
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study
from madpo_isaac.report.write import REPS, write
from madpo_isaac.reproduce import pool
from madpo_isaac.reproduce.paper import SUITES, Figure, Scale, suite
from madpo_isaac.reproduce.plan import Job, choose_tasks


def reproduce(
    figure: Figure,
    scale: Scale,
    jobs: Sequence[Job],
    out: Path,
    title: str,
    workers: int,
    threads: int,
    reps: int = REPS,
) -> int:
    """Runs ``jobs``, ``workers`` at a time with ``threads`` each, and reports in ``out``.

    Returns:
        The exit code, see :func:`main`.
    """
    chosen, missing = choose_tasks(figure, scale)
    console.info(f"{title}: {figure.title}")
    console.info(
        f"{len(jobs)} runs, {workers} at a time: {len(chosen)} tasks, {len(figure.variants)} "
        f"variants, {len(scale.seeds)} seeds"
    )
    if figure.chosen:
        console.info(f"chosen here: {figure.chosen}")
    if missing:
        console.info(f"left out, since this project does not have them: {', '.join(missing)}")
    failed, code = pool.run(jobs, workers, threads)
    if code:
        console.info("run the same command again to continue")
        return code
    shown = [job for job in jobs if job.name not in failed]
    suites = {suite(job.task) for job in shown} if figure.per_suite else {""}
    for name in sorted(suites):
        tasks = SUITES.get(name, figure.tasks)
        folders = [str(job.folder) for job in shown if job.task in tasks]
        if folders:
            place = out / name if name else out
            head = f"{title}: {figure.title}" + (f", {name}" if name else "")
            write(Study(load(folders), figure.by), place, title=head, reps=reps)
            console.info(f"what the paper shows: {_shown(figure, place)}")
    for name, reason in failed.items():
        console.error(f"{name} failed: {reason}")
    return 1 if failed else 0


def _shown(figure: Figure, out: Path) -> str:
    if figure.shows == "wall time":
        return f"the table of wall times in {out / 'report.html'}"
    return str(out / "figures" / f"{figure.shows}.pdf")
