"""The folder of one run: its files and their places; existing files are never overwritten."""

from __future__ import annotations

import contextlib
import datetime
import functools
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import OmegaConf

from madpo_isaac import console, pretrained
from madpo_isaac.errors import RunFailed, UserError
from madpo_isaac.runs import checkpoint as checkpoints
from madpo_isaac.runs.metrics import drop_events_after
from madpo_isaac.settings import as_path
from madpo_isaac.system.byproduct import ByProduct
from madpo_isaac.system.files import (
    is_temporary,
    parse_json,
    read_json,
    remove_temporary,
    write_atomic,
    writing,
)
from madpo_isaac.system.lock import Lock, is_alive

if TYPE_CHECKING:
    from madpo_isaac.config.schema import Config

_PACKAGES = (
    "torch",
    "mujoco",
    "mjbatch",
    "numpy",
    "hydra-core",
    "gymnasium-robotics",
    "rl-games",
)


class RunFolder:
    """Paths inside ``runs/<experiment>/``, and the lock, which one process at a time can hold."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nn = path / "nn"
        self.summaries = path / "summaries"
        self.metrics = path / "metrics.jsonl"
        self.status = path / "status.json"
        self._lock = Lock(path / "lock")
        self._marking = ByProduct(f"'{self.status}'")

    @classmethod
    def create(cls, config: Config, overrides: list[str]) -> RunFolder:
        """Makes a new folder, locks it and records configuration and machine.

        Raises:
            UserError: the folder is used, or cannot be written.
        """
        runs = Path(config.runs_dir)
        path = runs / config.experiment
        if not config.experiment:
            with writing(runs, "run folder "):
                path = _make_default(runs, config)
        with writing(path, "run folder "):
            refuse_used(path)
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path)
            folder.acquire()
            refuse_used(path)  # by another process, before the lock was ours
            # A folder with this file is a run, so it comes first and is never half there.
            origin = os.path.abspath(config.checkpoint) if config.checkpoint else ""
            text = as_yaml(replace(config, checkpoint=origin))
            write_atomic(path / "config.yaml", text.encode())
            folder.complete(overrides)
        return folder

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """Returns the run folder a checkpoint lies in, or None if it lies elsewhere.

        The file of a policy belongs to no run, wherever it lies.
        """
        return None if checkpoint.suffix == pretrained.SUFFIX else cls._around(checkpoint, "nn")

    @classmethod
    def of_dump(cls, dump: Path) -> RunFolder | None:
        """Returns the run folder a dump lies in, or None if it lies elsewhere."""
        return cls._around(dump, "dumps")

    @classmethod
    def _around(cls, file: Path, place: str) -> RunFolder | None:
        # realpath takes loops of links, too; the folder itself may be a link to another disk.
        for folder in (Path(os.path.realpath(file)).parent, Path(os.path.abspath(file)).parent):
            if folder.name == place and (folder.parent / "config.yaml").is_file():
                return cls(Path(os.path.realpath(folder.parent)))
        return None

    def complete(self, overrides: list[str]) -> None:
        """Makes the folders and records that are not there yet; a kill may have come between."""
        for directory in (self.nn, self.summaries):
            directory.mkdir(exist_ok=True)
        records = {
            "overrides.txt": "".join(f"{line}\n" for line in overrides),
            "env.json": json.dumps(machine(), indent=2) + "\n",
        }
        for name, text in records.items():
            if not (self.path / name).exists():
                write_atomic(self.path / name, text.encode())

    def acquire(self) -> None:
        """Locks the folder until :meth:`release`, or until this process ends.

        Raises:
            UserError: another process trains in it, or it cannot be written.
        """
        status = self._status() if not self._lock.path.exists() else {}
        with writing(self.path, "run folder "):
            free = self._lock.acquire()
            if not free:  # who only looks whether it is taken holds it for some microseconds
                time.sleep(0.05)
                free = self._lock.acquire()
        if free and _is_alive(status):  # somebody has removed the lock of a run that goes on
            self.release()
            with contextlib.suppress(OSError):
                self._lock.path.unlink()
            free = False
        if not free:
            status = self._status()
            owner = f" (process {status['pid']} on {status['host']})" if status else ""
            raise UserError(f"Run folder '{self.path}' is in use by another process{owner}.")

    def refuse_finished(self) -> None:
        """Raises UserError if the run is finished: without a checkpoint it would start again."""
        finished = read_json(self.status).get("state") == "finished"
        if finished and not (self.nn / "last.pth").exists():
            raise UserError(
                f"The run in '{self.path}' is finished and has no checkpoint to go on from. Choose "
                "another experiment=<name>."
            )

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        self._lock.release()

    def reopen(
        self,
        config: Config,
        overrides: list[str],
        checkpoint: Path | None,
        iteration: int,
        env_steps: int,
        steps: int,
    ) -> None:
        """Prepares the folder to be continued from ``iteration``, 0 for the very beginning.

        Until then there were ``env_steps`` of all environments, and ``steps`` of each. It records
        the configuration, which may have changed, and removes newer entries. Where the checkpoint
        is older than last.pth, it takes its place, and ``dropped/`` keeps what is newer.

        Raises:
            UserError: the folder cannot be written, or has checkpoints, but not this one.
        """
        home = None if checkpoint is None else RunFolder.of_checkpoint(checkpoint)
        inside = home is not None and home.path == self.path.resolve()
        last = self.nn / "last.pth"
        if not inside and last.exists():
            raise UserError(
                f"'{self.path}' was started by another process meanwhile: run the command again."
            )
        with writing(self.path, "run folder "):
            self.complete(overrides)
            for folder in (self.path, self.nn, self.path / "dumps", self.path / "eval"):
                remove_temporary(folder)
            self._record_again(config)
            if inside and checkpoint is not None and checkpoint.resolve() != last.resolve():
                self._go_back_to(checkpoint, iteration, steps)
            recorded = self.drop_metrics_after(iteration)
            if inside and recorded < iteration:
                console.warning(
                    f"'{self.metrics}' ends at iteration {recorded}, and the run goes on from "
                    f"{iteration}: what lies between is not on record."
                )
            self._set_aside_after(iteration)
            drop_events_after(self.summaries, env_steps)

    def _record_again(self, config: Config) -> None:
        path = self.path / "config.yaml"
        # Where the run itself began stays on record, not where it goes on now.
        origin = OmegaConf.select(OmegaConf.load(path), "checkpoint") or ""
        text = as_yaml(replace(config, checkpoint=origin)).encode()
        if path.read_bytes() != text:
            write_atomic(path, text)

    def _go_back_to(self, checkpoint: Path, iteration: int, steps: int) -> None:
        """Makes an older checkpoint the last one; ``dropped/`` keeps what is newer, and scores.

        The metrics are cut only afterwards: after a kill in between nothing is missing. best.pth
        stays until a policy beats the best score that the older checkpoint knows. Nothing changes
        if last.pth is not newer.
        """
        last = self.nn / "last.pth"
        if _iteration_of(last) <= iteration:
            return
        place = self._dropped()
        scores = self.path / "eval" / "training.json"
        for path in (self.metrics, scores, last, self.nn / "best.pth"):
            if path.exists():
                shutil.copy2(path, place / path.name)
        self._set_aside_after(iteration, place)
        for clip in self.path.glob("videos/step_*.mp4"):
            begins = clip.stem.removeprefix("step_")
            if begins.isdecimal() and int(begins) >= steps:
                clip.rename(place / clip.name)
        write_atomic(last, checkpoint.read_bytes())

    def drop_metrics_after(self, iteration: int) -> int:
        """Forgets metric lines newer than a checkpoint that training continues from.

        Returns:
            The iteration of the last line that stays, 0 if there is none.
        """
        if not self.metrics.exists():
            return 0
        lines = self.metrics.read_text(errors="replace").splitlines()
        kept = [f"{line}\n" for line in lines if _iteration(line) <= iteration]
        if lines and not kept:  # nothing computes them again: the checkpoints are gone
            shutil.copy2(self.metrics, self._dropped() / self.metrics.name)
        write_atomic(self.metrics, "".join(kept).encode())
        return int(_iteration(kept[-1])) if kept else 0

    def _set_aside_after(self, iteration: int, place: Path | None = None) -> None:
        """Moves numbered files of a branch that is given up to ``place`` or a new folder."""
        numbered = (*self.nn.glob("ep_*.pth"), *self.path.glob("dumps/iteration_*.pth"))
        later = [
            path
            for path in numbered
            if (found := re.match(r"[a-z]+_(\d+)", path.name)) and int(found[1]) > iteration
        ]
        if not later:
            return
        place = place or self._dropped()
        for path in later:
            path.rename(place / path.name)

    def _dropped(self) -> Path:
        """Makes and returns a new folder for files of a branch that is given up."""
        names = (self.path / "dropped" / f"{k}" for k in itertools.count(1))
        place = next(path for path in names if not path.exists())
        place.mkdir(parents=True)
        return place

    def check_lock(self) -> None:
        """Raises RunFailed if the lock is no longer this process's: two must not write here."""
        if self._lock.lost():
            raise RunFailed(
                f"The lock of run folder '{self.path}' was removed, or the folder was moved: "
                "another process may train in it."
            )

    def mark(self, state: str, **facts: Any) -> None:
        """Writes status.json: ``state``, where and when, and ``facts``.

        A run that was killed stays ``running``, but its lock is free. A folder that was moved is
        marked where it is now, one whose lock another process may hold is not.
        """
        self._marking.attempt(lambda: self._mark(state, facts), silent=state == "failed")

    def _mark(self, state: str, facts: dict[str, Any]) -> None:
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        where = {"pid": os.getpid(), "host": platform.node(), "time": now}
        text = json.dumps({"state": state, **facts, **where}, indent=2) + "\n"
        if (folder := self._lock.folder()) is not None:
            write_atomic(folder / self.status.name, text.encode())

    def _status(self) -> dict[str, Any]:
        """Content of status.json, if it names a process; packed runs name none."""
        facts = read_json(self.status)
        return facts if {"pid", "host"} <= facts.keys() else {}


