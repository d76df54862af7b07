"""Base of the tasks with floating hands, which a force and a torque drive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.env import Command, Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.base import NUM_HANDS, HandTaskConfig, HandTaskEnv
from madpo_isaac.tasks.hands.hand import BASE_ROLES
from madpo_isaac.tasks.hands.scene import Drive
from madpo_isaac.tasks.rotations import quat_conjugate, quat_mul, quat_rotate, quat_to_rpy
from madpo_isaac.tasks.settings import size

_CONTROL_DT = 1.0 / 60.0


@dataclass
class FloatingConfig(HandTaskConfig):
    """Settings of every task with floating hands."""

    base_gain: float = setting(1.0 / 12.0, size)
    """Share of the nominal force and torque that moves a hand's base. Bi-DexHands' code has 1. In a
    substep of PhysX the effect is 1/6, or 1/12 if the force acts in one substep of two."""


class FloatingTaskEnv(HandTaskEnv):
    """Two hands in the air. A hand's actions: force (3) and torque (3) in world axes, joints (20).

    A hand observes 6 numbers of its base: a position (m), and the turn since the reset as roll,
    pitch and yaw about world axes, each within (-pi, pi].
    """

    floating = True
    transition_scale: float
    """Bi-DexHands' scale of the force: its unit is 1e5 / 60 N."""
    orientation_scale: float
    """Bi-DexHands' scale of the torque: its unit is 1e3 / 60 N m."""

    def __init__(self, config: FloatingConfig, num_envs: int, **kwargs: Any) -> None:
        self._gain = config.base_gain
        super().__init__(config, num_envs, **kwargs)
        turned = torch.tensor([p.quat for p in self.placements], device=self.device)
        self._unturn = quat_conjugate(turned).expand(num_envs, NUM_HANDS, 4)
        assert self.hand.base is not None
        mount = torch.tensor(self.hand.base.center_of_mass, device=self.device).neg()
        self._mount = mount.expand(num_envs, NUM_HANDS, 3)

    def drive(self) -> Drive:
        """Returns force and torque at full action."""
        unit = self._gain * _CONTROL_DT
        return Drive(unit * 1e5 * self.transition_scale, unit * 1e3 * self.orientation_scale)

    def base_position(self) -> Tensor:
        """Observed positions of the hands, meters: the centers of the palms. (N, 2, 3)"""
        return self.hand_sensors[..., -6:-3]

    def mount_position(self) -> Tensor:
        """Positions of the hands' mounts, meters. (N, 2, 3)"""
        return self.base_pose[..., :3] + quat_rotate(self.base_pose[..., 3:], self._mount)

    def palm_origin(self) -> Tensor:
        """Positions of the palms' bodies, meters. (N, 2, 3)"""
        return self.hand_sensors[..., -3:]

    def handles(self) -> Tensor:
        """Handle points of hand 0 and hand 1, world frame, meters. (N, 2, 3)

        By default the two points that the scenery's sensors read. Tasks without such sensors have
        no handles, or override this.
        """
        return self.object_sensors.unflatten(1, (2, 3))

    def observe_base(self, out: Tensor) -> None:
        """Writes position and turn of each hand's base into ``out`` (N, 2, 6)."""
        out[..., :3] = self.base_position()
        out[..., 3:] = quat_to_rpy(quat_mul(self.base_pose[..., 3:], self._unturn))

    def base_readings(self, index: int) -> list[Reading]:
        """Returns the columns of the base of hand ``index``."""
        return readings.of_base(index)

    def hand_commands(self, index: int) -> list[Command]:
        """Returns the commands of hand ``index``: force, torque, joint targets."""
        return readings.of_drive(index, self.drive()) + super().hand_commands(index)

    def _write_controls(self, action: Tensor) -> None:
        """Maps actions to the base's force and torque, and to the joints' targets."""
        super()._write_controls(action)
        self._base_control.copy_(self.split_hands(action)[..., : len(BASE_ROLES)])
