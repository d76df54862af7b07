"""What the throwing tasks share: an egg, its goal and the reward."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from tasks.hands.base import HandTaskConfig, HandTaskEnv, Outcome
from tasks.hands.objects import Ellipsoid
from tasks.rotations import (
    quat_about_x_then_y,
    quat_conjugate,
    quat_mul,
    wxyz_to_xyzw,
)


@dataclass
class EggConfig(HandTaskConfig):
    """Settings of every throwing task; the numbers are Bi-DexHands'."""

    reset_object_pos_noise: float = 0.01
    """Half-width of the egg's start position noise, metres."""
    dist_reward_scale: float = 50.0
    """Weight of the distance in the reward, per metre."""
    success_distance: float = 0.03
    """Metres between egg and goal below which the episode counts as a success."""
    fall_height: float = 0.2
    """Height of the egg, metres, at or below which the episode terminates."""


class EggTask(HandTaskEnv):
    """Throw an egg over; terms of the reward are the egg's distance and angle to the goal.

    The tail of the joint state: egg position and quaternion xyzw (7), linear velocity (3),
    angular velocity x 0.2 (3), goal pose (7), rotation from goal to egg (4); world frame.
    """

    tail_dim = 24
    config: EggConfig
    egg: Ellipsoid
    goal: tuple[float, float, float]
    """World position to throw to, metres."""
    goal_quat: Tensor
    """Orientation of the goal, wxyz. (N, 4)"""

    def __init__(self, config: EggConfig, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        joint = self.sim.model.joint("object_free")
        self._obj_qpos = slice(joint.qposadr[0], joint.qposadr[0] + 7)
        self._obj_dof = slice(joint.dofadr[0], joint.dofadr[0] + 6)
        self._start = torch.tensor(self.egg.pos, device=self.device)
        self.goal_pos = torch.tensor(self.goal, device=self.device).repeat(num_envs, 1)
        self.goal_quat = torch.zeros(num_envs, 4, device=self.device)

    def scenery(self) -> Ellipsoid:
        """Returns the egg."""
        return self.egg

    def pose(self, data: mujoco.MjData, index: int) -> None:
        """Puts ``data`` of the visual scene into the state of environment ``index``."""
        super().pose(data, index)
        data.mocap_pos[0] = self.goal_pos[index].cpu().numpy()
        data.mocap_quat[0] = self.goal_quat[index].cpu().numpy()

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
        self.observe_free(self._obj_qpos, self._obj_dof, out[:, :13])
        out[:, 13:16] = self.goal_pos
        out[:, 16:20] = wxyz_to_xyzw(self.goal_quat)
        out[:, 20:24] = wxyz_to_xyzw(self._rotation_to_goal())

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
            terminated=(pos[:, 2] <= cfg.fall_height) | self.hand_left(),
            success=distance < cfg.success_distance,
            terms={"goal_distance": distance, "goal_angle": angle},
        )

    def hand_left(self) -> Tensor:
        """Says where a hand is too far from its place: never. (N,) bool"""
        return torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)

    def _episode_tensors(self) -> tuple[str, ...]:
        return (*super()._episode_tensors(), "goal_quat")
