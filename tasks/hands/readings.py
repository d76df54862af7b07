"""Columns of the bimanual tasks' states and actions: names, units, frames, scales."""

from __future__ import annotations

from dataclasses import replace

import mujoco

from madpo_isaac.env import Command, Reading
from madpo_isaac.tasks.hands.hand import BASE_ROLES, Hand
from madpo_isaac.tasks.hands.scene import Drive

AXES = ("x", "y", "z")
QUATERNION = ("qx", "qy", "qz", "qw")
TURNS = ("roll", "pitch", "yaw")


def of_hand(
    model: mujoco.MjModel,
    hand: Hand,
    index: int,
    *,
    velocity: float,
    force: float,
    base: list[Reading],
    actions: tuple[str, ...],
) -> list[Reading]:
    """Returns the columns of one hand's block of the joint state, but for their limits.

    Args:
        model: the compiled scene.
        hand: its data.
        index: number of the hand, 0 or 1.
        velocity: scale of joint velocities.
        force: scale of forces and torques.
        base: columns of the base, which come before the actions.
        actions: names of the hand's actions, the last of which end the block.
    """
    name = f"hand{index}"
    joints = {name: model.joint(f"hand{index}_{hand.full(name)}") for name in hand.joints}
    block = []
    for short, joint in joints.items():
        low, high = joint.range.tolist()
        scale, offset = 2.0 / (high - low), -(high + low) / (high - low)
        block.append(Reading(f"{name}/{short}/position", "rad", "", scale, offset))
    block += [Reading(f"{name}/{joint}/velocity", "rad/s", "", velocity) for joint in joints]
    block += [Reading(f"{name}/{joint}/actuator_torque", "N m", "", force) for joint in joints]
    tips = [f"{name}/{body}" for body in hand.fingers.values()]
    for tip in tips:
        block += of_free_body(tip)
    for tip in tips:
        block += [Reading(f"{tip}/force_{a}", "N", tip, force) for a in AXES]
        block += [Reading(f"{tip}/torque_{a}", "N m", tip, force) for a in AXES]
    return block + base + [Reading(f"{action}/last_action") for action in actions]


def of_pose(name: str) -> list[Reading]:
    """Returns the columns of a pose in the world: position, quaternion. (7)"""
    return of_points(name) + of_quaternion(name)


def of_quaternion(name: str) -> list[Reading]:
    """Returns the columns of an orientation in the world. (4)"""
    return [Reading(f"{name}/{part}", "", "world") for part in QUATERNION]


def of_free_body(name: str, angular: float = 1.0) -> list[Reading]:
    """Returns the columns of a pose, linear and angular velocity in the world. (13)

    Args:
        name: the body.
        angular: scale of the angular velocity.
    """
    linear = [Reading(f"{name}/velocity_{axis}", "m/s", "world") for axis in AXES]
    turning = [Reading(f"{name}/rate_{axis}", "rad/s", "world", angular) for axis in AXES]
    return of_pose(name) + linear + turning


def of_base(index: int) -> list[Reading]:
    """Returns the columns of a floating hand's base: position, turn since the reset. (6)"""
    name = f"hand{index}/base"
    return of_points(name) + [Reading(f"{name}/{turn}", "rad", "world") for turn in TURNS]


def of_points(*names: str) -> list[Reading]:
    """Returns the columns of points in the world. (3 for each)"""
    return [Reading(f"{name}/{axis}", "m", "world") for name in names for axis in AXES]


def constant(name: str, count: int) -> list[Reading]:
    """Returns columns that are zero and only keep a size. (count)"""
    return [Reading(f"{name}[{i}]") for i in range(count)]


def clipped(readings: list[Reading], limit: float) -> tuple[Reading, ...]:
    """Returns the columns with their limits."""
    return tuple(replace(reading, low=-limit, high=limit) for reading in readings)


def of_drives(model: mujoco.MjModel, hand: Hand, index: int) -> list[Command]:
    """Returns the joint targets that a hand's actions command: [-1, 1] is the joint's range."""
    commands = []
    for joint in hand.driven:
        low, high = model.joint(f"hand{index}_{hand.full(joint)}").range.tolist()
        name = f"hand{index}/{joint}"
        commands.append(Command(name, "rad", (high - low) / 2, (high + low) / 2, -1.0, 1.0))
    return commands


def of_drive(index: int, drive: Drive) -> list[Command]:
    """Returns the commands of the first six actions of a floating hand, in world axes."""
    units = 3 * [("N", drive.force)] + 3 * [("N m", drive.torque)]
    return [
        Command(f"hand{index}/{role}", unit, scale, 0.0, -1.0, 1.0)
        for role, (unit, scale) in zip(BASE_ROLES, units, strict=True)
    ]
