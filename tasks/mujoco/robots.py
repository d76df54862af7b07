"""Gymnasium's robots as data: models, observations, rewards and endings.

``v2`` is the version of the papers on MA-MuJoCo: the models and terms of Gym's v2 classes, in
which contact forces read zero with every MuJoCo from 2.0 on. ``v5`` is Gymnasium's newest.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from madpo_isaac.errors import UserError, unknown

VERSIONS = ("v2", "v5")
WIDTHS = {"cinert": 10, "cvel": 6, "cfrc_ext": 6}
"""Numbers per body of the observed fields that go by bodies; others have one per degree of
freedom."""

Healthy = Callable[[Tensor, Tensor], Tensor]
"""Maps exact qpos (N, nq) and qvel (N, nv) to whether the robot still stands. (N,) bool"""


def walker2d_healthy(qpos: Tensor, qvel: Tensor) -> Tensor:
    """Torso height between 0.8 and 2 m, pitch below 1 rad to either side. (N,) bool"""
    del qvel
    height, pitch = qpos[:, 1], qpos[:, 2]
    return (height > 0.8) & (height < 2.0) & (pitch.abs() < 1.0)


def ant_healthy(qpos: Tensor, qvel: Tensor) -> Tensor:
    """Torso height from 0.2 to 1 m and every coordinate finite. (N,) bool"""
    height = qpos[:, 2]
    finite = torch.isfinite(qpos).all(dim=1) & torch.isfinite(qvel).all(dim=1)
    return (height >= 0.2) & (height <= 1.0) & finite


def humanoid_healthy(qpos: Tensor, qvel: Tensor) -> Tensor:
    """Torso height between 1 and 2 m. (N,) bool"""
    del qvel
    height = qpos[:, 2]
    return (height > 1.0) & (height < 2.0)


@dataclass(frozen=True, eq=False)
class Robot:
    """One robot; the reward is forward_weight * v_x + alive_bonus - control_weight * |u|^2."""

    name: str
    models: Mapping[str, str]
    """MJCF file by version; versions that are missing cannot be simulated."""
    actuators: tuple[str, ...]
    """Driven joints, in the order of the actions."""
    substeps: int
    """Physics steps per control step."""
    control_weight: float
    reset_noise: float
    """Half-width of the uniform noise on positions; scale of the noise on velocities."""
    hidden_qpos: int
    """Leading positions, the robot's place on the ground, which are not observed."""
    position: tuple[str, tuple[int, ...]]
    """The field whose entry is the robot's x in meters, and the index of the entry."""
    forward_weight: float = 1.0
    alive_bonus: float = 0.0
    action_gain: float = 1.0
    """Control per unit of action; u is the control, before MuJoCo limits its force."""
    normal_velocity_noise: bool = False
    """Reset velocities are normal instead of uniform."""
    velocity_limit: float | None = None
    """Observed velocities are clipped to this, in m/s and rad/s."""
    healthy: Healthy | None = None
    """Condition under which the episode continues; None for always."""
    fields: tuple[str, ...] = ()
    """Observed derived fields, world body included, after positions and velocities."""
    contact_forces: int = 0
    """Zeros that end the observation: 6 per body."""
    unavailable: Mapping[str, str] = field(default_factory=dict)
    """Versions that cannot be simulated, and the reason."""

    def model_file(self, version: str) -> Path:
        """Returns the MJCF file of ``version``, shipped by Gymnasium.

        Raises:
            UserError: for an unknown version or one that cannot be simulated.
        """
        if version not in VERSIONS:
            raise unknown("task.version", version, VERSIONS)
        if version in self.unavailable:
            raise UserError(
                f"task.version={version} is not available for {self.name}: "
                f"{self.unavailable[version]} Use task.version=v2."
            )
        package = importlib.util.find_spec("gymnasium")
        if package is None or not package.submodule_search_locations:
            raise UserError("The robots' models come with gymnasium==1.4.0: install it.")
        folder = Path(package.submodule_search_locations[0]) / "envs/mujoco/assets"
        return folder / self.models[version]


def control_cost(control: Tensor, weight: float) -> Tensor:
    """Returns weight * |control|^2 for controls (N, nu) that, unlike forces, have no limit. (N,)"""
    return torch.linalg.vecdot(control, control).mul_(weight)


def locomotion_reward(robot: Robot, velocity: Tensor, cost: Tensor) -> Tensor:
    """Returns forward_weight * velocity + alive_bonus - cost. (N,)

    Args:
        robot: gives the weights.
        velocity: mean forward velocity over the control step, m/s, float64. (N,)
        cost: control cost. (N,)
    """
    return torch.add(robot.alive_bonus - cost, velocity, alpha=robot.forward_weight)


_NO_FORCES = "its contact forces (cfrc_ext) are part of it, and the engine does not compute them."

HALF_CHEETAH = Robot(
    name="HalfCheetah",
    models={"v2": "half_cheetah.xml", "v5": "half_cheetah.xml"},
    actuators=("bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"),
    substeps=5,
    control_weight=0.1,
    reset_noise=0.1,
    hidden_qpos=1,
    position=("qpos", (0,)),
    normal_velocity_noise=True,
)

WALKER2D = Robot(
    name="Walker2d",
    # The older model's feet have friction 0.9 and 1.9, the newer one's both 1.9.
    models={"v2": "walker2d.xml", "v5": "walker2d_v5.xml"},
    actuators=(
        *("thigh_joint", "leg_joint", "foot_joint"),
        *("thigh_left_joint", "leg_left_joint", "foot_left_joint"),
    ),
    substeps=4,
    control_weight=1e-3,
    reset_noise=5e-3,
    hidden_qpos=1,
    position=("qpos", (0,)),
    alive_bonus=1.0,
    velocity_limit=10.0,
    healthy=walker2d_healthy,
)

ANT = Robot(
    name="Ant",
    models={"v2": "ant.xml"},
    actuators=(
        *("hip_4", "ankle_4", "hip_1", "ankle_1"),
        *("hip_2", "ankle_2", "hip_3", "ankle_3"),
    ),
    substeps=5,
    control_weight=0.5,
    reset_noise=0.1,
    hidden_qpos=2,
    # Gym reads the torso's pose, which is that of the last substep's start.
    position=("xpos", (1, 0)),
    alive_bonus=1.0,
    normal_velocity_noise=True,
    healthy=ant_healthy,
    contact_forces=84,
    unavailable={"v5": _NO_FORCES},
)

HUMANOID = Robot(
    name="Humanoid",
    models={"v2": "humanoid.xml"},
    actuators=(
        *("abdomen_y", "abdomen_z", "abdomen_x"),
        *("right_hip_x", "right_hip_z", "right_hip_y", "right_knee"),
        *("left_hip_x", "left_hip_z", "left_hip_y", "left_knee"),
        *("right_shoulder1", "right_shoulder2", "right_elbow"),
        *("left_shoulder1", "left_shoulder2", "left_elbow"),
    ),
    substeps=5,
    control_weight=0.1,
    reset_noise=1e-2,
    hidden_qpos=2,
    # The center of all mass, likewise of the last substep's start.
    position=("subtree_com", (0, 0)),
    forward_weight=1.25,
    alive_bonus=5.0,
    action_gain=0.4,
    healthy=humanoid_healthy,
    fields=("cinert", "cvel", "qfrc_actuator"),
    contact_forces=84,
    unavailable={"v5": _NO_FORCES},
)

ROBOTS = {robot.name: robot for robot in (HALF_CHEETAH, WALKER2D, ANT, HUMANOID)}
