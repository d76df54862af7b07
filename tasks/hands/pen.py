"""ShadowHandPen: two hands pull the cap off a pen that lies on a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import torch
from torch import Tensor

from madpo_isaac.env import Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import contacts, readings
from madpo_isaac.tasks.hands.hand import Hand
from madpo_isaac.tasks.hands.objects import (
    OBJECT,
    TABLE,
    add_free_body,
    add_geom,
    add_gravity,
    add_point,
    add_table,
)
from madpo_isaac.tasks.hands.reach import ABOVE_TABLE, ReachConfig, ReachTask
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.settings import size

CAP = "cap"


@dataclass(frozen=True)
class Pen:
    """A pen on a table: body and cap are capsules, the cap slides off along the pen's -y.

    Sensors: the handle points of the cap and of the body, world frame, 3 each.
    """

    pos: tuple[float, float, float] = (0.0, 0.0, 0.612)
    """Meters; at the original's 0.6 it starts half inside the table."""
    slide: float = 0.492
    """Range of the cap, meters; it exceeds the length of the cap, a slip of the original."""
    hand_friction: float | None = 1.0

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds table, pen and contacts; gravity acts on all but the hands."""
        add_gravity(spec)
        add_table(spec, hand)
        pen = add_free_body(spec, OBJECT, self.pos, (0.5, 0.5, 0.5, -0.5))
        # A thin spinning body is unstable with explicit gyroscopic forces; this damping, the same
        # in all six directions, cures it.
        pen.joints[0].damping = (1e-3, 0.0, 0.0)
        barrel = pen.add_body(name="barrel", quat=(0.5, 0.5, -0.5, -0.5))  # its y axis is the pen's
        self._add_part(barrel, OBJECT, (-0.159, 0.2), 0.0105, 0.05, (0.2, 0.32, 0.8, 1.0))
        cap = barrel.add_body(name=CAP)
        cap.add_joint(
            name=f"{CAP}_slide",
            type=mujoco.mjtJoint.mjJNT_SLIDE,
            axis=(0, -1, 0),
            limited=True,
            range=(0.0, self.slide),
            damping=(0.5, 0.0, 0.0),
        )
        self._add_part(cap, CAP, (-0.172, -0.0405), 0.0115, 0.027, (0.85, 0.2, 0.15, 1.0))
        for name in (OBJECT, CAP):
            contacts.pair_with_hands(spec, hand, name)
            contacts.add_pair(spec, name, TABLE, condim=4)
        for body, y in ((cap, -0.1), (barrel, 0.07)):
            add_point(spec, body, f"{body.name}_handle", (0.0, y, 0.0))

    @staticmethod
    def _add_part(
        body: Any,
        name: str,
        ends: tuple[float, float],
        radius: float,
        mass: float,
        rgba: tuple[float, float, float, float],
    ) -> None:
        """Adds a capsule between two y coordinates."""
        low, high = ends[0] + radius, ends[1] - radius
        kind, line = mujoco.mjtGeom.mjGEOM_CAPSULE, (0.0, low, 0.0, 0.0, high, 0.0)
        add_geom(body, name, kind, (radius, 0.0, 0.0), rgba, fromto=line, mass=mass)


@dataclass
class Config(ReachConfig):
    """Settings of ShadowHandPen; the numbers are Bi-DexHands'."""

    episode_length: int = 125
    near_distance: float = setting(0.75, size)
    success_distance: float = setting(0.3, size)
    """Meters between the handle points of cap and body above which the cap is off."""
    mean_finger_distance: bool = False
    """Reward exp(-10 S / 5) for a finger distance S, which can be felt from afar; Bi-DexHands'
    exp(-10 S) is 8e-6 at the start."""


class Env(ReachTask):
    """Hand 0 goes for the cap, hand 1 for the body.

    The tail of the joint state: the pen's pose xyzw (7), linear velocity (3), angular velocity x
    0.2 (3), handle point of the cap (3) and of the body (3); world frame.
    """

    tail_dim = 19
    transition_scale = 0.5
    orientation_scale = 0.1
    placements = ABOVE_TABLE
    view = View(lookat=(0.2, 0.0, 0.68), distance=1.15, azimuth=30.0, elevation=-40.0)

    def __init__(self, config: Config, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        self._success_distance = config.success_distance
        self._steepness = 2.0 if config.mean_finger_distance else 10.0
        poses, velocities = self.free_bodies(OBJECT)
        self._pose, self._vel = poses[:, 0], velocities[:, 0]

    def scenery(self) -> Pen:
        """Returns the pen on its table."""
        return Pen()

    def observe_tail(self, out: Tensor) -> None:
        """Writes the pen and its handle points into ``out`` (N, 19)."""
        self.observe_free(self._pose, self._vel, out[:, :13])
        out[:, 13:] = self.object_sensors

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail."""
        points = readings.of_points("cap_handle", "barrel_handle")
        return self.free_readings(OBJECT) + points

    @staticmethod
    def _pulled(handles: Tensor) -> Tensor:
        return torch.linalg.vector_norm(handles[:, 0] - handles[:, 1], dim=1)

    def remaining(self, handles: Tensor) -> Tensor:
        """Returns how far the cap still has to be pulled, meters. (N,)"""
        return self._success_distance - self._pulled(handles)

    def score(
        self, handles: Tensor, fingers: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reward: exp(-10 S) of both finger distances S + near * (5 distance - 0.8)."""
        distance = self._pulled(handles)
        reward = torch.exp(-self._steepness * fingers).sum(1) + near * (5.0 * distance - 0.8)
        return reward, distance > self._success_distance, {"pulled_distance": distance}
