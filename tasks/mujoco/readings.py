"""Columns of multi-agent MuJoCo's states and actions."""

from __future__ import annotations

import mujoco

from madpo_isaac.env import Command, Reading
from madpo_isaac.tasks.mujoco.robots import WIDTHS, Robot

_FREE_POSITION = (*((axis, "m") for axis in "xyz"), *((f"q{part}", "") for part in "wxyz"))
_FREE_VELOCITY = (
    *((f"velocity_{axis}", "m/s", "world") for axis in "xyz"),
    *((f"rate_{axis}", "rad/s", "torso") for axis in "xyz"),
)


def of_state(robot: Robot, model: mujoco.MjModel) -> tuple[Reading, ...]:
    """Returns the columns of the joint state: positions, velocities, derived fields, forces."""
    positions, velocities = [], []
    limit = float("inf") if robot.velocity_limit is None else robot.velocity_limit
    for joint in (model.joint(j) for j in range(model.njnt)):
        name = joint.name
        if joint.type[0] == mujoco.mjtJoint.mjJNT_FREE:
            positions += [Reading(f"{name}/{part}", unit, "world") for part, unit in _FREE_POSITION]
            velocities += [
                Reading(f"{name}/{part}", unit, frame) for part, unit, frame in _FREE_VELOCITY
            ]
            continue
        unit = "rad" if joint.type[0] == mujoco.mjtJoint.mjJNT_HINGE else "m"
        positions.append(Reading(f"{name}/position", unit))
        velocities.append(Reading(f"{name}/velocity", f"{unit}/s", low=-limit, high=limit))
    derived = []
    dofs = [reading.name.removesuffix("/velocity") for reading in velocities]
    for field in robot.fields:
        if field in WIDTHS:
            bodies = [model.body(b).name for b in range(model.nbody)]
            derived += [f"{body}/{field}[{i}]" for body in bodies for i in range(WIDTHS[field])]
        else:
            derived += [f"{dof}/{field}" for dof in dofs]
    derived += [f"contact_force[{i}]" for i in range(robot.contact_forces)]
    found = positions[robot.hidden_qpos :] + velocities + [Reading(name) for name in derived]
    return tuple(found)


def of_actions(robot: Robot, model: mujoco.MjModel) -> tuple[Command, ...]:
    """Returns the joint torques that the joint action commands, before MuJoCo's own limits."""
    commands = []
    for i in range(model.nu):
        actuator, gain = model.actuator(i), robot.action_gain
        low, high = (float(limit) / gain for limit in actuator.ctrlrange)
        joint = model.joint(actuator.trnid[0]).name
        commands.append(Command(joint, "N m", gain * float(actuator.gear[0]), 0.0, low, high))
    return tuple(commands)
