"""Policies of checkpoints, to be played, scored and filmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.algos.learner import Learner
from madpo_isaac.config import resume
from madpo_isaac.config.playing import playing
from madpo_isaac.config.schema import Config
from madpo_isaac.env import Policy, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.runs import checkpoint
from madpo_isaac.training.factory import make_learner, seeds


class LoadedPolicy:
    """A checkpoint's policy: called with joint states (N, S), it gives the mean actions (N, A)."""

    def __init__(self, learner: Learner, source: dict[str, Any]) -> None:
        self.learner = learner
        self.source = source
        """Origin: ``checkpoint``, ``task``, ``algo``, ``seed``, ``iteration`` and
        ``env_steps``."""
        self._mean = learner.policy()

    def __call__(self, state: Tensor) -> Tensor:
        """Mean actions (N, A) at joint states (N, S)."""
        return self._mean(state)

    def sampled(self, generator: torch.Generator) -> Policy:
        """Returns the policy that draws its actions from ``generator``, which is on the device."""
        return self.learner.policy(generator)


def load_policy(path: str | Path, env: VecEnv) -> LoadedPolicy:
    """Returns the policy of a checkpoint, to act in ``env``.

    Args:
        path: a checkpoint file, a run folder, or a task whose policy comes with the project.
        env: environments with the task and the agents that it was trained for.

    Raises:
        UserError: there is no such policy, it is damaged, or its networks have other sizes than
            those of ``env``.
    """
    return policy_of(playing(str(path)), env)


def policy_of(config: Config, env: VecEnv) -> LoadedPolicy:
    """Returns the policy that ``config`` plays, see :func:`load_policy`."""
    file = find_checkpoint(config)
    learner = make_learner(config.algo, env, seeds(config.seed)[1:], playing=True)
    with checkpoint.using(file):
        content = read_checkpoint(file, config)
        learner.check(file, content, playing=True)
        learner.load_policy(content)
        resume.check_physics(file, content, env.physics(), playing=True)
        facts = {name: content[name] for name in ("task", "algo", "iteration", "env_steps")}
        seed = resume.seed_of(file, content, config.seed)
    return LoadedPolicy(learner, {"checkpoint": str(file), **facts, "seed": seed})


def find_checkpoint(config: Config) -> Path:
    """Returns the checkpoint file for ``config.checkpoint``."""
    runs = Path(config.runs_dir)
    return checkpoint.find(config.checkpoint, runs, config.task.name, config.algo.name)


def read_checkpoint(path: Path, config: Config) -> dict[str, Any]:
    """Reads a checkpoint of a configuration's task and algorithm.

    Raises:
        UserError: the checkpoint does not exist, is damaged, or has another task or algorithm.
    """
    content = checkpoint.load(path)
    for kind, wanted in (("task", config.task.name), ("algo", config.algo.name)):
        if content[kind] != wanted:
            raise UserError(
                f"Checkpoint '{path}' is of {kind}={content[kind]}, not {kind}={wanted}."
            )
    return content
