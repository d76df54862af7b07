"""Training from a script or a notebook, without the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from madpo_isaac.config.overrides import as_text, compose
from madpo_isaac.config.playing import playing
from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.training import runner
from madpo_isaac.training.factory import make_env


def train(*overrides: str, **settings: Any) -> Path:
    """Trains as ``train.py`` does with the same settings.

    It prints what the command prints and writes the same run folder. Ctrl-C saves and returns;
    training goes on with ``train(checkpoint=run)``.

    Args:
        *overrides: settings as the command line has them, such as ``"algo.horizon=16"``.
        **settings: further settings by keyword, such as ``task="ShadowHandOver"``. A dictionary
            sets what is below a name: ``algo={"name": "madpo", "horizon": 16}``.

    Returns:
        The run folder.

    Raises:
        UserError: a setting is wrong, or something cannot be read or written.
        RunFailed: the run had to stop, since too many worlds or gradients went bad.
    """
    argv = [*overrides, *as_overrides(settings)]
    config = compose(argv)
    if config.test:
        raise UserError("test=True plays a policy: use load_policy and evaluate.")
    return runner.run(config, argv).folder


def env_of(policy: str | Path, num_envs: int | None = None, **settings: Any) -> VecEnv:
    """Returns environments as a policy was trained in.

    Args:
        policy: a run folder, a checkpoint file, or a task whose policy comes with the project.
        num_envs: by default as many as in training.
        **settings: other settings than those of the training, as :func:`train` takes them.

    Raises:
        UserError: there is no such policy, or a setting is wrong.
    """
    config = playing(str(policy), *as_overrides(settings))
    if num_envs is not None:
        config = dataclasses.replace(config, num_envs=num_envs)
    return make_env(config)


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Writes Python values as the command line has them.

    A dictionary's ``name`` chooses a task, an algorithm or an engine; its other entries are set
    below it.
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
    """One value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, Path | str):
        return as_text(str(value))
    if isinstance(value, Sequence):
        return f"[{','.join(map(_written, value))}]"
    return str(value)
