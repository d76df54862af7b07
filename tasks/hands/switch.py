"""ShadowHandSwitch: each of two hands presses a switch on a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.env import Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.reach import ABOVE_TABLE, ReachConfig, ReachTask
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.hands.switches import RELEASED, ROCKERS, Switches
from madpo_isaac.tasks.settings import size


@dataclass
class Config(ReachConfig):
    """Settings of ShadowHandSwitch."""

    episode_length: int = 125
    max_finger_distance: float = setting(1e9, size)
    """Finger distance at which the episode terminates; in Bi-DexHands none does."""
    success_drop: float = 0.012
    """Depth of both points to press below 0.7 m, in sum, for a success, meters. Bi-DexHands' 0.05
    is beyond the rockers' stops at 0.0166; one pressed rocker gives 0.006."""


class Env(ReachTask):
    """Hand 0 presses the switch at +y, hand 1 the other; released, their own weight lifts them.

    The tail of the joint state: pose of the right switch xyzw (7), six zeros (its velocities),
    the points to press of the right (3) and of the left switch (3); world frame.
    """

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]
    tail_dim = 19
    objects = ROCKERS
    transition_scale = 0.5
    orientation_scale = 0.1
    placements = ABOVE_TABLE
    view = View(lookat=(0.15, 0.0, 0.68), distance=1.2, azimuth=30.0, elevation=-40.0)
    places = ((0.0, 0.2, 0.65), (0.0, -0.2, 0.65))
    quat = (0.7074, 0.0, -0.7068, 0.0)
    """Orientation of a switch as Bi-DexHands observes it, xyzw."""

    def __init__(self, config: Config, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        first = self.sim.model.joint(f"{ROCKERS[0]}_hinge").qposadr[0]
        self._angles = self.sim.qpos[:, first : first + 2]
        frame = (*self.places[0], *self.quat, *6 * (0.0,))
        self._frame = torch.tensor(frame, device=self.device)

    def scenery(self) -> Switches:
        """Returns the switches on their table."""
        return Switches(self.places)

    def reset_object(self, mask: Tensor) -> None:
        """Releases the rockers."""
        self.write_rows(self._angles, mask, torch.full_like(self._angles, RELEASED))

    def observe_tail(self, out: Tensor) -> None:
        """Writes the right switch and the points to press into ``out`` (N, 19)."""
        out[:, :13] = self._frame
        out[:, 13:] = self.object_sensors

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail."""
        frame = readings.of_pose("right_switch") + readings.constant("zero", 6)
        return frame + readings.of_points("right_handle", "left_handle")

    @staticmethod
    def _drop(handles: Tensor) -> Tensor:
        return 1.4 - handles[..., 2].sum(1)

    def remaining(self, handles: Tensor) -> Tensor:
        """Returns how much deeper the points have to be pressed in sum, meters. (N,)"""
        return self.config.success_drop - self._drop(handles)

    def score(
        self, handles: Tensor, fingers: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reward: 2 - both finger distances + 50 (1.4 - the heights of the points to press)."""
        drop = self._drop(handles)
        reward = 2.0 - fingers.sum(1) + 50.0 * drop
        return reward, drop > self.config.success_drop, {"drop": drop}
