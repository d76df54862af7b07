"""Reads runs: folders that train.py made, a metrics.jsonl by itself, or curves in a csv file."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from madpo_isaac.config import renamed
from madpo_isaac.errors import UserError
from madpo_isaac.report.cache import read_columns
from madpo_isaac.report.lines import is_number
from madpo_isaac.system.files import flat, read_json

EPISODE = "videos/episode.html"
"""The page that ``madpo play <run> --html`` writes by default, in the run folder."""
SHORT = {"algo": "algo.name", "task": "task.name", "sim": "sim.name"}
"""Names of some settings on the command line."""
_NEEDED = ("env_steps", "episode_return")
_LONGEST_NAME = 255
_SHOWN = 80
"""Letters of a file's first line in a message."""
_SEED = re.compile(r"(?P<label>.+?)_s(?P<seed>\d{1,19})(_\d{8}-\d{6}(-\d+)?)?")


@dataclass(frozen=True, eq=False)
class Run:
    """One training run."""

    name: str
    settings: Mapping[str, Any]
    """Configuration with dotted keys. For a file without one: task, algorithm and seed, if the name
    of the file has them. ``run`` is the name without seed and date."""
    metrics: Mapping[str, np.ndarray]
    """Columns of metrics.jsonl that reports show, (iterations,) each; NaN where there is no
    number."""
    folder: Path | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.settings["task.name"])

    @property
    def steps(self) -> float:
        """Environment steps so far."""
        return float(self.metrics["env_steps"][-1])

    @property
    def state(self) -> str:
        """``state`` of status.json; empty where there is none."""
        return str(self._record("status.json").get("state", ""))

    @property
    def peak_mb(self) -> float:
        """Peak of main memory, or of the GPU's if it was used, in MB; NaN where unknown."""
        status = self._record("status.json")
        found = status.get("peak_gpu_memory_mb", status.get("peak_memory_mb"))
        return float(found) if is_number(found) else float("nan")

    @property
    def revision(self) -> str:
        """The source revision of env.json; empty where there is none."""
        return str(self._record("env.json").get("git_revision") or "")

    def _record(self, name: str) -> dict[str, Any]:
        return {} if self.folder is None else read_json(self.folder / name)

    def overrides(self) -> list[str]:
        """The settings of the command line that began the run; empty where unknown."""
        try:
            text = "" if self.folder is None else (self.folder / "overrides.txt").read_text()
        except (OSError, ValueError):
            return []
        return list(filter(None, text.splitlines()))

    def score_of_means(self, steps: float) -> float:
        """Returns the last return with mean actions after ``steps``; NaN where there is none.

        It comes from the last evaluation in training until then. If there was none and the run
        ends there, it comes from ``madpo eval --deterministic`` for ``last.pth``, unless the run
        has gone on since, or other settings of the task or the simulation were given there.
        """
        trained = self.latest("eval/return", np.array([steps]))[0]
        if np.isfinite(trained) or self.folder is None or self.steps > steps:
            return float(trained)
        found = self._record("eval/last_mean_summary.json")
        if found.get("env_steps", self.steps) != self.steps or found.get("settings"):
            return float("nan")
        scores = found.get("return")
        mean = scores.get("mean") if isinstance(scores, dict) else None
        return float(mean) if is_number(mean) else float("nan")

    def video(self) -> Path | None:
        """The newest video of the run."""
        found = [] if self.folder is None else self.folder.glob("videos/**/*.mp4")
        return max(
            filter(Path.is_file, found),
            key=lambda path: (path.stat().st_mtime, path.name),
            default=None,
        )

    def link(self, name: str) -> Path | None:
        """A file of the run folder; None if it is not there."""
        path = None if self.folder is None else self.folder / name
        return path if path is not None and path.is_file() else None

    def means(self, key: str, stops: np.ndarray, window: float) -> np.ndarray:
        """Returns the means of ``key`` over the episodes finished in (stop - window, stop].

        A stop without a finished episode gives NaN. A metric that does not belong to episodes,
        such as ``agent0/kl``, is averaged over iterations.
        """
        values = self.metrics.get(key)
        if values is None:
            return np.full(len(stops), np.nan)
        of_episodes = key in ("episode_return", "episode_length", "success_rate")
        weights = np.isfinite(values) * (self.metrics["episodes"] if of_episodes else 1.0)
        ends = [
            np.searchsorted(self.metrics["env_steps"], x, "right") for x in (stops - window, stops)
        ]
        # Each window is added up by itself: in a difference of two running sums, a huge value
        # before both would swallow all others.
        both = np.stack([weights, weights * np.nan_to_num(values)], 1)
        sums = [both[begin:end].sum(0) for begin, end in zip(*ends, strict=True)]
        count, total = np.reshape(sums, (-1, 2)).T
        return np.divide(total, count, out=np.full(len(stops), np.nan), where=count > 0)

    def latest(self, key: str, stops: np.ndarray) -> np.ndarray:
        """Returns the newest known value of ``key`` at each stop; NaN before the first one."""
        values = self.metrics.get(key, np.zeros(0))
        known = np.flatnonzero(np.isfinite(values))
        newest = np.searchsorted(self.metrics["env_steps"][known], stops, "right")
        return np.append(np.nan, values[known])[newest]

    def mean(self, key: str, stop: float, window: float) -> float:
        """:meth:`means` for one stop."""
        return float(self.means(key, np.array([stop]), window)[0])

    def until(self, steps: float, key: str = "wall_s") -> float:
        """Returns a counter's value when ``steps`` were reached; NaN if either is missing."""
        reached = np.flatnonzero(self.metrics["env_steps"] >= steps)
        column = self.metrics.get(key)
        return float(column[reached[0]]) if column is not None and len(reached) else float("nan")

    def pace(self, steps: float) -> float:
        """Returns the environment steps per second until ``steps``; NaN where unknown.

        A run from another one's checkpoint goes on with its counters, and the other one may have
        run on another machine. Then the first line and what was before it are left out.
        """
        taken, seconds = self.until(steps, "env_steps"), self.until(steps)
        if self.settings.get("checkpoint"):
            first = self.metrics["env_steps"][0]
            taken, seconds = taken - first, seconds - self.until(first)
        return taken / seconds if seconds > 0.0 else float("nan")


