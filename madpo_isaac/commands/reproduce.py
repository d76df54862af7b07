"""``madpo reproduce``, also reproduce.py: makes the runs of a figure of the paper and draws it."""

from __future__ import annotations

import argparse
import dataclasses
import zlib
from collections import ChainMap
from collections.abc import Collection, Sequence

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.reproduce import paper, question
from madpo_isaac.reproduce.arms import METHODS
from madpo_isaac.reproduce.caption import Request, caption
from madpo_isaac.reproduce.cost import total
from madpo_isaac.reproduce.paper import RECIPES, Scale
from madpo_isaac.reproduce.plan import Job, plan
from madpo_isaac.reproduce.run import reproduce, union
from madpo_isaac.system import device
from madpo_isaac.system.files import check_writable
from madpo_isaac.tasks.registry import canonical

ALL = "all"
FIGURES = {**paper.FIGURES, **question.FIGURES}
SCALES = ChainMap(paper.SCALES, question.SCALES)
_LONGEST = 150
"""Letters that the tasks may take in the name of a folder; file systems allow 255 in all."""


def main(argv: Sequence[str]) -> int:
    """Makes the missing runs of a figure, or of all, and reports; returns 0, or 1 if a run failed.

    A signal gives 128 plus its number, without a report.
    """
    parser = Parser("reproduce.py", "Runs what a figure or table of the paper shows.")
    add = parser.add_argument
    add("figure", nargs="?", default="", help=f"{', '.join(FIGURES)}, or {ALL} of the paper")
    add("settings", nargs="*", metavar="KEY=VALUE", help="further settings of every run")
    add("--method", default="", help=f"MADPO's bonus: {', '.join(METHODS)}")
    add("--recipe", default="", help=f"hyper-parameters: {', '.join(RECIPES)}")
    add("--scale", default="", help=f"extent: {', '.join(paper.SCALES)}")
    add("--tasks", metavar="A,B", help="only these of the figure's tasks")
    add("--seeds", type=parser.positive_int, metavar="N", help="only the scale's first N seeds")
    add(
        "--jobs",
        type=parser.positive_int,
        metavar="J",
        help="runs at a time (default: one per usable core)",
    )
    add("--runs", default="runs/reproduce", type=parser.path, help="folder of the run folders")
    add("--out", default="report", type=parser.path, help="folder of the reports")
    add("--list", action="store_true", help="print the runs, their time and disk space; start none")
    options = parser.parse(argv)
    if not argv or (options.list and not options.figure):
        return _list()
    if options.figure not in (*FIGURES, ALL):
        raise unknown("figure", options.figure, (*FIGURES, ALL))
    for kind, allowed in _allowed(options.figure).items():
        setattr(options, kind, chosen := getattr(options, kind) or next(iter(allowed)))
        if chosen not in allowed:
            raise unknown(f"{kind} of {options.figure}", chosen, allowed)
    runs = options.runs / f"{options.recipe}_{options.scale}"
    requests, jobs = {}, {}
    for name, scale in _narrowed(options).items():
        parts = [name, options.method, options.recipe, options.scale, _in_short(scale.only)]
        parts += [f"seeds{options.seeds}"] if options.seeds else []
        out = options.out / "_".join(filter(None, parts))
        how = (options.method, options.recipe)
        more = tuple(options.settings)
        requests[out] = Request(name, FIGURES[name], options.scale, scale, *how, more)
        jobs[out] = plan(FIGURES[name], scale, runs, more, *how)
    every = union(jobs.values())
    cores = device.cores()
    workers = min(options.jobs or cores, len(every))
    if options.list:
        for out, request in requests.items():
            for job in jobs[out]:
                console.info(f"{job.folder}: {' '.join(job.settings)}")
            console.info(f"{caption(request, jobs[out])}\n{_cost(jobs[out], workers)}")
        if len(requests) > 1:
            console.info(f"all, with shared runs counted once: {_cost(every, workers)}")
        return 0
    for folder in (runs, *requests):  # hours before the reports are written
        check_writable(folder)
    return reproduce(requests, jobs, workers, max(1, cores // workers))


def _allowed(figure: str) -> dict[str, Collection[str]]:
    """Returns the values of the options for a figure, the default first.

    A study has one of each, which its protocol fixes.
    """
    if figure in question.FIGURES:
        return {"method": ("gaussian",), "recipe": ("tuned",), "scale": (figure,)}
    return {"method": METHODS, "recipe": RECIPES, "scale": paper.SCALES}


def _narrowed(options: argparse.Namespace) -> dict[str, Scale]:
    """Returns the figures, each with the scale that has only the tasks and seeds asked for.

    Raises:
        UserError: there is no such task or seed, or the figure is a study, whose protocol has all.
    """
    names = paper.FIGURES if options.figure == ALL else (options.figure,)
    scale = SCALES[options.scale]
    given = options.tasks is not None or options.seeds
    if given and options.figure in question.FIGURES:
        raise UserError(
            f"{options.figure} follows a protocol (docs/question.md) that fixes its tasks and "
            "seeds: leave out --tasks and --seeds."
        )
    if options.seeds and options.seeds > len(scale.seeds):
        raise UserError(
            f"--seeds {options.seeds} is more than scale {options.scale} has: {len(scale.seeds)}."
        )
    scale = dataclasses.replace(scale, seeds=scale.seeds[: options.seeds])
    if options.tasks is None:
        return dict.fromkeys(names, scale)
    known = list(dict.fromkeys(task for name in names for task in FIGURES[name].tasks))
    asked = [canonical(task.strip()) for task in options.tasks.split(",")]
    for task in asked:
        if task not in known:
            raise unknown(f"task of {options.figure}", task, known)
    only = {name: tuple(t for t in FIGURES[name].tasks if t in asked) for name in names}
    return {name: dataclasses.replace(scale, only=own) for name, own in only.items() if own}


def _in_short(tasks: Sequence[str]) -> str:
    """Returns the names of tasks for that of a folder; if they are long, a checksum of them."""
    text = "_".join(tasks)
    if len(text) <= _LONGEST:
        return text
    return f"{len(tasks)}tasks_{zlib.crc32(text.encode()):08x}"


def _cost(jobs: Sequence[Job], workers: int) -> str:
    """Returns the expected time and disk space of runs, in words."""
    cost = total(job.cost for job in jobs)
    hours = cost.seconds / 3600.0
    return (
        f"{len(jobs)} runs: about {hours:.3g} hours of one core (within a factor of two), "
        f"{hours / workers:.3g} with {workers} at a time on as many cores; {cost.bytes / 1e9:.2g} "
        "GB of disk"
    )


def _list() -> int:
    """Prints the figures and the scales; returns 0."""
    console.info("python reproduce.py <figure> --scale <scale>")
    for name, figure in FIGURES.items():
        arms = len(figure.arms("gaussian"))
        runs = f"{len(figure.tasks)} tasks x {arms} arms"
        console.info(f"  {name:<9}{figure.title} ({runs})")
    console.info("scales; choose and confirm have one of their own")
    for name, scale in SCALES.items():
        extent = ", ".join(f"{suite} {steps:,.0f}" for suite, steps in scale.steps.items())
        seeds = f"{len(scale.seeds)} seed{'s' * (len(scale.seeds) > 1)}"
        some = f", {scale.tasks} of the tasks" if scale.tasks else ""
        console.info(f"  {name:<9}{seeds}{some}, environment steps of a run: {extent}")
    return 0
