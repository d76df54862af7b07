"""Quaternion arithmetic on batches, (w, x, y, z) order, unit norm assumed."""

from __future__ import annotations

import torch
from torch import Tensor


def quat_mul(a: Tensor, b: Tensor) -> Tensor:
    """Hamilton product of quaternions (..., 4)."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    w = aw * bw - (av * bv).sum(-1, keepdim=True)
    return torch.cat((w, aw * bv + bw * av + torch.linalg.cross(av, bv)), dim=-1)


def quat_conjugate(q: Tensor) -> Tensor:
    """Inverse rotation of unit quaternions (..., 4)."""
    return torch.cat((q[..., :1], -q[..., 1:]), dim=-1)


def quat_rotate(q: Tensor, v: Tensor) -> Tensor:
    """Rotates vectors (..., 3) by unit quaternions (..., 4), body frame to world frame."""
    w, u = q[..., :1], q[..., 1:]
    t = 2.0 * torch.linalg.cross(u, v)
    return v + w * t + torch.linalg.cross(u, t)


def quat_about_x_then_y(angle_x: Tensor, angle_y: Tensor) -> Tensor:
    """Rx(angle_x) Ry(angle_y) for angles (...,) in radians, as quaternions (..., 4)."""
    cx, sx = torch.cos(angle_x / 2), torch.sin(angle_x / 2)
    cy, sy = torch.cos(angle_y / 2), torch.sin(angle_y / 2)
    return torch.stack((cx * cy, sx * cy, cx * sy, sx * sy), dim=-1)


def wxyz_to_xyzw(q: Tensor) -> Tensor:
    """Reorders quaternions (..., 4) from MuJoCo's order to Isaac Gym's."""
    return q.roll(-1, dims=-1)


def quat_to_rpy(q: Tensor) -> Tensor:
    """Roll, pitch and yaw (..., 3) with q = Rz(yaw) Ry(pitch) Rx(roll), radians.

    Roll and yaw are within (-pi, pi], pitch within [-pi/2, pi/2].
    """
    w, x, y, z = q.unbind(-1)
    roll = torch.atan2(2.0 * (w * x + y * z), 1.0 - 2.0 * (x * x + y * y))
    pitch = torch.asin((2.0 * (w * y - z * x)).clamp(-1.0, 1.0))
    yaw = torch.atan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
    return torch.stack((roll, pitch, yaw), dim=-1)