def _is_alive(status: dict[str, Any]) -> bool:
    """Returns whether the process of a status.json still trains, if this machine can tell."""
    pid, here = status.get("pid"), status.get("host") == platform.node()
    if status.get("state") != "running" or not here or type(pid) is not int or pid == os.getpid():
        return False
    return is_alive(pid)


def output_folder(checkpoint: Path, runs_dir: Path, name: str) -> Path:
    """Returns the folder for output about a checkpoint: its run folder, or ``runs_dir``."""
    folder = RunFolder.of_checkpoint(checkpoint)
    return (runs_dir if folder is None else folder.path) / name


def continuing(path: Path) -> str:
    """Returns the argument of train.py that continues the run in ``path``, as a shell takes it."""
    return f"checkpoint={shlex.quote(as_path(path))}"


def refuse_used(path: Path) -> None:
    """Raises UserError if ``path`` holds more than the files of a start that was killed."""
    if path.is_dir():
        entries = {entry.name for entry in path.iterdir()}
        if all(name == "lock" or is_temporary(name) for name in entries):
            return
    elif not path.exists():
        return
    raise UserError(
        f"'{path}' already holds a run. Choose another experiment=<name>, or continue it with "
        f"{continuing(path)}."
    )


def _make_default(runs: Path, config: Config) -> Path:
    """Makes ``<Task>_<algo>_s<seed>_<date>``, numbered if another run took that name just now."""
    now = datetime.datetime.now().astimezone()
    name = f"{config.task.name}_{config.algo.name}_s{config.seed}_{now:%Y%m%d-%H%M%S}"
    runs.mkdir(parents=True, exist_ok=True)
    for path in (runs / name, *(runs / f"{name}-{k}" for k in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise UserError(f"'{runs / name}' and the names after it are taken: give experiment=<name>.")


def _iteration_of(path: Path) -> float:
    """Returns the iteration of a checkpoint: -inf if there is none, inf if it is damaged."""
    if not path.exists():
        return -float("inf")
    try:
        return checkpoints.load(path)["iteration"]
    except UserError:
        return float("inf")


def _iteration(line: str) -> float:
    try:
        found = float(parse_json(line)["iteration"])
    except (ValueError, LookupError, TypeError, OverflowError):
        found = float("nan")  # half a line, left by a crash
    return found if math.isfinite(found) else float("inf")


def as_yaml(config: Config) -> str:
    """Returns the resolved configuration as YAML."""
    # OmegaConf takes three times as long for a dataclass as for a dictionary.
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config)), resolve=True)


def machine() -> dict[str, Any]:
    """Returns versions, devices and the source revision."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": _cpu(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_revision": _git_revision(),
    }


@functools.cache
def _cpu() -> str:
    """The name of the processor, or of its architecture where that is all that is known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


@functools.cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
