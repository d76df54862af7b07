"""An environment as rl_games sees it."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from rl_games.common.ivecenv import IVecEnv
from torch import Tensor

from madpo_isaac.env import VecEnv


class RlGamesEnv(IVecEnv):
    """One agent that sees the joint state and chooses the joint action.

    rl_games' agent gets it as an object, so that nothing has to be registered. The run keeps the
    environments' state in its checkpoints itself.
    """

    def __init__(self, env: VecEnv) -> None:
        self.env = env

    def get_env_info(self) -> dict[str, Any]:
        """Returns the spaces; every task's actions are meant to lie in [-1, 1]."""
        unbounded = spaces.Box(-np.inf, np.inf, (self.env.state_dim,), np.float32)
        action = spaces.Box(-1.0, 1.0, (self.env.action_dim,), np.float32)
        return {"observation_space": unbounded, "action_space": action, "agents": 1}

    def reset(self) -> dict[str, Tensor]:
        """Starts a new episode everywhere."""
        return {"obs": self.env.reset()}

    def step(self, actions: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Any]]:
        """Steps all environments.

        Returns:
            The next observation, after any reset; the reward (N,); where an episode ended (N,);
            and a dictionary with ``time_outs`` (N,), where the time limit cut the episode, the
            :class:`~madpo_isaac.env.Step` and the actions.
        """
        step = self.env.step(actions)
        done = step.terminated | step.truncated
        infos = {"time_outs": step.truncated & ~step.terminated, "step": step, "actions": actions}
        return {"obs": step.state}, step.learned_reward, done, infos
