"""Runs jobs side by side, each in a process of its own, and shows their progress."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from madpo_isaac import console
from madpo_isaac.errors import UserError
from madpo_isaac.reproduce.plan import Job
from madpo_isaac.system.signals import StopRequest

TRAIN = ("-m", "madpo_isaac", "train")
"""Arguments of the interpreter that start a run; all further ones are settings."""
_PLACE = Path(__file__).resolve().parents[2]
"""Folder from which this package is imported, in the processes of runs too."""
_POLL_S = 0.2
_SIGNALLED = 128
"""Exit code of a run that a signal stopped in good order, minus the signal's number."""
_PLAIN_S = 60.0
"""Seconds between lines about the progress, if there is no terminal."""


class Result(NamedTuple):
    """Runs that are not finished after a call of :func:`run`, and its exit code."""

    failed: Mapping[str, str]
    """Reasons of the runs that ended with an error, by name."""
    unfinished: Mapping[str, str]
    """Reasons of the runs that something else ended, by name."""
    exit_code: int
    """0, or 128 plus the signal's number after a signal to this process."""


class View:
    """Shows a line for every run that ends, and on a terminal bars, else a line per minute."""

    def __init__(self, jobs: Sequence[Job], workers: int) -> None:
        self._jobs, self._workers = list(jobs), workers
        self._done = 0
        self._spoke = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        self._bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=console.out)
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> View:
        if console.out.is_terminal:
            self._bars.start()
            self._rows[""] = self._bars.add_task("all runs", total=1.0, note="")
        else:
            console.info(self._line())
        return self

    def __exit__(self, *exception: object) -> None:
        if self._rows:
            self._bars.stop()

    def update(self, running: Sequence[Job]) -> None:
        """Shows the progress of the running jobs and the remaining time."""
        if not console.out.is_terminal:
            if time.monotonic() - self._spoke > _PLAIN_S:
                console.info(self._line())
                self._spoke = time.monotonic()
            return
        share, _ = outlook(self._jobs, self._workers)
        self._bars.update(self._rows[""], completed=share, note=self._line())
        for name in set(self._rows) - {"", *(job.name for job in running)}:
            self._bars.remove_task(self._rows.pop(name))
        for job in running:
            if job.name not in self._rows:
                self._rows[job.name] = self._bars.add_task(job.name, total=job.steps, note="")
            self._bars.update(self._rows[job.name], completed=job.progress()[0])

    def ended(self, job: Job, outcome: str) -> None:
        """Reports that a run has ended."""
        self._done += 1
        place, took = f"[{self._done}/{len(self._jobs)}]", console.hours(job.progress()[1])
        console.info(f"{place} {job.name}: {outcome}, {took}")

    def _line(self) -> str:
        share, left = outlook(self._jobs, self._workers)
        eta = console.hours(left)
        return f"{self._done} of {len(self._jobs)} runs, {share:.0%} of the steps, ETA {eta}"


def outlook(jobs: Sequence[Job], workers: int) -> tuple[float, float]:
    """Returns the share of all steps that is done, and the seconds that the rest will take.

    A run is assumed to continue at its own pace. For a run that has not started yet, the expected
    time is corrected by the factor by which the other runs differ from their expected times.
    """
    so_far = {job: job.progress() for job in jobs}
    share = sum(min(steps, job.steps) for job, (steps, _) in so_far.items())
    share /= sum(job.steps for job in jobs)
    taken = sum(seconds for _, seconds in so_far.values())
    foreseen = sum(job.cost.seconds * steps / job.steps for job, (steps, _) in so_far.items())
    correction = taken / foreseen if taken > 0.0 and foreseen > 0.0 else 1.0
    left = [0.0]
    for job, (steps, seconds) in so_far.items():
        if steps < job.steps:
            known = steps > 0.0 and seconds > 0.0
            pace = seconds / steps if known else correction * job.cost.seconds / job.steps
            left.append((job.steps - steps) * pace)
    return share, max(sum(left) / workers, *left)


def run(jobs: Sequence[Job], workers: int, threads: int) -> Result:
    """Runs all unfinished jobs, ``workers`` at a time, and waits for them.

    Ctrl-C or SIGTERM asks the running jobs to save and exit, and the same call continues them. A
    job of another process is waited for, and continued if that process leaves it unfinished.

    Args:
        jobs: in the order in which they are started.
        workers: processes at a time.
        threads: threads of each process.
    """
    waiting = [job for job in jobs if not job.finished()]
    failed: dict[str, str] = {}
    unfinished: dict[str, str] = {}
    running: dict[Job, subprocess.Popen[bytes]] = {}
    taken: set[Job] = set()
    stop, told = StopRequest(), False
    with View(jobs, workers) as view, stop.listening():
        for job in jobs:
            if job not in waiting:
                view.ended(job, "finished before")
        try:
            while running or (waiting and not stop):
                free = [] if stop or len(running) >= workers else _not_taken(waiting, taken)
                for job in free[: workers - len(running)]:
                    waiting.remove(job)
                    if job in taken and job.finished():
                        view.ended(job, "finished by another process")
                    else:
                        running[job] = _start(job, threads)
                time.sleep(_POLL_S)
                if stop and not told:
                    told = True
                    for process in running.values():
                        _signal(process, signal.SIGTERM)
                for job, process in list(running.items()):
                    if process.poll() is not None:
                        del running[job]
                        if stop:
                            view.ended(job, "stopped")
                        elif process.returncode and job.taken():  # it came a moment too late
                            waiting.append(job)
                        elif process.returncode and job.finished():
                            view.ended(job, "finished by another process")
                        elif reason := _unfinished(job, process.returncode):
                            unfinished[job.name] = reason
                            view.ended(job, f"unfinished ({reason})")
                        elif process.returncode:
                            failed[job.name] = reason = _last_words(job)
                            view.ended(job, f"failed ({reason}; all of it is in {_log(job)})")
                        else:
                            view.ended(job, "finished")
                view.update(list(running))
        finally:
            for process in running.values():
                _signal(process, signal.SIGKILL)
                process.wait()
    return Result(failed, unfinished, stop.exit_code)


def _not_taken(jobs: Sequence[Job], taken: set[Job]) -> list[Job]:
    """Returns the ``jobs`` that no other process has, and adds the others to ``taken``."""
    free = []
    for job in jobs:
        if not job.taken():
            free.append(job)
        elif job not in taken:
            taken.add(job)
            console.info(f"{job.name}: waiting for another process that makes this run")
    return free


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    places = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_PLACE))))
    try:
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with _log(job).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *TRAIN, *job.arguments(threads)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is passed on once, by run()
                env={**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": str(threads)},
            )
    except OSError as problem:
        raise UserError(f"Cannot start run '{job.folder}': {problem}.") from problem


def _unfinished(job: Job, returncode: int) -> str:
    """Returns why a run whose process has ended is neither finished nor failed; else ''."""
    again = "run the same command again to continue it"
    if returncode < 0:
        return f"killed by signal {-returncode}; {again}"
    if returncode > _SIGNALLED:
        return f"stopped by signal {returncode - _SIGNALLED}; {again}"
    if returncode == 0 and not job.finished():
        steps, _ = job.progress()
        return (
            f"its metrics.jsonl ends at {steps:.0f} of {job.steps} steps; remove '{job.folder}' "
            "to make it again"
        )
    return ""


def _last_words(job: Job) -> str:
    """Returns the last line of a run's output."""
    lines = _log(job).read_text(errors="replace").splitlines() or ["no message"]
    return lines[-1].removeprefix("error: ")


def _log(job: Job) -> Path:
    return job.folder.with_name(f"{job.name}.log")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
