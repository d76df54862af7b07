"""ShadowHandLiftUnderarm: two hands lift a heavy pot from a table by its handles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.env import Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.base import Outcome
from madpo_isaac.tasks.hands.floating import FloatingConfig, FloatingTaskEnv
from madpo_isaac.tasks.hands.objects import OBJECT
from madpo_isaac.tasks.hands.pot import Pot
from madpo_isaac.tasks.hands.scene import Placement
from madpo_isaac.tasks.hands.shaping import Aim
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.settings import size


@dataclass
class Config(FloatingConfig):
    """Settings of ShadowHandLiftUnderarm; but for ``base_gain`` the numbers are Bi-DexHands'."""

    episode_length: int = 500
    reset_dof_pos_noise: float = setting(0.0, size)
    base_gain: float = setting(1.0 / 6.0, size)
    """Factor of force and torque on the base; with the usual twelfth the pot rises too slowly."""
    near_distance: float = setting(0.08, size)
    """Meters between palm and handle below which a hand is near; lifting pays if both are."""
    max_palm_distance: float = setting(0.2, size)
    """Meters between palm and handle at which the episode terminates."""
    fall_height: float = 0.3
    """Height of the pot, meters, at or below which the episode terminates."""
    success_distance: float = setting(0.05, size)
    """Meters between pot and goal below which the episode counts as a success."""


class Env(FloatingTaskEnv):
    """Hand 0 goes for the handle at +y, hand 1 for the other, palms up; every reset is the same.

    The tail of the joint state: the pot's pose xyzw (7), linear velocity (3), angular velocity x
    0.2 (3), the handle at +y (3) and the one at -y (3); world frame.
    """

    config: Config
    tail_dim = 19
    shapes = ("progress", "action_rate", "hold")
    transition_scale = 0.25
    orientation_scale = 1.0
    placements = (
        Placement.euler((0.0, 0.05, 0.45), 0.0, 0.0, 0.0),
        Placement.euler((0.0, -1.25, 0.45), 0.0, 0.0, 3.14159),
    )
    view = View(lookat=(0.0, -0.6, 0.5), distance=1.45, azimuth=30.0, elevation=-28.0)
    start = (0.0, -0.6, 0.4652)
    goal = (0.0, -0.6, 0.85)

    def __init__(self, config: Config, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        poses, velocities = self.free_bodies(OBJECT)
        self._pose, self._vel = poses[:, 0], velocities[:, 0]
        self._goal = torch.tensor(self.goal, device=self.device)

    def scenery(self) -> Pot:
        """Returns the pot on its table."""
        return Pot(self.start, self.goal)

    def observe_tail(self, out: Tensor) -> None:
        """Writes the pot and its handle points into ``out`` (N, 19)."""
        self.observe_free(self._pose, self._vel, out[:, :13])
        out[:, 13:] = self.object_sensors

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail."""
        points = readings.of_points("right_handle", "left_handle")
        return self.free_readings(OBJECT) + points

    def aim(self) -> Aim:
        """Returns the pot's distance to its goal, and the pot's position."""
        pos = self._pose[:, :3]
        return Aim(torch.linalg.vector_norm(pos - self._goal, dim=-1), pos[:, None])

    def evaluate(self) -> Outcome:
        """Reward: 0.2 - the palms' distances to their handles + near * 3 (0.385 - the goal's)."""
        rules, pos = self.config, self._pose[:, :3]
        distance = self.aim().distance
        palms = torch.linalg.vector_norm(self.base_position() - self.handles(), dim=-1)
        near = (palms < rules.near_distance).all(1)
        far = (palms >= rules.max_palm_distance).any(1)
        return Outcome(
            reward=0.2 - palms.sum(1) + near * 3.0 * (0.385 - distance),
            terminated=far | (pos[:, 2] <= rules.fall_height),
            success=distance < rules.success_distance,
            terms={
                "goal_distance": distance,
                "right_palm_distance": palms[:, 0],
                "left_palm_distance": palms[:, 1],
                "near_handles": near.float(),
            },
        )
