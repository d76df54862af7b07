"""Playing of whole episodes, the same number in every environment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from madpo_isaac.env import Policy, Step, VecEnv, is_success
from madpo_isaac.errors import UserError
from madpo_isaac.tasks.contract import StepCheck

CAUSES = ("terminated", "time_limit", "diverged")
"""Ends of an episode: by the task's rules, by its time limit, or because it became unstable."""

_PAUSE = 64
"""Steps on a GPU between questions whether all episodes are over, each of which waits for it."""
_NOT_READINGS = ("diverged", "overflow")


@dataclass
class Episodes:
    """The results of E = episodes x N episodes."""

    returns: Tensor
    """(E,)"""
    lengths: Tensor
    """Steps. (E,)"""
    success: Tensor
    """0 or 1. (E,)"""
    milestones: dict[str, Tensor]
    """Further conditions, which the task logs as ``success_<name>``: 0 or 1. (E,) each"""
    causes: dict[str, Tensor]
    """By cause of :data:`CAUSES`, 1 where it ended the episode. (E,) each"""
    readings: dict[str, Tensor]
    """The task's other logged quantities, means over an episode's steps. (E,) each"""


class Scores:
    """Adds up N environments' episodes until each has had ``episodes``, without host copies."""

    def __init__(self, env: VecEnv, episodes: int) -> None:
        self.episodes = episodes
        self._columns = torch.arange(env.num_envs, device=env.device)
        self._finished = torch.zeros_like(self._columns)
        self._check = StepCheck(env)
        self._names: list[str] | None = None

    def add(self, step: Step) -> None:
        """Takes in one step of all environments."""
        self._check(step)
        names = self._begin(step) if self._names is None else self._names
        sums = torch.stack([x.float() for x in (step.reward, *(step.log[k] for k in names))])
        self._running += sums
        self._length += 1.0
        done = step.terminated | step.truncated
        diverged = step.diverged
        valid = ~diverged
        limited = step.truncated & ~step.terminated
        ends = [step.log["success"], step.terminated & valid, limited & valid, diverged]
        ends += [step.log[name] for name in self._milestones]
        result = torch.stack((self._length, *(x.float() for x in ends), *self._running))
        row = self._finished.clamp(max=self.episodes - 1)
        counted = done & (self._finished < self.episodes)
        before = self._results[:, row, self._columns]
        self._results[:, row, self._columns] = torch.where(counted, result, before)
        self._finished += counted
        self._running.masked_fill_(done, 0.0)
        self._length.masked_fill_(done, 0.0)

    def _begin(self, step: Step) -> list[str]:
        """Makes room for what the first step logs; returns the names of readings."""
        self._milestones = [name for name in step.log if is_success(name) and name != "success"]
        left_out = (*_NOT_READINGS, "success", *self._milestones)
        self._names = names = [name for name in step.log if name not in left_out]
        self._length = torch.zeros_like(step.reward)
        self._running = self._length.repeat(1 + len(names), 1)
        rows = len(self._running) + 2 + len(CAUSES) + len(self._milestones)
        self._results = self._length.new_zeros(rows, self.episodes, len(self._length))
        return names

    def complete(self) -> bool:
        """Returns whether every environment has had its episodes; waits for the device."""
        return bool((self._finished >= self.episodes).all())

    def result(self) -> Episodes:
        """The first episode of every environment, then the second of every one, and so on."""
        lengths, success, *others = self._results.flatten(1)
        causes, others = others[: len(CAUSES)], others[len(CAUSES) :]
        count = len(self._milestones)
        milestones, (returns, *sums) = others[:count], others[count:]
        readings = zip(self._names or (), (x / lengths for x in sums), strict=True)
        return Episodes(
            returns,
            lengths,
            success,
            dict(zip(self._milestones, milestones, strict=True)),
            dict(zip(CAUSES, causes, strict=True)),
            dict(readings),
        )


@torch.no_grad()
def play_episodes(env: VecEnv, act: Policy, episodes: int) -> Episodes:
    """Plays ``episodes`` full episodes in every environment with the actions of ``act``.

    Every environment counts equally often, so short episodes are not over-represented.

    Args:
        env: the environments, which are reset first.
        act: maps joint states (N, S) to joint actions (N, A).
        episodes: number of episodes in each environment.

    Raises:
        UserError: episodes are longer than the environments say, returns are not finite, or
            success is not 0 or 1.
    """
    scores = Scores(env, episodes)
    state = env.reset()
    pause = 1 if env.device.type == "cpu" else _PAUSE
    for k in range(1, episodes * env.max_episode_length + 1):
        step = env.step(act(state))
        scores.add(step)
        state = step.state
        if k % pause == 0 and scores.complete():
            break
    name = type(env).__name__
    if not scores.complete():
        raise UserError(
            f"Episodes of {name} go on after max_episode_length={env.max_episode_length} steps."
        )
    result = scores.result()
    if odd := int((~result.returns.isfinite()).sum()):
        raise UserError(f"{name} gave rewards that are not finite in {odd} episodes.")
    for key, reached in {"success": result.success, **result.milestones}.items():
        wrong = reached[(reached != 0.0) & (reached != 1.0)]
        if len(wrong):
            raise UserError(
                f"log['{key}'] of {name} must be 0 or 1 when an episode ends, not {wrong[0]:g}."
            )
    return result


@torch.no_grad()
def play_steps(env: VecEnv, act: Policy, steps: int, on_step: Callable[[Step], None]) -> None:
    """Plays ``steps`` steps from a reset on; ``on_step`` is called after each one."""
    state = env.reset()
    for _ in range(steps):
        step = env.step(act(state))
        on_step(step)
        state = step.state
