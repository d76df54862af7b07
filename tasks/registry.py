"""Tasks by name, and the function that builds them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch

from madpo_isaac import plugins
from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.settings import MAX_INTEGER, check_fields, check_types
from madpo_isaac.sim import BRIDGES, SIM_SCHEMAS
from madpo_isaac.tasks.contract import check_agents
from madpo_isaac.tasks.mujoco.partitions import ALIASES, SCENARIOS
from madpo_isaac.tasks.settings import check_settings, integer, plain

MAX_ENVS = 10**7
MAX_THREADS = 1024
_ARGUMENTS = ("task", "num_envs", "device", "sim", "seed", "num_threads", "sim_settings")
_ENTRIES = ("name", "train")
"""Arguments of :func:`make` and entries of a task's YAML file, which no setting can be called."""

Kind = TypeVar("Kind", bound=type[VecEnv])


class Task(NamedTuple):
    """Definition of a task."""

    Config: type
    """The dataclass of its settings, each with a default."""
    Env: Callable[..., VecEnv]
    """Its environments: called with an object of ``Config``, their number, and ``device``,
    ``sim``, ``seed`` and ``num_threads`` as :func:`make` has them."""


TASKS: dict[str, str | Task] = {
    "ShadowHandOver": "madpo_isaac.tasks.hands.over",
    "ShadowHandCatchUnderarm": "madpo_isaac.tasks.hands.catch",
    "ShadowHandCatchOver2Underarm": "madpo_isaac.tasks.hands.catch",
    "ShadowHandCatchAbreast": "madpo_isaac.tasks.hands.catch",
    "ShadowHandDoorOpenInward": "madpo_isaac.tasks.hands.doors",
    "ShadowHandDoorOpenOutward": "madpo_isaac.tasks.hands.doors",
    "ShadowHandDoorCloseInward": "madpo_isaac.tasks.hands.doors",
    "ShadowHandDoorCloseOutward": "madpo_isaac.tasks.hands.doors",
    "ShadowHandPen": "madpo_isaac.tasks.hands.pen",
    "ShadowHandBlockStack": "madpo_isaac.tasks.hands.stack",
    "ShadowHandTwoCatchUnderarm": "madpo_isaac.tasks.hands.two_catch",
    "ShadowHandPushBlock": "madpo_isaac.tasks.hands.push",
    "ShadowHandReOrientation": "madpo_isaac.tasks.hands.reorient",
    "ShadowHandLiftUnderarm": "madpo_isaac.tasks.hands.lift_underarm",
    "ShadowHandSwitch": "madpo_isaac.tasks.hands.switch",
    **dict.fromkeys(SCENARIOS, "madpo_isaac.tasks.mujoco.task"),
}
"""Tasks by name. A value is a :class:`Task`, or the name of a module. The module has ``Config`` and
``Env``, or if it has several tasks, pairs of them by name in ``TASKS``."""


def register_task(name: str, settings: type) -> Callable[[Kind], Kind]:
    """Returns a decorator that makes a class a task: ``task=<name>`` trains on it.

    Args:
        name: name on the command line; ``cfg/task/<name>.yaml`` has the defaults.
        settings: the dataclass of its settings.

    Raises:
        UserError: another task has this name, or ``settings`` is no dataclass whose fields have
            defaults and names of their own.
    """

    def add(kind: Kind) -> Kind:
        known = TASKS.get(name)
        owner = None if known is None else ""  # a task of this package
        if isinstance(known, Task):
            owner = known.Config.__module__
        plugins.refuse_taken("a task", name, owner, settings.__module__)
        _check_fields(name, settings)
        TASKS[name] = Task(settings, kind)
        return kind

    return add


def _check_fields(name: str, settings: type) -> None:
    """Raises UserError unless settings have defaults, and names that mean nothing else."""
    if not is_dataclass(settings):
        raise UserError(f"The settings of task '{name}', {settings!r}, must be a dataclass.")
    for field in fields(settings):
        if field.name in (*_ARGUMENTS, *_ENTRIES):
            raise UserError(
                f"Setting '{field.name}' of task '{name}' needs another name: "
                f"{', '.join((*_ARGUMENTS, *_ENTRIES))} have a meaning already."
            )
        if field.default is MISSING and field.default_factory is MISSING:
            raise UserError(f"Setting '{field.name}' of task '{name}' has no default.")


def canonical(task: str) -> str:
    """Returns this project's name of a task, also for the papers' names (HalfCheetah-v2-2x3)."""
    return ALIASES.get(task, task)


def load(task: str) -> Any:
    """Returns the object with ``Config`` and ``Env`` of ``task``, or raises UserError."""
    name = canonical(task)
    if name not in TASKS:
        plugins.load_installed()
    if name not in TASKS:
        raise unknown("task", task, TASKS)
    found = TASKS[name]
    if isinstance(found, Task):
        return found
    module = importlib.import_module(found)
    return Task(*module.TASKS[name]) if hasattr(module, "TASKS") else module


def suite(task: str) -> str:
    """Returns the suite of ``task``, for which recipes have numbers; empty if it has none."""
    return getattr(load(task).Config, "suite", "")


def make(
    task: str,
    num_envs: int = 128,
    device: str | torch.device = "cpu",
    sim: str = "auto",
    seed: int = 0,
    *,
    num_threads: int = 0,
    sim_settings: Mapping[str, Any] | None = None,
    **overrides: Any,
) -> VecEnv:
    """Builds ``num_envs`` environments of ``task``.

    Args:
        task: one of :data:`TASKS`, or another name of it, see :func:`canonical`.
        num_envs: number of parallel environments N.
        device: device of all tensors.
        sim: physics engine, see :data:`madpo_isaac.sim.ENGINES`, or another simulator with
            environments of its own, see :data:`madpo_isaac.sim.BRIDGES`.
        seed: seed of the environments' own generator.
        num_threads: threads of the CPU engine; 0 for one per core.
        sim_settings: settings of the engine, those of ``sim`` in the configuration.
        **overrides: fields of the task's ``Config``, such as ``agents="fingers"``.

    Raises:
        UserError: for an unknown task, engine, device or override, or a bad value.
    """
    module = load(task)
    num_envs = integer("num_envs", num_envs, 1, MAX_ENVS)
    num_threads = integer("num_threads", num_threads, 0, MAX_THREADS)
    seed = integer("seed", seed, -MAX_INTEGER - 1, MAX_INTEGER)
    allowed = [field.name for field in fields(module.Config)]
    for key in overrides:
        if key not in allowed:
            raise unknown(f"setting of task {task}", key, allowed)
    config = replace(module.Config(), **{key: plain(value) for key, value in overrides.items()})
    check_settings(config)
    if sim not in SIM_SCHEMAS:
        raise unknown("sim", sim, SIM_SCHEMAS)
    settings = {key: plain(value) for key, value in (sim_settings or {}).items()}
    known = [field.name for field in fields(SIM_SCHEMAS[sim]) if field.name != "name"]
    for key in settings:
        if key not in known:
            raise unknown(f"setting of sim={sim}", key, known)
    engine = SIM_SCHEMAS[sim](sim, **settings)
    check_types(engine, "sim.")
    check_fields(engine, "sim.")
    if sim in BRIDGES:
        bridge = importlib.import_module(f"madpo_isaac.tasks.bridges.{sim}")
        return bridge.make(canonical(task), config, num_envs, device=device, seed=seed, **settings)
    env = module.Env(
        config, num_envs, device=device, sim=engine, seed=seed, num_threads=num_threads
    )
    if isinstance(TASKS[canonical(task)], Task):  # of a user
        check_agents(env)
    return env
