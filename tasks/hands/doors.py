"""ShadowHandDoor*: two hands open or close a double door by its handles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.env import Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.double_door import HANDLE_RADIUS, OPEN_ANGLE, DoubleDoor
from madpo_isaac.tasks.hands.reach import ReachConfig, ReachTask
from madpo_isaac.tasks.hands.scene import Placement
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.settings import size


@dataclass
class DoorConfig(ReachConfig):
    """Settings of every door task; the numbers are Bi-DexHands'."""

    episode_length: int = 250
    spring: float = setting(0.0, size)
    """Stiffness of the hinges toward their initial angle, N m/rad. Bi-DexHands sets 5 in a drive
    mode that is documented as inactive."""
    success_gap: float = setting(0.5, size)
    """Distance of the handles along the wall, meters, that divides open from closed."""
    reward_offset: float = 2.0
    """Reward per step before distances are taken off."""


@dataclass
class CloseConfig(DoorConfig):
    """Settings of ShadowHandDoorCloseInward."""

    clip_near_bonus: bool = False
    """Reward near hands with max(0, 1 - 2 gap), which is no barrier around the handles of an open
    door; Bi-DexHands' 1 - 2 gap is negative there."""


@dataclass
class CloseOutwardConfig(CloseConfig):
    """Settings of ShadowHandDoorCloseOutward."""

    max_finger_distance: float = setting(3.0, size)
    reward_offset: float = 6.0


class DoorTask(ReachTask):
    """Open a door: hand 0 goes for the handle at +y, hand 1 for the other.

    The tail of the joint state: pose of the door's frame xyzw (7), six zeros (its velocities),
    the handle at -y (3), the handle at +y (3); world frame, meters. The door's angle is not
    observed.
    """

    tail_dim = 19
    objects = ("door",)
    transition_scale = 0.5
    orientation_scale = 0.5
    view = View(lookat=(0.25, 0.0, 0.64), distance=1.9, azimuth=145.0, elevation=-28.0)
    rest = 0.0
    """The angle the leaves start with, radians."""

    def __init__(
        self,
        config: DoorConfig,
        num_envs: int,
        *,
        inward: bool,
        place: tuple[float, float] = (0.55, 0.2),
        **kwargs: Any,
    ) -> None:
        (x, y), roll, yaw = place, 3.14159, 1.57
        self.placements = (  # hands point to -x, palms face each other, one thumb is down
            Placement.euler((x, y, 0.6), roll, 1.57, yaw),
            Placement.euler((x, -y, 0.6), roll, -1.57, yaw),
        )
        self._door = DoubleDoor(inward, config.spring, self.rest)
        super().__init__(config, num_envs, **kwargs)
        self._offset, self._limit = config.reward_offset, config.success_gap
        w, *xyz = self._door.quat
        self._frame = torch.tensor((*self._door.pos, *xyz, w, *6 * (0.0,)), device=self.device)
        first = self.sim.model.joint(self._door.hinges[0]).qposadr[0]
        self._angles = self.sim.qpos[:, first : first + 2]

    def scenery(self) -> DoubleDoor:
        """Returns the door."""
        return self._door

    def reset_object(self, mask: Tensor) -> None:
        """Puts the leaves at rest; their velocity is zero."""
        self.write_rows(self._angles, mask, torch.full_like(self._angles, self.rest))

    def observe_tail(self, out: Tensor) -> None:
        """Writes the door's pose and its handles into ``out`` (N, 19)."""
        out[:, :13] = self._frame
        out[:, 13:] = self.handles().flip(1).flatten(1)

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail."""
        frame = readings.of_pose("door_frame") + readings.constant("zero", 6)
        return frame + readings.of_points("left_handle", "right_handle")

    def remaining(self, handles: Tensor) -> Tensor:
        """Returns the arc of the handles to the other end of the hinges, their mean, meters. (N,)

        The gap itself would be a poor guide: it hardly changes where a closed leaf begins to open.
        """
        del handles
        end = 0.0 if self.rest else OPEN_ANGLE
        return HANDLE_RADIUS * (self._angles - end).abs().mean(1)

    def _bonus(self, gap: Tensor) -> Tensor:
        return 2.0 * gap

    def score(
        self, handles: Tensor, fingers: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reward: offset - both finger distances + near * bonus for the gap of the handles."""
        gap = (handles[:, 0, 1] - handles[:, 1, 1]).abs()
        reward = self._offset - fingers.sum(1) + near * self._bonus(gap)
        return reward, gap < self._limit if self.rest else gap > self._limit, {"door_gap": gap}


class CloseTask(DoorTask):
    """Close it: the leaves stand open."""

    rest = OPEN_ANGLE

    def __init__(self, config: CloseConfig, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        self._lowest_bonus = 0.0 if config.clip_near_bonus else -math.inf

    def _bonus(self, gap: Tensor) -> Tensor:
        return (1.0 - 2.0 * gap).clamp(min=self._lowest_bonus)


TASKS: dict[str, tuple[type[DoorConfig], partial[DoorTask]]] = {
    "ShadowHandDoorOpenInward": (DoorConfig, partial(DoorTask, inward=True)),
    "ShadowHandDoorOpenOutward": (DoorConfig, partial(DoorTask, inward=False)),
    "ShadowHandDoorCloseInward": (CloseConfig, partial(CloseTask, inward=True, place=(0.9, 0.5))),
    "ShadowHandDoorCloseOutward": (CloseOutwardConfig, partial(CloseTask, inward=False)),
}
"""Inward leaves open toward the hands. ``place`` is x and y of the first hand, meters."""
