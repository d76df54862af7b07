"""Base of the tasks that bring objects to goal poses: the objects, their goals and the reward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from madpo_isaac.env import Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.base import HandTaskConfig, HandTaskEnv, Outcome
from madpo_isaac.tasks.hands.objects import OBJECT, Solid, Solids, Vector
from madpo_isaac.tasks.hands.shaping import Aim
from madpo_isaac.tasks.rotations import (
    quat_about_x_then_y,
    quat_conjugate,
    quat_mul,
    wxyz_to_xyzw,
)
from madpo_isaac.tasks.settings import size

NEAR = 0.1
"""Meters between egg and goal below which an episode counts in ``success_10cm``, the condition of
Isaac Lab's handover task."""


@dataclass
class GoalConfig(HandTaskConfig):
    """Settings of every task with goal poses; the numbers are Bi-DexHands'."""

    reset_object_pos_noise: float = setting(0.01, size)
    """Half-width of the object's start position noise, meters."""
    dist_reward_scale: float = setting(50.0, size)
    """Weight of the distance in the reward, per meter."""
    success_distance: float = setting(0.03, size)
    """Meters between object and goal (their mean if there are two) below which the episode counts
    as a success."""
    fall_height: float = 0.2
    """Height of the object, meters, at or below which the episode terminates."""


class GoalTask(HandTaskEnv):
    """Bring E objects to goal poses, one each; usually E is 1.

    The tail of the joint state, for each object: position and quaternion xyzw (7), linear velocity
    (3), angular velocity x 0.2 (3), goal pose (7), rotation from goal to object (4); world frame.
    """

    config: GoalConfig
    shapes = ("progress", "action_rate", "hold", "curriculum_start")
    solids: tuple[Solid, ...]
    goals: tuple[Vector, ...]
    """World positions to throw to, meters."""
    goal_quats: Tensor
    """Orientations of the goals, wxyz. (N, E, 4)"""

    def __init__(self, config: GoalConfig, num_envs: int, **kwargs: Any) -> None:
        count = len(self.solids)
        self.tail_dim = 24 * count
        self.objects = tuple(solid.name for solid in self.solids)
        super().__init__(config, num_envs, **kwargs)
        self.object_poses, self.object_vels = self.free_bodies(self.solids[0].name, count)
        self._start = torch.tensor([solid.pos for solid in self.solids], device=self.device)
        self._goals = torch.tensor(self.goals, device=self.device)
        self.goal_positions = self._goals.repeat(num_envs, 1, 1)
        self.goal_quats = torch.zeros(num_envs, count, 4, device=self.device)
        self.came_near = torch.zeros(num_envs, dtype=torch.bool, device=self.device)

    def scenery(self) -> Solids:
        """Returns the objects."""
        return Solids(self.solids, goals=True)

    def pose(self, data: mujoco.MjData, index: int) -> None:
        """Puts ``data`` of the visual scene into the state of environment ``index``."""
        super().pose(data, index)
        data.mocap_pos[:] = self.goal_positions[index].cpu().numpy()
        data.mocap_quat[:] = self.goal_quats[index].cpu().numpy()

    def reset_object(self, mask: Tensor) -> None:
        """Puts objects above hands; objects and goals are turned about x, then y, at random."""
        draw = self.uniform(7 * len(self.solids)).unflatten(1, (-1, 7))
        pos = self._start + self.config.reset_object_pos_noise * draw[..., :3]
        quat = random_turn(draw[..., 3:5])
        self.write_rows(self.object_poses, mask, torch.cat((pos, quat), dim=-1))
        self.write_rows(self.goal_quats, mask, random_turn(draw[..., 5:]))
        if self.shaping.level is not None:
            share = self.shaping.level[:, None, None]
            self.write_rows(self.goal_positions, mask, torch.lerp(self._start, self._goals, share))
        self.came_near.masked_fill_(mask, False)

    def _rotation_to_goal(self) -> Tensor:
        """Eggs' orientations relative to their goals', q_egg * conj(q_goal). (N, E, 4) wxyz"""
        return quat_mul(self.object_poses[..., 3:], quat_conjugate(self.goal_quats))

    def goal_distances(self) -> Tensor:
        """Distances between objects and goals, meters. (N, E)"""
        return torch.linalg.vector_norm(self.object_poses[..., :3] - self.goal_positions, dim=-1)

    def aim(self) -> Aim:
        """Returns the mean distance of the objects to their goals, and the objects' positions."""
        return Aim(self.goal_distances().mean(1), self.object_poses[..., :3])

    def goal_angles(self) -> Tensor:
        """Angles between objects and goals, radians in [0, pi]. (N, E)"""
        sine = torch.linalg.vector_norm(self._rotation_to_goal()[..., 1:], dim=-1)
        return 2.0 * torch.asin(sine.clamp(max=1.0))

    def observe_tail(self, out: Tensor) -> None:
        """Writes object, goal and the rotation between them into ``out`` (N, 24 E)."""
        tail = out.unflatten(1, (-1, 24))
        self.observe_free(self.object_poses, self.object_vels, tail[..., :13])
        tail[..., 13:16] = self.goal_positions
        tail[..., 16:20] = wxyz_to_xyzw(self.goal_quats)
        tail[..., 20:24] = wxyz_to_xyzw(self._rotation_to_goal())

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail."""
        found = []
        for solid in self.solids:
            goal = solid.name.replace(OBJECT, "goal")
            found += self.free_readings(solid.name) + readings.of_pose(goal)
            found += readings.of_quaternion(f"{goal}_to_{solid.name}")
        return found

    def evaluate(self) -> Outcome:
        """Reward exp(-0.2 (scale d + theta)) summed over objects, d in meters, theta in radians."""
        cfg, pos = self.config, self.object_poses[..., :3]
        distance = self.goal_distances()
        angle = self.goal_angles()
        reward = torch.exp(-0.2 * (cfg.dist_reward_scale * distance + angle))
        mean_distance = distance.mean(1)
        self.came_near |= mean_distance < NEAR
        return Outcome(
            reward=reward.sum(1),
            terminated=(pos[..., 2] <= cfg.fall_height).any(1) | self.hand_left(),
            success=mean_distance < cfg.success_distance,
            terms={
                "success_10cm": self.came_near.float(),
                "goal_distance": mean_distance,
                "goal_angle": angle.mean(1),
            },
        )

    def hand_left(self) -> Tensor:
        """Returns the rows in which a hand is too far from its place: never. (N,) bool"""
        return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def _episode_tensors(self) -> tuple[str, ...]:
        moving = () if self.shaping.level is None else ("goal_positions",)
        return (*super()._episode_tensors(), "goal_quats", "came_near", *moving)


def random_turn(draw: Tensor) -> Tensor:
    """Turns about x, then y, by pi times ``draw`` (..., 2). (..., 4) wxyz"""
    return quat_about_x_then_y(*(math.pi * draw).unbind(-1))
