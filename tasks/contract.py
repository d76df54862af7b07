"""Checks that environments, which users may have written, are what learners take them for."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from madpo_isaac.env import Step, VecEnv
from madpo_isaac.errors import UserError


def check_agents(env: VecEnv) -> None:
    """Raises UserError unless agents have names of their own and share out all actions."""
    names = [agent.name for agent in env.agents]
    for agent in env.agents:
        if not re.fullmatch(r"\w[\w.+-]*", agent.name):
            raise UserError(
                f"agent name '{agent.name}' of {_name(env)} must be letters, digits, '_', '-', '+' "
                "and '.', because exported files are called so."
            )
        columns = agent.action_slice
        open_end = isinstance(columns, slice) and (columns.stop is None or columns.stop < 0)
        if open_end or not isinstance(columns, (slice, Tensor)):
            raise UserError(
                f"action_slice={columns} of agent '{agent.name}' of {_name(env)} must be a slice "
                "with an end counted from the start, or a tensor of columns."
            )
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
    seen = env.observations(state)
    if len(seen) != len(env.agents):
        raise UserError(f"{_name(env)} has {len(env.agents)} agents and {len(seen)} observations.")
    for agent, observed in zip(env.agents, seen, strict=True):
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
    for name, value in step.log.items():
        if not isinstance(value, Tensor) or tuple(value.shape) != (env.num_envs,):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"log['{name}'] of {_name(env)} is {found}; it must be a tensor ({env.num_envs},)."
            )


def _check(
    env: VecEnv, name: str, found: Tensor, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    if not isinstance(found, Tensor):
        raise UserError(f"{name} of {_name(env)} is a {type(found).__name__}, not a tensor.")
    if (tuple(found.shape), found.dtype) != (shape, dtype):
        raise UserError(
            f"{name} of {_name(env)} is {tuple(found.shape)} {found.dtype}; it must be {shape} "
            f"{dtype}."
        )


def _name(env: VecEnv) -> str:
    return type(env).__name__
