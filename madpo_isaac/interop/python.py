"""Training from a script or a notebook, without the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from madpo_isaac.config.overrides import compose
from madpo_isaac.config.playing import playing
from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.settings import as_text
from madpo_isaac.tasks.settings import plain
from madpo_isaac.training import runner
from madpo_isaac.training.factory import make_env


def train(*overrides: str, **settings: Any) -> Path:
    """Trains as ``train.py`` does with the same settings.

    It prints the same lines as the command and writes the same run folder. After Ctrl-C it saves
    and returns; ``train(checkpoint=run)`` continues the training.

    Args:
        *overrides: settings as on the command line, such as ``"algo.horizon=16"``.
        **settings: further settings by keyword, such as ``task="ShadowHandOver"``. A dictionary is
            a group of settings: ``algo={"name": "madpo", "horizon": 16}``.

    Returns:
        The run folder.

    Raises:
        UserError: a setting is wrong, or a file cannot be read or written.
        RunFailed: too many environments became unstable, or too many gradients were not finite.
    """
    for given in overrides:
        if not isinstance(given, str):
            raise UserError(
                f"{given!r} is no setting: give texts such as 'num_envs=64', or settings by name "
                "such as checkpoint=run, or **settings for a dictionary."
            )
    argv = [*overrides, *as_overrides(settings)]
    config = compose(argv)
    if config.test:
        raise UserError("test=True plays a policy: use load_policy and evaluate.")
    return runner.run(config, argv).folder


def env_of(policy: str | Path, num_envs: int | None = None, **settings: Any) -> VecEnv:
    """Returns environments like those in which a policy was trained.

    Args:
        policy: a run folder, a checkpoint file, or a task whose policy comes with the project.
        num_envs: number of environments; by default that of the training.
        **settings: settings that differ from the training, in the form of :func:`train`.

    Raises:
        UserError: there is no such policy, or a setting is wrong.
    """
    if num_envs is not None:
        settings["num_envs"] = num_envs
    return make_env(playing(str(policy), *as_overrides(settings)))


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Writes Python values in the form of the command line.

    A dictionary's ``name`` chooses a task, an algorithm or an engine, and its other entries are
    settings of this choice.
    """
    found: list[str] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            below = dict(value)
            if "name" in below:
                found.append(f"{key}={_written(below.pop('name'))}")
            found += [f"{key}.{line}" for line in as_overrides(below)]
        else:
            found.append(f"{key}={_written(value)}")
    return found


def _written(value: Any) -> str:
    """One value in Hydra's grammar; NumPy's numbers and arrays become Python's."""
    value = plain(value)
    if value is None:
        return "null"
    if isinstance(value, Path | str):
        return as_text(str(value))
    if isinstance(value, Sequence):
        return f"[{','.join(map(_written, value))}]"
    return str(value)
