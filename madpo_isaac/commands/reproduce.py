"""``madpo reproduce``, also reproduce.py: makes the runs of a figure of the paper and draws it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.reproduce.paper import FIGURES, SCALES
from madpo_isaac.reproduce.plan import plan
from madpo_isaac.reproduce.run import reproduce


def main(argv: Sequence[str]) -> int:
    """Makes the missing runs of a figure and reports; returns 0, or 1 if a run failed.

    A signal gives 128 plus its number, without a report.
    """
    parser = Parser("reproduce.py", "Runs what a figure of the paper shows.")
    add = parser.add_argument
    add("figure", nargs="?", default="", help=", ".join(FIGURES))
    add("settings", nargs="*", metavar="KEY=VALUE", help="further settings of every run")
    add("--scale", default="smoke", help=f"{', '.join(SCALES)} (default: smoke)")
    add("--jobs", default="", metavar="J", help="runs at a time (default: one per core)")
    add("--runs", default="runs/reproduce", type=parser.path, help="folder of the run folders")
    add("--out", default="report", type=parser.path, help="folder of the report")
    add("--list", action="store_true", help="print the runs without starting any")
    options = parser.parse(argv)
    if not argv:
        return _list()
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


def _list() -> int:
    """Prints the figures and the scales; returns 0."""
    console.info("python reproduce.py <figure> --scale <scale>")
    for name, figure in FIGURES.items():
        runs = f"{len(figure.tasks)} tasks x {len(figure.variants)} variants"
        console.info(f"  {name:<8}{figure.title} ({runs})")
    console.info("scales")
    for name, scale in SCALES.items():
        extent = ", ".join(f"{suite} {steps:,.0f}" for suite, steps in scale.steps.items())
        seeds = f"{len(scale.seeds)} seed{'s' * (len(scale.seeds) > 1)}"
        some = f", {scale.tasks} of the tasks" if scale.tasks else ""
        console.info(f"  {name:<8}{seeds}{some}, environment steps of a run: {extent}")
    return 0
