"""The contract between tasks and learners: a batch of environments as torch tensors."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Policy = Callable[[Tensor], Tensor]
"""A function from joint states (N, S) to joint actions (N, A)."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent: the columns of the joint action that it chooses, and its view of the state."""

    name: str
    action_slice: slice | Tensor
    """Columns of the joint action, as a slice or an index tensor (act_dim,)."""
    obs_dim: int
    observe: Callable[[Tensor], Tensor]
    """Maps joint states (B, S) to this agent's observations (B, obs_dim)."""
    role: str = ""
    """Purpose of the agent; ``algo.agent_order=spec`` updates agents with equal roles one after
    another."""
    action_roles: tuple[str, ...] = ()
    """Purpose of each of its actions. When MADPO compares two agents, it compares actions of equal
    roles. Empty if actions are to be compared in their order."""
    columns: Tensor | None = None
    """Columns of the joint state (obs_dim,), if ``observe`` only selects these."""

    @property
    def act_dim(self) -> int:
        """Number of its actions."""
        columns = self.action_slice  # a tensor is asked for its size only: it may be on a GPU
        return len(self.action_columns if isinstance(columns, slice) else columns)

    @property
    def action_columns(self) -> list[int]:
        """Columns of the joint action that it chooses, in the order of its actions."""
        columns = self.action_slice
        if isinstance(columns, slice):
            return list(range(columns.start or 0, columns.stop, columns.step or 1))
        return columns.tolist()


@dataclass(frozen=True)
class Reading:
    """A column of the joint state: offset + scale * (a quantity in ``unit``), clipped."""

    name: str
    unit: str = ""
    """SI unit, as in "N m" or "rad/s"; empty if the quantity has none, or if it is unknown."""
    frame: str = ""
    """Axes of the quantity, if they matter."""
    scale: float = 1.0
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Command:
    """A column of the joint action: it commands offset + scale * (the action, clipped)."""

    name: str
    unit: str = ""
    """Unit of the commanded quantity."""
    scale: float = 1.0
    offset: float = 0.0
    low: float = -math.inf
    """Limits of the action itself; the command does not change beyond them."""
    high: float = math.inf


def is_success(name: str) -> bool:
    """Returns whether a log entry ``name`` holds for a whole episode, not for one step of it."""
    return name == "success" or name.startswith("success_")


class Step(NamedTuple):
    """Result of one step of N environments."""

    state: Tensor
    """Joint state to act on next, after any reset. (N, S)"""
    reward: Tensor
    """Reward shared by all agents. (N,)"""
    terminated: Tensor
    """The episode ended by the task's own rules, so no value follows. (N,) bool"""
    truncated: Tensor
    """The episode was cut by its time limit: the value of ``final_state`` follows. (N,) bool"""
    final_state: Tensor
    """Joint state before any reset; differs from ``state`` where an episode ended. (N, S)"""
    log: dict[str, Tensor]
    """Further quantities of each environment, (N,) each: ``success`` (of the episode so far), terms
    of the reward, and if the engine reports them :attr:`diverged` and ``overflow`` (it had no room
    for all contacts or constraints)."""
    shaping: Tensor | None = None
    """Part of the reward that is for learners only, not for scores; None for none. (N,)"""

    @property
    def learned_reward(self) -> Tensor:
        """Reward to learn from: the task's, and its shaped part. (N,)"""
        return self.reward if self.shaping is None else self.reward + self.shaping

    @property
    def diverged(self) -> Tensor:
        """True for environments that became unstable, so that the step does not count. (N,) bool

        Their physics diverged, or their reward or state was not finite. They have terminated and
        were reset, their reward is 0, and their states are finite.
        """
        found = self.log.get("diverged")
        return torch.zeros_like(self.terminated) if found is None else found.bool()


