"""Runs the unfinished jobs of figures, and reports each figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from madpo_isaac import console
from madpo_isaac.report import overview
from madpo_isaac.report.chart import Figure
from madpo_isaac.report.runs import Run, load
from madpo_isaac.report.study import ARM, Study
from madpo_isaac.report.write import REPS, write
from madpo_isaac.reproduce import pool
from madpo_isaac.reproduce.arms import Arms
from madpo_isaac.reproduce.caption import Request, caption
from madpo_isaac.reproduce.plan import Job
from madpo_isaac.reproduce.verdict import collect, scores_csv
from madpo_isaac.system.files import write_atomic


def reproduce(
    requests: Mapping[Path, Request],
    jobs: Mapping[Path, Sequence[Job]],
    workers: int,
    threads: int,
    reps: int = REPS,
) -> int:
    """Runs the jobs of several figures, and reports each figure in its folder.

    Args:
        requests: the figures, by the folders of their reports.
        jobs: the runs of each figure, by the same folders; figures may share runs.
        workers: number of processes at a time.
        threads: number of threads of each process.
        reps: resamples of every bootstrap.

    Returns:
        The exit code: 0, 1 if a run failed or is unfinished, or 128 plus the signal's number after
        a signal.
    """
    every = union(jobs.values())
    for out, request in requests.items():
        console.info(f"{len(jobs[out])} runs. {caption(request, jobs[out])}")
    console.info(f"{len(every)} runs in all, {workers} at a time")
    failed, unfinished, code = pool.run(every, workers, threads)
    if code:
        console.info("run the same command again to continue")
        return code
    missing = {*failed, *unfinished}
    for out, request in requests.items():
        shown = [job for job in jobs[out] if job.name not in missing]
        if shown:
            _report(request, shown, out, reps)
        if shown and request.figure.conclude is not None:
            if any(job.name in unfinished for job in jobs[out]):
                console.info("not all runs are finished: there is no verdict yet")
            else:
                _conclude(request, jobs[out], failed, out, reps)
    for name, reason in failed.items():
        console.error(f"{name} failed: {reason}")
    for name, reason in unfinished.items():
        console.error(f"{name} is unfinished: {reason}")
    return 1 if missing else 0


def union(figures: Iterable[Sequence[Job]]) -> list[Job]:
    """Returns the jobs of several figures, each run once, in their order."""
    return list({job.folder: job for jobs in figures for job in jobs}.values())


def _report(request: Request, jobs: Sequence[Job], out: Path, reps: int) -> None:
    """Writes the report of a figure, and one for each of its panels."""
    arms = request.figure.arms(request.method)
    text = caption(request, jobs)
    runs = [_named(job, arms) for job in jobs]
    study = Study(runs, (ARM,), caption=text)
    parts = {}
    for name, tasks in request.figure.panels.items():
        if inside := [run for run in runs if run.task in tasks]:
            parts[name] = Study(inside, (ARM,), caption=text)
        else:
            console.info(f"{name}: none of its tasks is in scale {request.scale_name}")
    for name, part in parts.items():
        base = _base(part, arms)
        write(part, out / name, title=f"{request.title}, {name}", base=base, reps=reps)
    front = _front(request, study, parts, arms, reps)
    base = _base(study, arms)
    write(study, out, title=request.title, base=base, reps=reps, front=front)
    shows = request.figure.shows
    where = out / "figures" / f"{shows}.pdf"
    if shows == "wall time":
        console.info(f"the paper's table: the table of wall times in {out / 'report.html'}")
    elif where.is_file():
        owner = "the paper's" if request.figure.is_of_paper else "the"
        console.info(f"{owner} figure: {where}")


def _conclude(
    request: Request, jobs: Sequence[Job], failed: Container[str], out: Path, reps: int
) -> None:
    """Writes the scores of all runs and what follows from them."""
    arms = request.figure.arms(request.method)
    runs = [None if job.name in failed else _named(job, arms) for job in jobs]
    for job, run in zip(jobs, runs, strict=True):
        _warn_of_lost_evaluations(job, run)
    titles = [(job.task, arms[job.arm].title) for job in jobs]
    scores = collect((*title, run) for title, run in zip(titles, runs, strict=True))
    assert request.figure.conclude is not None
    text = request.figure.conclude(scores, reps)
    files = {"verdict.md": f"# {request.title}\n\n{text}", "scores.csv": scores_csv(scores)}
    for name, content in files.items():
        write_atomic(out / name, content.encode())
    console.info(text)


def _warn_of_lost_evaluations(job: Job, run: Run | None) -> None:
    """Says so if a run is over and has fewer evaluations than it made: its score is another one."""
    if run is None or job.config is None or not job.config.eval_frequency:
        return
    iterations = job.steps // (job.config.num_envs * job.config.algo.horizon)
    wanted = iterations // job.config.eval_frequency
    found = int(np.isfinite(run.metrics.get("eval/return", np.zeros(0))).sum())
    if found < wanted:
        console.warning(f"{job.folder} has {found} of its {wanted} evaluations.")


def _named(job: Job, arms: Arms) -> Run:
    """Returns the run of a job, in the group of its arm."""
    (run,) = load([str(job.folder)])
    return dataclasses.replace(run, settings={**run.settings, ARM: arms[job.arm].title})


def _base(study: Study, arms: Arms) -> str:
    """Returns the group to compare with: HAPPO, if it is there."""
    titles = [arms[name].title for name in ("happo", "only_none") if name in arms]
    return next((title for title in titles if title in study.groups), study.groups[0])


def _front(
    request: Request,
    study: Study,
    parts: Mapping[str, Study],
    arms: Arms,
    reps: int,
) -> list[Figure]:
    """Draws the figure of the paper where it is none of an ordinary report."""
    knobs = {arm.title: arm.knob for arm in arms.values() if arm.knob is not None}
    figures = {
        "efficiency": lambda: overview.efficiency(parts, reps),
        "sensitivity": lambda: overview.sensitivity(study, reps, knobs),
        "sensitivity_over_tasks": lambda: overview.sensitivity_over_tasks(study, reps, knobs),
    }
    make = figures.get(request.figure.shows)
    figure = None if make is None else make()
    return [] if figure is None else [figure]
