"""ShadowHandOver: one hand throws an egg to the other, palms up, 0.25 m away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from madpo_isaac.env import Reading
from tasks.hands import readings
from tasks.hands.base import HandTaskConfig, HandTaskEnv, Outcome
from tasks.hands.scene import EGG_MASS, Ellipsoid, Placement, View, build_spec
from tasks.rotations import (
    quat_about_x_then_y,
    quat_conjugate,
    quat_mul,
    quat_rotate,
    wxyz_to_xyzw,
)

PLACEMENTS = (
    Placement((0.0, 0.0, 0.5), (1.0, 0.0, 0.0, 0.0)),
    Placement((0.0, -1.0, 0.5), (0.0, 0.0, 0.0, 1.0)),
)
EGG = Ellipsoid(semi_axes=(0.03, 0.03, 0.04), mass=EGG_MASS, pos=(0.0, -0.39, 0.54))
GOAL_POS = (0.0, -0.64, 0.54)


@dataclass
class Config(HandTaskConfig):
    """Settings of ShadowHandOver; the numbers are Bi-DexHands'."""

    reset_object_pos_noise: float = 0.01
    """Half-width of the egg's start position noise, metres."""
    dist_reward_scale: float = 50.0
    """Weight of the distance in the reward, per metre."""
    success_distance: float = 0.03
    """Metres between egg and goal below which the episode counts as a success."""
    fall_height: float = 0.2
    """Height of the egg, metres, at or below which the episode terminates."""


class Env(HandTaskEnv):
    """Throw an egg over; terms of the reward are the egg's distance and angle to the goal.

    The tail of the joint state: egg position and quaternion xyzw (7), linear velocity (3),
    angular velocity x 0.2 (3), goal pose (7), rotation from goal to egg (4); world frame.
    """

    tail_dim = 24
    view = View(lookat=(0.0, -0.5, 0.47), distance=0.95, azimuth=30.0, elevation=-38.0)
    config: Config

    def __init__(self, config: Config, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        joint = self.sim.model.joint("object_free")
        self._obj_qpos = slice(joint.qposadr[0], joint.qposadr[0] + 7)
        self._obj_dof = slice(joint.dofadr[0], joint.dofadr[0] + 6)
        self._start = torch.tensor(EGG.pos, device=self.device)
        self.goal_pos = torch.tensor(GOAL_POS, device=self.device).repeat(num_envs, 1)
        self.goal_quat = torch.zeros(num_envs, 4, device=self.device)

    def scene(self, *, visual: bool) -> mujoco.MjSpec:
        """Returns two hands, palms up and fingertips 3 cm apart, and the egg above the first."""
        return build_spec(PLACEMENTS, EGG, visual=visual)

    def reset_object(self, mask: Tensor) -> None:
        """Puts the egg above hand 0; egg and goal are turned about x, then y, at random."""
        draw = self.uniform(7)
        pos = self._start + self.config.reset_object_pos_noise * draw[:, :3]
        angles = math.pi * draw[:, 3:]
        quat = quat_about_x_then_y(angles[:, 0], angles[:, 1])
        self.write_rows(self.sim.qpos[:, self._obj_qpos], mask, torch.cat((pos, quat), dim=1))
        self.write_rows(self.goal_quat, mask, quat_about_x_then_y(angles[:, 2], angles[:, 3]))

    def _rotation_to_goal(self) -> Tensor:
        """Object orientation relative to the goal's, q_obj * conj(q_goal). (N, 4) wxyz"""
        quat = self.sim.qpos[:, self._obj_qpos][:, 3:]
        return quat_mul(quat, quat_conjugate(self.goal_quat))

    def observe_tail(self, out: Tensor) -> None:
        """Writes egg, goal and the rotation between them into ``out`` (N, 24)."""
        pose, vel = self.sim.qpos[:, self._obj_qpos], self.sim.qvel[:, self._obj_dof]
        out[:, 0:3] = pose[:, :3]
        out[:, 3:7] = wxyz_to_xyzw(pose[:, 3:])
        out[:, 7:10] = vel[:, :3]
        # MuJoCo keeps a free joint's angular velocity in the body frame.
        out[:, 10:13] = 0.2 * quat_rotate(pose[:, 3:], vel[:, 3:])
        out[:, 13:16] = self.goal_pos
        out[:, 16:20] = wxyz_to_xyzw(self.goal_quat)
        out[:, 20:24] = wxyz_to_xyzw(self._rotation_to_goal())

    def tail_readings(self) -> list[Reading]:
        """Returns what the columns of the tail mean."""
        egg = readings.of_free_body("object", angular=0.2)
        turned = [Reading(f"goal_to_object/{part}", "", "world") for part in readings.QUATERNION]
        return [*egg, *readings.of_pose("goal"), *turned]

    def evaluate(self) -> Outcome:
        """Reward exp(-0.2 (scale d + theta)), d in metres, theta in radians."""
        cfg = self.config
        pos = self.sim.qpos[:, self._obj_qpos][:, :3]
        distance = torch.linalg.vector_norm(pos - self.goal_pos, dim=1)
        sine = torch.linalg.vector_norm(self._rotation_to_goal()[:, 1:], dim=1)
        angle = 2.0 * torch.asin(sine.clamp(max=1.0))
        reward = torch.exp(-0.2 * (cfg.dist_reward_scale * distance + angle))
        return Outcome(
            reward=reward,
            terminated=pos[:, 2] <= cfg.fall_height,
            success=distance < cfg.success_distance,
            terms={"goal_distance": distance, "goal_angle": angle},
        )

    def _episode_tensors(self) -> tuple[str, ...]:
        return (*super()._episode_tensors(), "goal_quat")
