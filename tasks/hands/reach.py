"""Base of the tasks in which each hand reaches for a handle: doors, pen and blocks."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands.base import Outcome
from madpo_isaac.tasks.hands.floating import FloatingConfig, FloatingTaskEnv
from madpo_isaac.tasks.hands.scene import Placement
from madpo_isaac.tasks.hands.shaping import Aim
from madpo_isaac.tasks.settings import size

ABOVE_TABLE = (
    Placement.euler((0.55, 0.2, 0.8), 3.14159, 0.0, 1.57),
    Placement.euler((0.55, -0.2, 0.8), 3.14159, 0.0, 1.57),
)
"""Places of hands side by side that point to -x, palms down."""


@dataclass
class ReachConfig(FloatingConfig):
    """Settings of every task with handles.

    A finger distance is the sum, over the five fingers of a hand, of the meters between fingertip
    and handle.
    """

    reset_dof_pos_noise: float = setting(0.0, size)
    near_distance: float = setting(0.5, size)
    """Finger distance below which a hand is near its handle, as most tasks' bonus needs."""
    max_finger_distance: float = setting(1.5, size)
    """Finger distance at which the episode terminates."""


class ReachTask(FloatingTaskEnv):
    """Each hand has a handle; every reset is the same, but for ``reset_dof_pos_noise``."""

    config: ReachConfig
    shapes = ("progress", "action_rate", "hold")

    @abstractmethod
    def score(
        self, handles: Tensor, fingers: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Returns reward (N,), success (N,) bool and readings to log, each (N,).

        Args:
            handles: see :meth:`handles`. (N, 2, 3)
            fingers: finger distances. (N, 2)
            near: both are below ``near_distance``. (N,) bool
        """

    @abstractmethod
    def remaining(self, handles: Tensor) -> Tensor:
        """Returns the meters that handles (N, 2, 3) still have to go to success. (N,)"""

    def aim(self) -> Aim:
        """Returns what remains, and the handles."""
        handles = self.handles()
        return Aim(self.remaining(handles), handles)

    def evaluate(self) -> Outcome:
        """Scores the state; terminates where a hand is too far from its handle."""
        handles = self.handles()
        fingers = self.finger_distances(handles)
        near = (fingers < self.config.near_distance).all(1)
        reward, success, terms = self.score(handles, fingers, near)
        terms |= {
            "right_finger_distance": fingers[:, 0],
            "left_finger_distance": fingers[:, 1],
            "near_handles": near.float(),
        }
        terminated = (fingers >= self.config.max_finger_distance).any(1)
        return Outcome(reward, terminated, success, terms)

    def finger_distances(self, points: Tensor) -> Tensor:
        """Finger distances of each hand to its point, meters.

        Args:
            points: world position for each hand. (N, 2, 3)

        Returns:
            (N, 2)
        """
        reach = self.fingertips() - points[:, :, None]
        return torch.linalg.vector_norm(reach, dim=-1).sum(-1)
