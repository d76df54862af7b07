"""ShadowHandCatch*: one floating hand throws an egg to the other, which floats too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands.floating import FloatingConfig, FloatingTaskEnv
from madpo_isaac.tasks.hands.goal_task import GoalConfig, GoalTask
from madpo_isaac.tasks.hands.objects import Vector, egg_at
from madpo_isaac.tasks.hands.scene import Placement
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.settings import size


@dataclass
class CatchConfig(GoalConfig, FloatingConfig):
    """Settings of every catching task."""


@dataclass
class UnderarmConfig(CatchConfig):
    """Settings of ShadowHandCatchUnderarm."""

    fall_height: float = 0.1


@dataclass
class LeashedConfig(CatchConfig):
    """Settings of a catching task whose hands have to stay in their place."""

    reset_dof_pos_noise: float = setting(0.0, size)
    reset_object_pos_noise: float = setting(0.0, size)
    max_hand_offset: float = setting(0.1, size)
    """Meters between a hand and its place at which the episode terminates."""


@dataclass
class Over2UnderarmConfig(LeashedConfig):
    """Settings of ShadowHandCatchOver2Underarm."""

    dist_reward_scale: float = setting(20.0, size)
    fall_height: float = 0.3


@dataclass
class AbreastConfig(LeashedConfig):
    """Settings of ShadowHandCatchAbreast."""

    episode_length: int = 150


class Catch(GoalTask, FloatingTaskEnv):
    """Throw and catch with hands that move. Their mounts' positions are observed."""

    def base_position(self) -> Tensor:
        """Positions of the hands' mounts, meters. (N, 2, 3)"""
        return self.mount_position()


class Underarm(Catch):
    """Palms up, facing, 0.4 m to throw."""

    placements = (
        Placement.euler((0.0, 0.0, 0.5), 0.0, 0.0, 0.0),
        Placement.euler((0.0, -1.15, 0.5), 0.0, 0.0, 3.1415),
    )
    solids = (egg_at((0.0, -0.39, 0.54)),)
    goals = ((0.0, -0.79, 0.54),)
    transition_scale = 0.05
    orientation_scale = 0.5
    view = View(lookat=(0.0, -0.57, 0.47), distance=1.2, azimuth=30.0, elevation=-35.0)


class Leashed(Catch):
    """A catching task that ends when a hand strays from its place."""

    places: tuple[Vector, Vector]

    def __init__(self, config: LeashedConfig, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        self._max_offset = config.max_hand_offset
        self._places = torch.tensor(self.places, device=self.device)

    def hand_left(self) -> Tensor:
        """Returns the rows in which a hand is too far from its place. (N,) bool"""
        offset = torch.linalg.vector_norm(self.kept_point() - self._places, dim=-1)
        return (offset >= self._max_offset).any(dim=1)

    def kept_point(self) -> Tensor:
        """Points that must stay close to their places. (N, 2, 3)"""
        return self.mount_position()


class Over2Underarm(Leashed):
    """The first hand is upright and holds the egg on its fingertips, the second is palm up."""

    placements = (
        Placement.euler((0.0, 0.0, 0.5), 1.67, 3.14, 0.0),
        Placement.euler((0.0, -0.8, 0.5), 0.0, 0.0, 3.1415),
    )
    places = ((0.0, 0.0, 0.5), (0.0, -0.8, 0.5))
    solids = (egg_at((0.0, 0.05, 1.0)),)
    goals = ((0.0, -0.4, 0.55),)
    transition_scale = 0.1
    orientation_scale = 2.0
    view = View(lookat=(0.0, -0.35, 0.66), distance=1.4, azimuth=25.0, elevation=-20.0)


class Abreast(Leashed):
    """Side by side, palms tilted to each other, 0.6 m to throw; the palms must stay in place."""

    placements = (
        Placement.euler((0.0, -0.55, 0.5), 0.0, 0.3925, -1.57),
        Placement.euler((0.0, -1.15, 0.5), 0.0, -0.3925, -1.57),
    )
    places = ((-0.3, -0.55, 0.5), (-0.3, -1.15, 0.5))
    solids = (egg_at((-0.39, -0.55, 0.54)),)
    goals = ((-0.39, -1.15, 0.54),)
    transition_scale = 0.5
    orientation_scale = 1.0
    view = View(lookat=(-0.25, -0.85, 0.47), distance=1.3, azimuth=35.0, elevation=-40.0)

    def kept_point(self) -> Tensor:
        """Points that must stay close to their places: the palms' bodies. (N, 2, 3)"""
        return self.palm_origin()


TASKS = {
    "ShadowHandCatchUnderarm": (UnderarmConfig, Underarm),
    "ShadowHandCatchOver2Underarm": (Over2UnderarmConfig, Over2Underarm),
    "ShadowHandCatchAbreast": (AbreastConfig, Abreast),
}
