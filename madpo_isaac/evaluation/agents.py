"""Untrained policies, to look at a task or to compare with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from madpo_isaac.env import Policy, VecEnv

TRAINED = "trained"
AGENTS = (TRAINED, "zero", "random")


def untrained(name: str, env: VecEnv, seed: int) -> Policy:
    """Returns the policy of a name of :data:`AGENTS`, except that of a checkpoint.

    Args:
        name: ``zero``: all actions are 0; ``random``: actions are uniform within their limits,
            which are -1 and 1 if the task has none.
        env: environments in which it acts.
        seed: seed of the random actions.
    """
    if name == "zero":
        return lambda state: state.new_zeros(len(state), env.action_dim)
    limits = [(command.low, command.high) for command in env.commands()]
    finite = [pair if all(map(math.isfinite, pair)) else (-1.0, 1.0) for pair in limits]
    low, high = torch.tensor(finite, device=env.device).unbind(1)
    generator = torch.Generator(env.device).manual_seed(seed)

    def act(state: Tensor) -> Tensor:
        draw = torch.rand(len(state), env.action_dim, generator=generator, device=env.device)
        return low + (high - low) * draw

    return act
