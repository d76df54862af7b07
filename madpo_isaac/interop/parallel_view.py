"""PettingZoo's parallel interface over one environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from pettingzoo import ParallelEnv
from torch import Tensor

from madpo_isaac.env import VecEnv
from madpo_isaac.interop.pictures import Camera, check_open
from madpo_isaac.interop.seeds import reseed
from madpo_isaac.interop.spaces import action_box, box, observation_box
from madpo_isaac.tasks.contract import StepCheck, check_observations


class ParallelView(ParallelEnv):
    """One environment whose agents act at once; all live until the episode ends.

    The observations that end an episode are those before the reset, and :meth:`reset` starts the
    next one. Agents share the reward. After a step ``infos`` holds what the task logs
    (``success`` and other quantities), the same for every agent. :meth:`state` is the joint state.

    Args:
        env: a batch of one environment.
        render_mode: ``"rgb_array"`` for :meth:`render`, or None.
        width: width of the pictures, in pixels.
        height: height of the pictures, in pixels.
    """

    def __init__(
        self, env: VecEnv, render_mode: str | None = None, width: int = 480, height: int = 320
    ) -> None:
        if env.num_envs != 1:
            raise ValueError(f"PettingZoo's interface is for one environment, not {env.num_envs}")
        self._camera = Camera(env, render_mode, width, height)
        self.metadata = {"name": "madpo_isaac", **self._camera.metadata}
        self.render_mode = render_mode
        self.env = env
        self.specs = {agent.name: agent for agent in env.agents}
        self.possible_agents = list(self.specs)
        self.agents: list[str] = []
        self.observation_spaces = {a.name: observation_box(env, a) for a in env.agents}
        self.action_spaces = {a.name: action_box(env, a) for a in env.agents}
        self.state_space = box(env.readings())
        self._state = torch.zeros(1, env.state_dim)
        self._check, self._closed = StepCheck(env), False

    def observation_space(self, agent: str) -> Space:
        """Returns the space of an agent's observations (obs_dim,)."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space:
        """Returns the space of an agent's actions (act_dim,)."""
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
        """Starts an episode, the same for the same ``seed``; ``options`` have no effect.

        Raises:
            ClosedEnvironmentError: :meth:`close` was called.
        """
        del options
        check_open(self._closed)
        reseed(self.env, seed)
        self._state = self.env.reset()
        check_observations(self.env, self._state)
        self.agents = list(self.possible_agents)
        return self._observations(), {agent: {} for agent in self.agents}

    def step(
        self, actions: Mapping[str, np.ndarray]
    ) -> tuple[
        dict[str, np.ndarray],
        dict[str, float],
        dict[str, bool],
        dict[str, bool],
        dict[str, dict[str, Any]],
    ]:
        """Takes one step.

        Args:
            actions: an array (act_dim,) for every agent.

        Returns:
            Observations, rewards, terminations, truncations and infos by agent.

        Raises:
            ValueError: the episode is over, or the actions are not one of its shape for each agent.
            ClosedEnvironmentError: :meth:`close` was called.
        """
        check_open(self._closed)
        if not self.agents:
            raise ValueError("the episode is over: call reset")
        if actions.keys() != self.specs.keys():
            raise ValueError(f"actions are for {list(actions)}, expected {self.agents}")
        joint = torch.zeros(1, self.env.action_dim, device=self.env.device)
        for name, spec in self.specs.items():
            part = torch.as_tensor(np.asarray(actions[name]), dtype=torch.float32)
            if part.shape != (spec.act_dim,):
                shape = tuple(part.shape)
                raise ValueError(f"{name}'s action has shape {shape}, expected ({spec.act_dim},)")
            joint[0, spec.action_slice] = part.to(self.env.device)
        step = self.env.step(joint)
        self._check(step)
        self._state = step.final_state
        terminated, truncated = bool(step.terminated[0]), bool(step.truncated[0])
        info = {name: float(value[0]) for name, value in step.log.items()}
        names, self.agents = self.agents, [] if terminated or truncated else self.agents
        return (
            self._observations(),
            dict.fromkeys(names, float(step.learned_reward[0])),
            dict.fromkeys(names, terminated),
            dict.fromkeys(names, truncated),
            {name: dict(info) for name in names},
        )

    def state(self) -> np.ndarray:
        """Returns the joint state (S,)."""
        return _on_host(self._state)

    def render(self) -> np.ndarray:
        """Returns a picture of the environment as it stands. (height, width, 3) uint8

        After the last step of an episode this is the start of the next one.

        Raises:
            UserError: the environment was made without ``render_mode``.
            ClosedEnvironmentError: :meth:`close` was called.
        """
        check_open(self._closed)
        return self._camera.picture(0)

    def close(self) -> None:
        """Gives the OpenGL context back; no episode goes on."""
        self._closed, self.agents = True, []
        self._camera.close()

    def _observations(self) -> dict[str, np.ndarray]:
        observed = map(_on_host, self.env.observations(self._state))
        return dict(zip(self.possible_agents, observed, strict=True))


def _on_host(rows: Tensor) -> np.ndarray:
    return rows[0].cpu().numpy().copy()
