"""Checks that environments, which users may have written, are what learners take them for."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from madpo_isaac.env import Step, VecEnv
from madpo_isaac.errors import UserError

RESERVED = (
    *("count", "step_count", "return", "length", "terminated", "time_limit"),
    *("episode_return", "episode_length", "episodes"),
)
"""Names of a run's own numbers, which entries of a step's log would replace."""


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
        odd = isinstance(columns, slice) and (
            columns.stop is None or columns.stop < 0 or (columns.step or 1) < 1
        )
        if odd or not isinstance(columns, (slice, Tensor)):
            raise UserError(
                f"action_slice={columns} of agent '{agent.name}' of {_name(env)} must be a slice "
                "with an end counted from the start and no negative step, or a tensor of columns."
            )
        if not len(agent.action_columns):
            raise UserError(f"Agent '{agent.name}' of {_name(env)} chooses no action.")
    if len(set(names)) < len(names):
        raise UserError(f"Agents of {_name(env)} must have different names: {', '.join(names)}.")
    columns = sorted(column for agent in env.agents for column in agent.action_columns)
    if columns != list(range(env.action_dim)):
        raise UserError(
            f"Agents of {_name(env)} must choose each of the {env.action_dim} columns of the joint "
            f"action once; they choose {columns}."
        )


def check_stagger(env: VecEnv) -> None:
    """Raises UserError if the first episodes cannot be shortened for lack of a generator."""
    if hasattr(env, "episode_step") and not hasattr(env, "generator"):
        raise UserError(
            f"{_name(env)} has episode_step, so it needs a generator, or its runs need "
            "stagger_episodes=False."
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
        if agent.columns is not None and state.is_cpu:  # a GPU is not asked
            selected = state[:, agent.columns]
            if selected.shape != observed.shape or not _equal(selected, observed):
                raise UserError(
                    f"The observation of {agent.name} of {_name(env)} is not what its columns of "
                    "the joint state hold: leave columns out unless observe only selects them."
                )


def check_step(env: VecEnv, step: Step) -> None:
    """Raises UserError unless a step has the shapes and types of :class:`Step`, and success."""
    if not isinstance(step, Step):
        raise UserError(f"step() of {_name(env)} must return a Step, not {type(step).__name__}.")
    check_observations(env, step.state)
    check_state(env, step.final_state, "final_state")
    _check(env, "reward", step.reward, (env.num_envs,), torch.float32)
    if step.shaping is not None:
        _check(env, "shaping", step.shaping, (env.num_envs,), torch.float32)
    for name in ("terminated", "truncated"):
        _check(env, name, getattr(step, name), (env.num_envs,), torch.bool)
    if "success" not in step.log:
        raise UserError(f"The log of a step of {_name(env)} must have 'success'.")
    for name, value in step.log.items():
        if name in RESERVED:
            raise UserError(
                f"log['{name}'] of {_name(env)} has the name of a run's own number: rename it."
            )
        if not isinstance(value, Tensor) or tuple(value.shape) != (env.num_envs,):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"log['{name}'] of {_name(env)} is {found}; it must be a tensor ({env.num_envs},)."
            )


class StepCheck:
    """Checks the first step of environments whole, and later ones in part.

    A later step has a reward of the right shape, and logs what the first one has logged.
    """

    def __init__(self, env: VecEnv) -> None:
        self._env = env
        self._names: set[str] | None = None

    def __call__(self, step: Step) -> None:
        """Raises UserError unless ``step`` is as :func:`check_step` wants, and as the first one."""
        env = self._env
        if (
            self._names is None
            or not isinstance(step, Step)
            or step.reward.shape != (env.num_envs,)
        ):
            check_step(env, step)
        if self._names is None:
            self._names = set(step.log)
        elif step.log.keys() != self._names:
            raise UserError(
                f"The log of {_name(env)} must have the same entries at every step; it had "
                f"{', '.join(sorted(self._names))}, and then "
                f"{', '.join(sorted(step.log)) or 'none'}."
            )


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(), b.nan_to_num())


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
