"""Checks that environments, which users may have written, are what learners take them for."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.env import Step, VecEnv
from madpo_isaac.errors import UserError


def check_agents(env: VecEnv) -> None:
    """Raises UserError unless agents have names of their own and share out all actions."""
    names = [agent.name for agent in env.agents]
    if len(set(names)) < len(names):
        raise UserError(f"Agents of {_name(env)} must have different names: {', '.join(names)}.")
    columns = sorted(column for agent in env.agents for column in agent.action_columns)
    if columns != list(range(env.action_dim)):
        raise UserError(
            f"Agents of {_name(env)} must choose each of the {env.action_dim} columns of the joint "
            f"action once; they choose {columns}."
        )


def check_state(env: VecEnv, state: Tensor, name: str = "state") -> None:
    """Raises UserError unless ``state`` is a joint state (N, S), float32."""
    _check(env, name, state, (env.num_envs, env.state_dim), torch.float32)


def check_observations(env: VecEnv, state: Tensor) -> None:
    """Raises UserError unless every agent observes (N, obs_dim), float32, of ``state`` (N, S)."""
    check_state(env, state)
    for agent, observed in zip(env.agents, env.observations(state), strict=True):
        shape = (env.num_envs, agent.obs_dim)
        _check(env, f"The observation of {agent.name}", observed, shape, torch.float32)


def check_step(env: VecEnv, step: Step) -> None:
    """Raises UserError unless a step has the shapes and types of :class:`Step`, and success."""
    check_observations(env, step.state)
    check_state(env, step.final_state, "final_state")
    _check(env, "reward", step.reward, (env.num_envs,), torch.float32)
    for name in ("terminated", "truncated"):
        _check(env, name, getattr(step, name), (env.num_envs,), torch.bool)
    if "success" not in step.log:
        raise UserError(f"The log of a step of {_name(env)} must have 'success'.")


def _check(
    env: VecEnv, name: str, found: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if (tuple(found.shape), found.dtype) != (shape, dtype):
        raise UserError(
            f"{name} of {_name(env)} is {tuple(found.shape)} {found.dtype}; it must be {shape} "
            f"{dtype}."
        )


def _name(env: VecEnv) -> str:
    return type(env).__name__