Tell = Callable[[str], None]
"""A function that gets a text about the progress of the work."""


def load(arguments: Sequence[str], tell: Tell = lambda text: None) -> list[Run]:
    """Reads the runs that a command line names, each once.

    Args:
        arguments: run folders, folders of run folders, ``*.jsonl`` or ``*.csv`` files (columns run,
            env_steps, episode_return and optionally success_rate). ``<task>=<path>`` names the
            task of a file; without it the task is the csv's name or the folder of the jsonl.
        tell: called with the number of runs that have been read.

    Raises:
        UserError: there is no such path, or it contains no runs.
    """
    runs: dict[tuple[Path, str, str], Run] = {}
    for argument in arguments:
        task, path = named(argument)
        for run in _read(path, task, tell):
            where = path if run.folder is None else run.folder
            runs[where.resolve(), run.task, run.name] = run
    return list(runs.values())


def distinct(runs: Sequence[Run]) -> list[str]:
    """Returns the runs' names, and their paths where several have one name."""
    times = Counter(run.name for run in runs)
    return [
        run.name if times[run.name] == 1 or run.folder is None else str(run.folder) for run in runs
    ]


def named(argument: str) -> tuple[str, Path]:
    """Returns the task, empty if there is none, and the path of ``<task>=<path>`` or ``<path>``."""
    task, found, name = argument.partition("=")
    path = Path(os.path.expanduser(argument))
    if found and not os.path.exists(path):
        return task, Path(os.path.expanduser(name))
    return "", path


def _read(path: Path, task: str, tell: Tell) -> Iterable[Run]:
    if not os.path.exists(path):  # which takes names that are too long, too
        raise UserError(f"There is no run '{path}'.")
    if path.is_dir():
        return _of_folder(path, tell)
    if path.suffix == ".csv":
        return _of_csv(path, task or path.stem)
    if path.suffix == ".jsonl":
        folder = path.resolve().parent
        if path.name == "metrics.jsonl" and (folder / "config.yaml").is_file():
            return [_whole(_of_run_folder(folder), path)]
        run = Run(path.stem, _guess(path.stem, task or folder.name), _metrics(path))
        return [_whole(run, path)]
    raise UserError(f"'{path}' is neither a run folder nor a .jsonl or .csv file.")


def _of_folder(path: Path, tell: Tell) -> list[Run]:
    if (path / "metrics.jsonl").is_file():
        return [_whole(_of_run_folder(path), path / "metrics.jsonl")]
    inside = sorted(found.parent for found in path.glob("*/metrics.jsonl"))
    if not inside:
        raise UserError(f"'{path}' has no metrics.jsonl, nor has a folder in it.")
    runs = []
    for k, folder in enumerate(inside):
        tell(f"reading run {k + 1} of {len(inside)}: {folder.name}")
        runs.append(_of_run_folder(folder))
    # A run that was just begun has none yet; named by itself, it is refused.
    return [run for run in runs if run.metrics]