class VecEnv(ABC):
    """N environments of one task that reset themselves: the interface between task and learner.

    Observations, rewards and flags live on ``device``. ``step`` takes any real action: a task
    that bounds its actions clips them itself.
    """

    num_envs: int
    device: torch.device
    agents: tuple[AgentSpec, ...]
    state_dim: int
    action_dim: int
    max_episode_length: int
    """Steps after which an episode is truncated."""
    step_dt: float
    """Simulated seconds per step."""
    has_success: bool = True
    """False if the task has no condition of success: ``success`` in the log says only that an
    episode reached its time limit, and pictures and printed lines do not show it."""
    generator: torch.Generator
    """Source of the random numbers of resets and noise."""
    episode_step: Tensor
    """Steps of the present episodes, which :meth:`stagger` changes. Environments whose simulator
    counts by itself do not have it. (N,) int64"""

    @abstractmethod
    def reset(self) -> Tensor:
        """Starts a new episode everywhere and returns the joint state (N, S)."""

    @abstractmethod
    def step(self, action: Tensor) -> Step:
        """Applies the joint action (N, A) for one control step."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue exactly: simulator, counters, generator."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""

    def adopt(self, state: dict[str, Any]) -> bool:
        """Takes over what other environments of the task have reached: the level of a curriculum.

        Args:
            state: the other environments' :meth:`state_dict`; their number may differ.

        Returns:
            True if something was taken over, which counts from the next reset; by default False.
        """
        del state
        return False

    def physics(self) -> dict[str, Any]:
        """Returns numbers of the model that must not change when a run is continued.

        They are those of :func:`madpo_isaac.sim.physics.record`, and under ``data`` further texts
        by name. By default there are none.
        """
        return {}

    def stagger(self) -> Tensor:
        """Shortens the present episodes to a random share of the time limit.

        They then end at different steps, so that every batch contains all phases of an episode
        (rsl_rl's ``init_at_random_ep_len``).

        Returns:
            True for episodes that are shorter now. (N,) bool; all False without
            :attr:`episode_step`.
        """
        if not hasattr(self, "episode_step"):
            return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self.episode_step.random_(0, self.max_episode_length, generator=self.generator)
        return self.episode_step > 0

    def __repr__(self) -> str:
        """Names the sizes that a learner needs."""
        shown = [f"{agent.name} ({agent.obs_dim} -> {agent.act_dim})" for agent in self.agents[:4]]
        more = [f"{len(self.agents) - 4} more"] if len(self.agents) > 4 else []
        return (
            f"<{type(self).__name__}: {self.num_envs} environments on {self.device}, state "
            f"{self.state_dim}, action {self.action_dim}, agents {', '.join(shown + more)}>"
        )

    def readings(self) -> tuple[Reading, ...]:
        """Returns the meaning of each column of the joint state; by default only its number."""
        return tuple(Reading(f"state[{i}]") for i in range(self.state_dim))

    def commands(self) -> tuple[Command, ...]:
        """Returns the meaning of each column of the joint action; by default only its number."""
        return tuple(Command(f"action[{i}]") for i in range(self.action_dim))

    @staticmethod
    def not_finite(state: Tensor, reward: Tensor) -> Tensor:
        """Rows in which a joint state (N, S) or reward (N,) is not finite. (N,) bool"""
        return ~(state.sum(dim=1) + reward).isfinite()  # a sum is finite if all its terms are

    def check_action(self, action: Tensor) -> None:
        """Raises ValueError unless ``action`` is a joint action (N, A)."""
        expected = (self.num_envs, self.action_dim)
        if action.shape != expected:
            raise ValueError(f"action has shape {tuple(action.shape)}, expected {expected}")

    def critic_view(self, state: Tensor) -> Tensor:
        """Maps joint states (B, S) to the input of the critic (B, S), by default the same."""
        return state

    def observations(self, state: Tensor) -> list[Tensor]:
        """Returns every agent's observation of joint states (B, S): a list of (B, obs_dim)."""
        return [agent.observe(state) for agent in self.agents]
