"""Plan of the runs of a figure at a scale, and the state of each run so far."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from madpo_isaac.algos.madpo import MadpoConfig
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.resume import WHERE, read_file
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError
from madpo_isaac.reproduce.arms import Arms
from madpo_isaac.reproduce.cost import ONE_SECOND, Cost, expected
from madpo_isaac.reproduce.paper import SUITES, Figure, Scale, suite
from madpo_isaac.settings import as_path
from madpo_isaac.system.files import flat, last_json
from madpo_isaac.system.lock import Lock
from madpo_isaac.tasks import TASKS

_GIVEN = (
    *("task", "algo", "seed", "max_iterations", "experiment", "runs_dir"),
    *("checkpoint", "resume", "test"),
)
"""Keys that every job has of its own."""
_BY_OPTION = {"recipe": "--recipe", "algo.divergence.preset": "--method"}
"""Keys that an option of the command decides."""
_MANY = 1e12
"""Limit of counts and of seconds; a larger number is not one."""
_OF_A_PROCESS = ("experiment", "runs_dir", "resume", "num_threads")


@dataclass(frozen=True)
class Job:
    """One run of the plan."""

    folder: Path
    task: str
    settings: tuple[str, ...]
    steps: int
    """Environment steps of the finished run."""
    arm: str = ""
    """Name of its arm in the figure."""
    cost: Cost = ONE_SECOND
    """Expected time and disk space."""
    config: Config | None = field(default=None, repr=False, compare=False)
    """Configuration of its settings but for seed and length."""

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.folder.name

    def arguments(self, threads: int) -> list[str]:
        """Returns the command line of train.py that starts or continues the run.

        ``threads`` is the number of its threads, unless its settings have one.
        """
        runs = f"runs_dir={as_path(self.folder.parent)}"
        where = (f"experiment={self.name}", runs, "resume=auto")
        return [f"num_threads={threads}", *self.settings, *where]

    def progress(self) -> tuple[float, float]:
        """Returns the environment steps and seconds so far."""
        line = last_json(self.folder / "metrics.jsonl")
        counts = (line.get(key) for key in ("env_steps", "wall_s"))
        steps, seconds = (
            float(x) if isinstance(x, (int, float)) and 0.0 <= x < _MANY else 0.0 for x in counts
        )
        return steps, seconds

    def taken(self) -> bool:
        """Returns whether another process has the run, for example after its parent was killed."""
        lock = Lock(self.folder / "lock")
        taken = lock.path.is_file() and not lock.acquire()
        lock.release()
        return taken

    def finished(self) -> bool:
        """Returns whether the run is complete.

        Raises:
            UserError: the folder holds a run with other settings.
        """
        if other := self._others():
            raise UserError(
                f"'{self.folder}' was run with other settings ({min(other)}): choose another "
                "--runs folder, or remove it."
            )
        state = last_json(self.folder / "status.json").get("state")
        return state == "finished" and self.progress()[0] >= self.steps

    def _others(self) -> set[str]:
        """Returns the settings of the run in the folder, if any, that are not those of the job."""
        record, lines = self.folder / "config.yaml", self.folder / "overrides.txt"
        if self.config is not None and record.is_file():
            return _differing(record, self.config, self.settings)
        if not lines.is_file():
            return set()
        try:
            return _lasting(lines.read_text().splitlines()) ^ _lasting(self.settings)
        except (OSError, ValueError) as problem:
            raise UserError(f"'{lines}' cannot be read: {problem}.") from problem


def choose_tasks(figure: Figure, scale: Scale) -> tuple[list[str], list[str]]:
    """Returns the tasks to run at a scale, and the figure's tasks that the registry lacks.

    Raises:
        UserError: it has none of them.
    """
    wanted = [task for task in figure.tasks if task in (scale.only or figure.tasks)]
    there = [task for task in wanted if task in TASKS]
    missing = [task for task in wanted if task not in TASKS]
    if not there:
        raise UserError(f"None of its tasks is there: {', '.join(missing)}.")
    suites = [[task for task in there if task in tasks] for tasks in SUITES.values()]
    by_turns = [t for turn in itertools.zip_longest(*suites) for t in turn if t is not None]
    return by_turns if scale.only else by_turns[: scale.tasks], missing


def plan(
    figure: Figure,
    scale: Scale,
    runs: Path,
    settings: Sequence[str] = (),
    method: str = "gaussian",
    recipe: str = "paper",
) -> list[Job]:
    """Returns the runs of a figure, with those of the first seed first.

    Args:
        figure: the figure to reproduce.
        scale: the extent.
        runs: folder of the run folders; figures share the runs in it.
        settings: further settings of every run.
        method: the way to compute MADPO's bonus, one of ``arms.METHODS``.
        recipe: the recipe of every run.

    Raises:
        UserError: a setting is wrong, or the figure or an option decides it.
    """
    arms = figure.arms(method)
    _check_settings(settings, figure, scale, arms)
    chosen, _ = choose_tasks(figure, scale)
    jobs = []
    for task, (name, arm) in itertools.product(chosen, arms.items()):
        own = (f"recipe={recipe}", f"task={task}", *figure.settings.get(task, ()), *arm.settings)
        own, config = _composed((*own, "save_frequency=0", *scale.settings, *settings), scale.rows)
        batch = config.num_envs * config.algo.horizon
        iterations = math.ceil(scale.steps[suite(task)] / batch)
        cost = expected(config, iterations)
        for seed in scale.seeds:
            every = (*own, f"seed={seed}", f"max_iterations={iterations}")
            folder = runs / f"{task}_{name}_s{seed}"
            jobs.append((seed, Job(folder, task, every, iterations * batch, name, cost, config)))
    return [job for _, job in sorted(jobs, key=lambda pair: pair[0])]


@functools.cache
def _composed(settings: tuple[str, ...], rows: int | None) -> tuple[tuple[str, ...], Config]:
    """Returns settings and their configuration, with at most ``rows`` rows of kernel estimators."""
    config = compose(settings)
    algo = config.algo
    if not isinstance(algo, MadpoConfig) or algo.divergence.preset == "gaussian" or rows is None:
        return settings, config
    if algo.divergence.rows is None:
        minibatch = config.num_envs * algo.horizon // algo.num_minibatches
        algo.divergence.rows = min(rows, minibatch)
        settings = (*settings, f"algo.divergence.rows={algo.divergence.rows}")
    return settings, config


def _check_settings(settings: Sequence[str], figure: Figure, scale: Scale, arms: Arms) -> None:
    """Refuses settings that would be ignored, that would make arms alike, or undo the figure."""
    own = [*(arm.settings for arm in arms.values()), *figure.settings.values()]
    own += [] if figure.is_of_paper else [scale.settings]  # a part of the study's protocol
    taken = {text.partition("=")[0] for text in itertools.chain(*own)}
    taken -= {"algo"}  # the choice of the algorithm, not a key below it
    for text in settings:
        key = text.partition("=")[0].lstrip("+")
        if key in _BY_OPTION:
            raise UserError(f"'{text}': choose with {_BY_OPTION[key]}.")
        if key in _GIVEN:
            raise UserError(f"'{text}': {key} follows from the figure and --scale, see --list.")
        for given in taken:
            if f"{key}.".startswith(f"{given}.") or f"{given}.".startswith(f"{key}."):
                raise UserError(f"'{text}': the figure sets {given}, see --list.")


def _lasting(settings: Sequence[str]) -> set[str]:
    """Returns the settings that a run keeps, wherever and however often it is continued."""
    return {text for text in settings if text.partition("=")[0] not in _OF_A_PROCESS}


def _differing(record: Path, config: Config, settings: Sequence[str]) -> set[str]:
    """Returns the settings in a run's ``config.yaml`` that are not those of a job.

    Where a setting is younger than the run, the run has the setting's own default.

    Args:
        record: the file.
        config: configuration of the job but for seed and length.
        settings: the job's settings, with seed and length.

    Raises:
        UserError: the file is damaged.
    """
    recorded = OmegaConf.to_container(read_file(record))
    assert isinstance(recorded, dict)
    had = flat({str(key): value for key, value in recorded.items()})
    given = dict(text.split("=", 1) for text in settings)
    own = {key: int(given[key]) for key in ("seed", "max_iterations")}
    wanted = flat(dataclasses.asdict(config)) | own
    kept = wanted.keys() - {*_OF_A_PROCESS, *WHERE}
    return {f"{key}={had.get(key)}" for key in kept if had.get(key) != wanted[key]}