def _whole(run: Run, path: Path) -> Run:
    """Returns a run that has lines; raises UserError for another."""
    if not run.metrics:
        raise UserError(f"'{path}' holds no metrics.")
    return run


def _of_run_folder(path: Path) -> Run:
    name = path.resolve().name.encode(errors="replace").decode()  # bytes that are no text
    settings = _guess(name, path.resolve().parent.name)
    config = path / "config.yaml"
    if config.is_file():
        try:
            loaded = yaml.safe_load(config.read_text())
            found = flat(loaded) if isinstance(loaded, dict) else None
        except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError):
            found = None  # YAML makes dates and keys of text, which may fail in other ways
        if found is None:
            raise UserError(f"'{config}' holds no configuration.")
        settings |= renamed.translated_flat(found)
    return Run(name, settings, _metrics(path / "metrics.jsonl"), path)


def _guess(name: str, task: str) -> dict[str, Any]:
    """Reads label and seed from the name ``<label>_s<seed>[_<date>]``."""
    found = _SEED.fullmatch(name)
    label = found["label"] if found else name
    seed = {"seed": int(found["seed"])} if found else {}
    return {"task.name": task, "algo.name": label, "run": label, **seed}


def _metrics(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of a metrics.jsonl; empty if it has no whole line."""
    columns = read_columns(path)
    if not columns:
        return {}
    missing = [key for key in _NEEDED if key not in columns]
    if missing:
        raise UserError(f"'{path}' holds no {missing[0]}.")
    _check_steps(columns["env_steps"], f"'{path}'")
    columns.setdefault("episodes", np.isfinite(columns["episode_return"]).astype(float))
    return columns


def _check_steps(steps: np.ndarray, where: str) -> None:
    """Raises UserError unless the environment steps (iterations,) increase from 0 or more."""
    if steps.min() < 0.0 or steps[-1] == 0.0:
        worst = float(min(steps.min(), steps[-1]))
        raise UserError(f"{where}: env_steps={worst:g} must be greater than 0.")
    falls = np.flatnonzero(np.diff(steps) < 0.0)
    if len(falls):
        before, after = steps[falls[0]], steps[falls[0] + 1]
        raise UserError(f"{where}: env_steps must not fall, as from {before:g} to {after:g}.")


def _of_csv(path: Path, task: str) -> list[Run]:
    columns: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            for name, numbers in _rows(path, file):
                for key, value in numbers.items():
                    columns[name][key].append(value)
    except OSError as problem:
        raise UserError(f"Cannot read '{path}': {problem.strerror}.") from problem
    except csv.Error as problem:  # a field too long, or a zero byte
        raise UserError(f"'{path}' cannot be read: {problem}.") from None
    if not columns:
        raise UserError(f"'{path}' holds no runs.")
    for name, table in columns.items():
        _check_steps(np.array(table["env_steps"]), f"Run '{name}' in '{path}'")
    return [
        Run(
            name,
            _guess(name, task),
            {key: np.array(values) for key, values in table.items()}
            | {"episodes": np.ones(len(table["env_steps"]))},
        )
        for name, table in columns.items()
    ]


def _rows(path: Path, file: Iterable[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """Names of runs and the numbers of each row of a csv file."""
    rows = csv.DictReader(line for line in file if not line.startswith("#"))
    columns = [name.strip() for name in rows.fieldnames or ()]
    for key in ("run", *_NEEDED):
        if key not in columns:
            found = (
                f"its first line is '{','.join(columns)[:_SHOWN]}'" if columns else "it is empty"
            )
            raise UserError(f"'{path}' has no column {key}: {found}.")
    rows.fieldnames = columns
    for row in rows:
        where, name = f"Line {rows.line_num} of '{path}'", " ".join((row["run"] or "").split())
        if None in row:
            raise UserError(f"{where} has more than {len(columns)} fields.")
        if not name:
            raise UserError(f"{where} names no run.")
        if len(name) > _LONGEST_NAME:
            raise UserError(f"{where}: the name of the run has more than {_LONGEST_NAME} letters.")
        try:
            numbers = {key: float(row[key]) for key in _NEEDED}
            numbers["success_rate"] = float(row.get("success_rate") or "nan")
        except (TypeError, ValueError):
            raise UserError(f"{where} cannot be read.") from None
        if not is_number(numbers["env_steps"]):
            raise UserError(f"{where}: env_steps={row['env_steps']} must be a finite number.")
        yield name, {key: x if is_number(x) else np.nan for key, x in numbers.items()}
