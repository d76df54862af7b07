"""Bi-DexHands' own tasks on Isaac Gym, behind the contract of this project's tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from madpo_isaac.env import Command, Reading, Step, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.sim import check_device
from madpo_isaac.sim.isaacgym_bridge import IsaacGymBridge
from madpo_isaac.tasks.bridges.settings import refuse_others
from madpo_isaac.tasks.hands.agents import make_agents
from madpo_isaac.tasks.hands.base import NUM_HANDS, OBS_LIMIT, HandTaskConfig
from madpo_isaac.tasks.hands.hand import SHADOW, load


class IsaacGymEnv(VecEnv):
    """Isaac Gym's environments of one task; joint state, actions and agents are those of ours.

    At the end of an episode ``state`` is ``final_state``, because Bi-DexHands resets an environment
    at the start of its next step. The first action of an episode is therefore chosen at the last
    state of the one before. An episode that ends on its own exactly at the time limit counts as
    truncated. The simulator cannot be saved, so a continued run starts new episodes.

    Args:
        bridge: the running simulator.
        config: settings of the task, for the agents.
        num_envs: number of environments N.
        device: where the tensors live; they are copied from and to the simulator's process.
    """

    def __init__(
        self, bridge: IsaacGymBridge, config: HandTaskConfig, num_envs: int, device: torch.device
    ) -> None:
        self.bridge, self.num_envs, self.device = bridge, num_envs, device
        self.state_dim, self.action_dim = bridge.state_dim, bridge.action_dim
        self.max_episode_length, self.step_dt = bridge.max_episode_length, bridge.step_dt
        hand = load(SHADOW)
        floating = bridge.action_dim > NUM_HANDS * len(hand.driven)
        self.agents = make_agents(
            hand,
            config.agents,
            bridge.hand_dim,
            self.state_dim,
            floating=floating,
            see_all=config.agents_see == "all",
            device=device,
        )

    def reset(self) -> Tensor:
        """Starts a new episode everywhere, with a step of small random actions as Bi-DexHands."""
        self.bridge.reset()
        return self._read("state").nan_to_num_()

    def step(self, action: Tensor) -> Step:
        """Applies the joint action (N, A), which the simulator clips to [-1, 1], for one step."""
        self.check_action(action)
        self.bridge["action"].copy_(action)
        self.bridge.step()
        state, reward = self._read("state"), self._read("reward")
        done, truncated = self._read("done").bool(), self._read("truncated").bool()
        diverged = self.not_finite(state, reward)
        state.nan_to_num_(0.0, 0.0, 0.0)
        log = {"success": self._read("success"), "diverged": diverged.float()}
        terminated = (done & ~truncated) | diverged
        return Step(
            state=state,
            reward=reward.masked_fill(diverged, 0.0),
            terminated=terminated,
            truncated=truncated & ~terminated,
            final_state=state,
            log=log,
        )

    def _read(self, name: str) -> Tensor:
        return self.bridge[name].to(self.device, copy=True)

    def readings(self) -> tuple[Reading, ...]:
        """Returns the columns of the joint state, numbered as in Bi-DexHands' documentation."""
        names = (f"state[{i}]" for i in range(self.state_dim))
        return tuple(Reading(name, low=-OBS_LIMIT, high=OBS_LIMIT) for name in names)

    def commands(self) -> tuple[Command, ...]:
        """Returns the columns of the joint action."""
        names = (f"action[{i}]" for i in range(self.action_dim))
        return tuple(Command(name, low=-1.0, high=1.0) for name in names)

    def state_dict(self) -> dict[str, Any]:
        """Returns nothing: Isaac Gym's state cannot be saved."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Has nothing to restore."""


def make(
    task: str,
    config: Any,
    num_envs: int,
    *,
    device: str | torch.device,
    seed: int,
    python: str = "",
    timeout: float = 600.0,
) -> IsaacGymEnv:
    """Starts Isaac Gym and returns its environments of ``task``.

    Args:
        task: its name, the same here and there.
        config: the task's settings; only ``agents`` and ``episode_length`` have an effect.
        num_envs: number of environments.
        device: where PhysX runs and the tensors live.
        seed: seed of the simulator's random numbers.
        python: interpreter with isaacgym and bidexhands.
        timeout: seconds to wait for any answer.

    Raises:
        UserError: Bi-DexHands has no such task, a setting has no effect, or see
            :class:`~madpo_isaac.sim.isaacgym_bridge.IsaacGymBridge`.
    """
    if not isinstance(config, HandTaskConfig):
        raise UserError(f"task={task}: sim=isaacgym has the bimanual tasks only.")
    refuse_others("isaacgym", config, ("agents", "episode_length"))
    load(SHADOW).agent_parts(config.agents)  # before a simulator is started
    checked = check_device(device)
    where = f"cuda:{checked.index or 0}" if checked.type == "cuda" else "cpu"
    bridge = IsaacGymBridge(
        python,
        timeout,
        task=task,
        num_envs=num_envs,
        device=where,
        seed=seed % 2**32,
        episode_length=config.episode_length,
    )
    return IsaacGymEnv(bridge, config, num_envs, checked)
