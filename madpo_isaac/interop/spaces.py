"""Gymnasium's spaces of states, observations and actions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Box

from madpo_isaac.env import AgentSpec, Command, Reading, VecEnv


def box(columns: Sequence[Reading] | Sequence[Command]) -> Box:
    """Returns the space of vectors with these columns, within their limits."""
    low, high = np.array([(c.low, c.high) for c in columns], dtype=np.float32).T
    return Box(low, high, dtype=np.float32)


def observation_box(env: VecEnv, agent: AgentSpec) -> Box:
    """Returns the space of an agent's observations; without limits if they are computed."""
    if agent.columns is None:
        return Box(-np.inf, np.inf, (agent.obs_dim,), dtype=np.float32)
    readings = env.readings()
    return box([readings[column] for column in agent.columns.tolist()])


def action_box(env: VecEnv, agent: AgentSpec) -> Box:
    """Returns the space of an agent's actions."""
    commands = env.commands()
    return box([commands[column] for column in agent.action_columns])
