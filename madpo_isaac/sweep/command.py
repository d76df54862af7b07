"""``reproduce.py``: command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from madpo_isaac import console
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.report.command import REPS, Parser, write
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study
from madpo_isaac.sweep import pool
from madpo_isaac.sweep.paper import FIGURES, SCALES, SUITES, Figure, Scale, suite
from madpo_isaac.sweep.plan import Job, choose_tasks, plan


def main(argv: Sequence[str]) -> int:
    """Runs what is missing of a figure and reports; 0, or 1 if a run failed.

    After a signal 128 plus its number, without a report.
    """
    parser = Parser("reproduce.py", description="Runs what a figure of the paper shows.")
    add = parser.add_argument
    add("figure", nargs="?", default="", help=", ".join(FIGURES))
    add("settings", nargs="*", metavar="KEY=VALUE", help="further settings of every run")
    add("--scale", default="smoke", help=f"{', '.join(SCALES)} (default: smoke)")
    add("--jobs", default="", metavar="J", help="runs at a time (default: one a core)")
    add("--runs", default="runs/reproduce", type=Path, help="where run folders go")
    add("--out", default="report", type=Path, help="where the report goes")
    add("--list", action="store_true", help="print the runs, start none")
    options = parser.parse_intermixed_args(argv)
    if options.figure not in FIGURES:
        raise unknown("figure", options.figure, FIGURES)
    if options.scale not in SCALES:
        raise unknown("scale", options.scale, SCALES)
    cores = os.cpu_count() or 1
    if options.jobs and not (options.jobs.isdecimal() and int(options.jobs) > 0):
        raise UserError(f"--jobs {options.jobs} must be a whole number of at least 1.")
    figure, scale = FIGURES[options.figure], SCALES[options.scale]
    jobs = plan(figure, scale, options.runs / options.scale, options.settings)
    if options.list:
        for job in jobs:
            console.info(f"{job.folder}: {' '.join(job.settings)}")
        return 0
    workers = min(int(options.jobs or cores), len(jobs))
    out = options.out / f"{options.figure}_{options.scale}"
    title = f"{options.figure} of the MADPO paper at scale {options.scale}"
    return reproduce(figure, scale, jobs, out, title, workers, max(1, cores // workers))


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
        console.info(f"left out, not in the registry: {', '.join(missing)}")
    failed, code = pool.run(jobs, workers, threads)
    if code:
        console.info("the same command continues")
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
