"""ShadowHandReOrientation: each of two fixed hands turns a cube to a goal, then to the next one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from madpo_isaac.errors import UserError
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands.base import Outcome
from madpo_isaac.tasks.hands.blocks import CUBE_DENSITY, CUBE_SIDE
from madpo_isaac.tasks.hands.goal_task import GoalConfig, GoalTask, random_turn
from madpo_isaac.tasks.hands.objects import SECOND, Solid, Vector
from madpo_isaac.tasks.hands.scene import Placement
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.settings import size


def _unused(key: str, value: float) -> None:
    """The rule of a setting of other tasks that has no effect on this one."""
    if value != GoalConfig.success_distance:
        raise UserError(f"{key}={value} has no effect here: task.success_angle is the condition.")


@dataclass
class Config(GoalConfig):
    """Settings of ShadowHandReOrientation; the numbers are Bi-DexHands'."""

    episode_length: int = 600
    dist_reward_scale: float = setting(10.0, size)
    """Weight of the cubes' distances to their places in the reward, per meter."""
    success_distance: float = setting(GoalConfig.success_distance, _unused)
    """Without effect: ``success_angle`` is the condition of success."""
    success_angle: float = setting(0.1, size)
    """Radians between cube and goal below which the goal is reached."""
    both_cubes: bool = False
    """A goal counts when both cubes have reached it; otherwise one is enough."""
    reach_goal_bonus: float = 500.0
    """Reward for a goal."""
    action_penalty: float = 2e-4
    """Weight of the sum of squared actions."""


def _cube(pos: Vector, **settings: Any) -> Solid:
    half, mass = CUBE_SIDE / 2, CUBE_DENSITY * CUBE_SIDE**3
    return Solid((half, half, half), mass, pos, kind=mujoco.mjtGeom.mjGEOM_BOX, **settings)


class Env(GoalTask):
    """Palms up, a cube above each; a step after a goal is reached both hands get a new one."""

    shapes = ("action_rate",)  # goals change within an episode
    placements = (
        Placement((0.0, 0.0, 0.5), (1.0, 0.0, 0.0, 0.0)),
        Placement((0.0, -1.15, 0.5), (0.0, 0.0, 0.0, 1.0)),
    )
    solids = (_cube((0.0, -0.39, 0.6)), _cube((0.0, -0.76, 0.6), **SECOND))
    goals = ((0.0, -0.39, 0.56), (0.0, -0.76, 0.56))
    view = View(lookat=(0.0, -0.57, 0.5), distance=1.1, azimuth=30.0, elevation=-38.0)

    def __init__(self, config: Config, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        self._scoring = config
        self.reached = torch.zeros(num_envs, dtype=torch.bool, device=self.device)

    def _write_controls(self, action: Tensor) -> None:
        """Draws new goals where they were reached in the step before, then moves the hands."""
        turn = random_turn(self.uniform(2 * len(self.solids)).unflatten(1, (-1, 2)))
        self.write_rows(self.goal_quats, self.reached, turn)
        super()._write_controls(action)

    def reset_object(self, mask: Tensor) -> None:
        """Puts cubes above hands, turned at random; draws goals."""
        super().reset_object(mask)
        self.reached.masked_fill_(mask, False)

    def evaluate(self) -> Outcome:
        """Reward -10 sum d + sum 1 / (|theta| + 0.1) - penalty * |a|^2 + bonus at a goal."""
        cfg, pos = self._scoring, self.object_poses[..., :3]
        distance = self.goal_distances().sum(1)
        angles = self.goal_angles()
        there = angles < cfg.success_angle
        reached = there.all(1) if cfg.both_cubes else there.any(1)
        self.reached.copy_(reached)
        reward = (1.0 / (angles + 0.1)).sum(1) - cfg.dist_reward_scale * distance
        reward -= cfg.action_penalty * self.last_action.square().sum(1)
        return Outcome(
            reward=reward + cfg.reach_goal_bonus * reached,
            terminated=(pos[..., 2] <= cfg.fall_height).any(1),
            success=reached,
            terms={"goal_distance": distance / 2.0, "goal_angle": angles.mean(1)},
        )

    def _episode_tensors(self) -> tuple[str, ...]:
        return (*super()._episode_tensors(), "reached")
