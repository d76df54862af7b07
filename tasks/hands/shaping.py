"""Shaping of the reward beyond the original's, and a curriculum of the goals; off by default."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from madpo_isaac.errors import UserError
from madpo_isaac.settings import check_fields, fraction, positive, setting, unit
from madpo_isaac.tasks.settings import as_group, size

_PREFIX = "task.shaping"


@dataclass
class ShapingConfig:
    """Terms that learners add to the task's reward; scores never contain them."""

    progress: float = setting(0.0, size)
    """Reward for each meter by which the task's distance falls below its smallest one in the
    episode so far."""
    action_rate: float = setting(0.0, size)
    """Penalty for the squared change of the joint action since the last step, summed over its
    columns; after a reset the last action is 0."""
    hold: float = setting(0.0, size)
    """Reward of a step in which the condition of success holds and the objects are at rest."""
    hold_speed: float = setting(0.1, positive)
    """Speed v0 in the factor exp(-(v / v0)^2) of ``hold``, m/s."""
    curriculum_start: float = setting(1.0, unit)
    """Share of the way from an object's start to its goal at which the goal lies at first; 1
    leaves it where the task has it."""
    curriculum_step: float = setting(0.05, fraction)
    """Change of this share after an episode: up after a success, down after a failure."""

    @classmethod
    def of(cls, settings: ShapingConfig | Mapping[str, Any]) -> ShapingConfig:
        """Returns ``settings`` after checking their values; a mapping becomes the object."""
        made = as_group(_PREFIX, cls, settings)
        for field in fields(cls):
            size(f"{_PREFIX}.{field.name}", getattr(made, field.name))
        check_fields(made, f"{_PREFIX}.")
        return made


class Aim(NamedTuple):
    """State of a task with regard to its success."""

    distance: Tensor
    """Meters still to go. (N,)"""
    points: Tensor
    """Positions of its objects, meters. (N, K, 3)"""


class Shaping:
    """Computes the shaped part of N environments' rewards and the level of their curriculum.

    Args:
        settings: checked settings.
        supported: names of the settings that the task supports.
        num_envs: N.
        step_dt: seconds per control step.
        device: where the tensors live.

    Raises:
        UserError: a setting is on that the task does not support.
    """

    def __init__(
        self,
        settings: ShapingConfig,
        supported: tuple[str, ...],
        num_envs: int,
        step_dt: float,
        device: torch.device,
    ) -> None:
        default = ShapingConfig()
        names = ("progress", "action_rate", "hold", "curriculum_start")
        chosen = [name for name in names if getattr(settings, name) != getattr(default, name)]
        for name in chosen:
            if name not in supported:
                raise UserError(
                    f"{_PREFIX}.{name}={getattr(settings, name)} does not work here: this task "
                    f"supports {', '.join(supported)}."
                )
        self.settings = settings
        self.adds = any(name in chosen for name in ("progress", "action_rate", "hold"))
        """True if rewards have a shaped part."""
        self._aims = "progress" in chosen or "hold" in chosen
        self._dt, self._device = step_dt, device
        self.level: Tensor | None = None
        """Share of the way to the goal, (N,); None without curriculum."""
        if "curriculum_start" in chosen:
            self.level = torch.full((num_envs,), settings.curriculum_start, device=device)
        # The smallest distance of the episode so far, and the points one step ago.
        self._before: Aim | None = None

    def restart(self, mask: Tensor, aim: Callable[[], Aim]) -> None:
        """Begins episodes in the rows of ``mask`` (N,) bool, which stand at their start."""
        if not self._aims:
            return
        now = aim()
        before = now if self._before is None else self._before
        self._before = Aim(
            torch.where(mask, now.distance, before.distance),
            torch.where(mask[:, None, None], now.points, before.points),
        )

    def reward(self, aim: Callable[[], Aim], success: Tensor, change: Tensor) -> Tensor:
        """Returns the shaped part of a step's rewards. (N,)

        Args:
            aim: returns the state that the step led to.
            success: the condition of success holds there. (N,) bool
            change: joint action minus that of the step before. (N, A)
        """
        cfg = self.settings
        total = change.square().sum(1).mul(-cfg.action_rate)
        if self._before is None:
            return total
        now, (best, points) = aim(), self._before
        total += cfg.progress * (best - now.distance).clamp(min=0.0)
        if cfg.hold:
            speed = torch.linalg.vector_norm(now.points - points, dim=-1).mean(1) / self._dt
            total += cfg.hold * success * torch.exp(-((speed / cfg.hold_speed) ** 2))
        self._before = Aim(torch.minimum(best, now.distance), now.points.clone())
        return total

    def advance(self, done: Tensor, success: Tensor) -> None:
        """Moves the level where episodes ended: up after a success, down after a failure.

        Args:
            done: the episode has ended. (N,) bool
            success: it was a success. (N,) bool
        """
        if self.level is None:
            return
        step, start = self.settings.curriculum_step, self.settings.curriculum_start
        moved = torch.where(success, self.level + step, self.level - step).clamp(start, 1.0)
        torch.where(done, moved, self.level, out=self.level)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns what the episodes under way and the curriculum have so far."""
        before = {} if self._before is None else self._before._asdict()
        level = {} if self.level is None else {"level": self.level}
        return {name: value.clone() for name, value in {**before, **level}.items()}

    def adopt(self, state: Mapping[str, Tensor]) -> bool:
        """Sets every level to the mean of those in other environments' :meth:`state_dict`.

        Returns:
            False if there is no level, here or there.
        """
        if self.level is None or "level" not in state:
            return False
        self.level.fill_(state["level"].mean())
        return True

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores :meth:`state_dict`."""
        if self._aims:
            values = (state[name].to(self._device, copy=True) for name in Aim._fields)
            self._before = Aim(*values)
        if self.level is not None:
            self.level.copy_(state["level"])
