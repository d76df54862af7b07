"""Isaac Lab's two-hand handover, behind the contract of this project's tasks.

Written for Isaac Lab 3.0 and its ``DirectMARLEnv``. Everything of that project is imported when
environments are made, so that this file can be read anywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.env import AgentSpec, Command, Step, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.sim import check_device
from madpo_isaac.tasks.bridges.settings import refuse_others

TASK_IDS = {"ShadowHandOver": "Isaac-Shadow-Handover-Direct"}
"""Isaac Lab's counterpart of each task; it has a ball and its own numbers."""


class IsaacLabEnv(VecEnv):
    """A ``DirectMARLEnv``. Joint state: Isaac Lab's own state, if any, then all observations.

    Isaac Lab resets in the middle of its step and returns what follows. The observations before
    are taken as its ``_reset_idx`` is called, so that ``final_state`` is exact. An environment
    whose numbers are not finite counts as terminated in every step until Isaac Lab resets it.

    Args:
        env: the environment, with ``unwrapped`` a ``DirectMARLEnv``.
        seed: seed of its random numbers, from the first reset on.
        launched: application to close after the environment.
    """

    def __init__(self, env: Any, seed: int, launched: contextlib.ExitStack | None = None) -> None:
        self.env, self.lab = env, env.unwrapped
        self._launched = launched or contextlib.ExitStack()
        self._seed: int | None = seed
        self.num_envs, self.device = self.lab.num_envs, torch.device(self.lab.device)
        self.max_episode_length, self.step_dt = self.lab.max_episode_length, self.lab.step_dt
        self._names = list(self.lab.possible_agents)
        self._final: Tensor | None = None
        self._reset_idx = self.lab._reset_idx
        self.lab._reset_idx = self._keep_final
        state = self._joint(self._first())
        self.state_dim = state.shape[1]
        self.agents = self._agents()
        self.action_dim = sum(agent.act_dim for agent in self.agents)

    def _agents(self) -> tuple[AgentSpec, ...]:
        agents = []
        widths = [self.lab.observation_spaces[name].shape[-1] for name in self._names]
        start, first = self.state_dim - sum(widths), 0
        for name, width in zip(self._names, widths, strict=True):
            act_dim = self.lab.action_spaces[name].shape[-1]
            columns = torch.arange(start, start + width, device=self.device)
            agents.append(
                AgentSpec(
                    name=name,
                    action_slice=slice(first, first + act_dim),
                    obs_dim=width,
                    observe=lambda state, a=start, b=start + width: state[:, a:b],
                    role="hand",
                    columns=columns,
                )
            )
            start, first = start + width, first + act_dim
        return tuple(agents)

    def _first(self) -> dict[str, Tensor]:
        seed, self._seed = self._seed, None
        observations, _ = self.env.reset(seed=seed)
        return observations

    def _joint(self, observations: Mapping[str, Tensor]) -> Tensor:
        """Isaac Lab's state and all observations, side by side. (N, S)"""
        own = self.lab.state()
        parts = [] if own is None else [own]
        parts += [observations[name] for name in self._names]
        return torch.cat([part.to(torch.float32) for part in parts], dim=1)

    def _keep_final(self, env_ids: Any) -> None:
        """Stands in for the environment's own ``_reset_idx``."""
        self._final = self._joint(self.lab._get_observations())
        self._reset_idx(env_ids)

    def reset(self) -> Tensor:
        """Starts a new episode everywhere and returns the joint state (N, S)."""
        return self._joint(self._first())

    def step(self, action: Tensor) -> Step:
        """Applies the joint action (N, A), which Isaac Lab saturates, for one control step."""
        self.check_action(action)
        parts = {agent.name: action[:, agent.action_slice] for agent in self.agents}
        self._final = None
        observations, rewards, ended, time_outs, _ = self.env.step(parts)
        state = self._joint(observations)
        final_state = state if self._final is None else self._final
        terminated, truncated = (self._all(flags).bool() for flags in (ended, time_outs))
        done = terminated | truncated
        reward = torch.stack([rewards[name] for name in self._names]).float().mean(dim=0)
        diverged = self.not_finite(final_state, reward)
        final_state = torch.where(done[:, None], final_state, state)
        log = {"success": torch.zeros_like(reward), "diverged": diverged.float()}
        terminated = terminated | diverged
        return Step(
            state=state.nan_to_num(0.0, 0.0, 0.0),
            reward=reward.masked_fill(diverged, 0.0),
            terminated=terminated,
            truncated=truncated & ~terminated,
            final_state=final_state.nan_to_num(0.0, 0.0, 0.0),
            log=log,
        )

    def _all(self, flags: Mapping[str, Tensor]) -> Tensor:
        """Returns the rows whose episode ends for all agents; Isaac Lab resets them. (N,)"""
        return torch.stack([flags[name] for name in self._names]).all(dim=0)

    def commands(self) -> tuple[Command, ...]:
        """Returns the columns of the joint action: joint targets over their range."""
        names = [f"{a.name}/action[{i}]" for a in self.agents for i in range(a.act_dim)]
        return tuple(Command(name, low=-1.0, high=1.0) for name in names)

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: Isaac Lab's state is not saved, a continued run starts episodes."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has nothing to restore."""

    def close(self) -> None:
        """Ends the environment and the application that was launched for it."""
        self.env.close()
        self._launched.close()


def make(
    task: str, config: Any, num_envs: int, *, device: str | torch.device, seed: int
) -> IsaacLabEnv:
    """Makes Isaac Lab's environments of ``task``; its default physics is Newton.

    Args:
        task: one of :data:`TASK_IDS`.
        config: the task's settings, which have no effect.
        num_envs: number of environments.
        device: where the simulation runs and the tensors live.
        seed: seed of the environments' random numbers.

    Raises:
        UserError: Isaac Lab has no such task or is not installed here, or a setting has no effect.
    """
    if task not in TASK_IDS:
        raise UserError(f"task={task}: sim=isaaclab has {', '.join(TASK_IDS)} only.")
    refuse_others("isaaclab", config, ())
    where = str(check_device(device))
    try:
        import gymnasium
        import isaaclab_tasks  # noqa: F401  registers the tasks
        from isaaclab.app import launch_simulation
        from isaaclab_tasks.utils.parse_cfg import parse_env_cfg
    except ImportError as problem:
        raise UserError(
            "sim=isaaclab runs inside Isaac Lab 3's own environment, where this project is "
            f"installed with pip install --no-deps -e . ({problem})."
        ) from problem
    cfg = parse_env_cfg(TASK_IDS[task], device=where, num_envs=num_envs)
    cfg.seed = seed % 2**31
    launched = contextlib.ExitStack()
    launched.enter_context(launch_simulation(cfg, {"device": where, "headless": True}))
    env = gymnasium.make(TASK_IDS[task], cfg=cfg)
    return IsaacLabEnv(env, cfg.seed, launched)
