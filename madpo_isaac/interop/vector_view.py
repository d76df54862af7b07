"""Gymnasium's vector interface over the joint problem."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.interop.pictures import Camera, check_open
from madpo_isaac.interop.seeds import reseed
from madpo_isaac.interop.spaces import box
from madpo_isaac.tasks.contract import StepCheck, check_state


class VectorView(VectorEnv):
    """N environments with one agent each, which sees the joint state and chooses all actions.

    Resets follow Gymnasium's ``AutoresetMode.SAME_STEP``. When an episode ends, the returned
    observation is the first of the next episode, and ``infos["final_obs"]`` (N, S) holds the last
    of the ended one, in the rows where ``infos["_final_obs"]`` (N,) is true. ``infos`` also has
    the task's readings, each (N,). Arrays are NumPy's, copied from the device.

    Args:
        env: the environments.
        render_mode: ``"rgb_array"`` for :meth:`render`, or None.
        width: width of the pictures, in pixels.
        height: height of the pictures, in pixels.
    """

    def __init__(
        self, env: VecEnv, render_mode: str | None = None, width: int = 480, height: int = 320
    ) -> None:
        self._camera = Camera(env, render_mode, width, height)
        self.metadata = {**self._camera.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = render_mode
        self.env, self._check = env, StepCheck(env)
        self.num_envs = env.num_envs
        self.single_observation_space = box(env.readings())
        self.single_action_space = box(env.commands())
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts new episodes everywhere.

        Args:
            seed: one seed, since all environments share one generator.
            options: must be empty.

        Raises:
            UserError: there are several seeds, a bad one, or options.
            ClosedEnvironmentError: :meth:`close` was called.
        """
        if isinstance(seed, list):
            raise UserError(f"seed={seed}: the environments share one generator, give one number.")
        if options:
            raise UserError(f"options={options}: reset takes no options, all environments start.")
        check_open(self.closed)
        reseed(self.env, seed)
        state = self.env.reset()
        check_state(self.env, state)
        return _on_host(state), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes one step everywhere with joint actions (N, A).

        Returns:
            States (N, S), rewards (N,), terminations (N,), truncations (N,) and infos.

        Raises:
            ValueError: the actions have another shape.
            ClosedEnvironmentError: :meth:`close` was called.
        """
        check_open(self.closed)
        joint = torch.as_tensor(np.asarray(actions), dtype=torch.float32, device=self.env.device)
        if tuple(joint.shape) != (shape := (self.num_envs, self.env.action_dim)):
            raise ValueError(f"actions have shape {tuple(joint.shape)}, expected {shape}")
        step = self.env.step(joint)
        self._check(step)
        everywhere = np.ones(self.num_envs, dtype=bool)
        infos: dict[str, Any] = {}
        for name, value in step.log.items():
            infos[name], infos[f"_{name}"] = _on_host(value), everywhere
        terminated, truncated = _on_host(step.terminated), _on_host(step.truncated)
        done = terminated | truncated
        if done.any():
            infos["final_obs"], infos["_final_obs"] = _on_host(step.final_state), done
        return _on_host(step.state), _on_host(step.learned_reward), terminated, truncated, infos

    def render(self) -> tuple[np.ndarray, ...]:
        """Returns a picture of every environment, each (height, width, 3) uint8.

        Raises:
            UserError: the environments were made without ``render_mode``.
            ClosedEnvironmentError: :meth:`close` was called.
        """
        check_open(self.closed)
        return tuple(self._camera.picture(index) for index in range(self.num_envs))

    def close_extras(self, **kwargs: Any) -> None:
        """Gives the OpenGL context back."""
        del kwargs
        self._camera.close()


def _on_host(values: Tensor) -> np.ndarray:
    return values.cpu().numpy().copy()
