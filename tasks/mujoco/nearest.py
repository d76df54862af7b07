"""Observations of only the k nearest joints, after gymnasium-robotics' MaMuJoCo.

Joints are neighbors if they share an edge. An agent sees positions and velocities of its own
joints (with forces and the readings of the bodies between them, where the state has any), only
the positions of its neighbors, and position and velocity of the torso.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import mujoco

from madpo_isaac.tasks.mujoco.partitions import Partition
from madpo_isaac.tasks.mujoco.robots import WIDTHS, Robot


class JointGraph(NamedTuple):
    """Neighborhood of a robot's joints."""

    edges: tuple[frozenset[str], ...]
    """Joints that are all neighbors of each other."""
    bodies: dict[str, tuple[int, ...]]
    """Bodies whose readings belong to a joint."""


def _edges(*edges: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(edge.split()) for edge in edges)


_ABDOMEN = "abdomen_x abdomen_y abdomen_z"
_HIP = "{side}_hip_x {side}_hip_y {side}_hip_z"
_SHOULDER = "{side}_shoulder1 {side}_shoulder2"

GRAPHS: dict[str, JointGraph] = {
    "HalfCheetah": JointGraph(
        _edges("bfoot bshin", "bshin bthigh", "bthigh fthigh", "fthigh fshin", "fshin ffoot"), {}
    ),
    "Walker2d": JointGraph(
        _edges(
            "foot_joint leg_joint",
            "leg_joint thigh_joint",
            "foot_left_joint leg_left_joint",
            "leg_left_joint thigh_left_joint",
            "thigh_joint thigh_left_joint",
        ),
        {},
    ),
    "Ant": JointGraph(
        _edges(*(f"ankle_{leg} hip_{leg}" for leg in range(1, 5)), "hip_1 hip_2 hip_3 hip_4"),
        {f"hip_{leg}": (1, 3 * leg - 1) for leg in range(1, 5)}
        | {f"ankle_{leg}": (3 * leg - 1, 3 * leg, 3 * leg + 1) for leg in range(1, 5)},
    ),
    "Humanoid": JointGraph(
        _edges(
            _ABDOMEN,
            *(
                edge.format(side=side)
                for side in ("right", "left")
                for edge in (
                    _HIP,
                    "{side}_elbow " + _SHOULDER,
                    "{side}_knee " + _HIP,
                    f"{_SHOULDER} {_ABDOMEN}",
                    f"{_ABDOMEN} {_HIP}",
                )
            ),
        ),
        {
            "abdomen_y": (1, 2, 3),
            "abdomen_z": (1, 2, 3),
            "abdomen_x": (3, 4, 7),
            **{f"right_hip_{axis}": (4, 5) for axis in "xzy"},
            "right_knee": (5, 6),
            **{f"left_hip_{axis}": (7, 8) for axis in "xzy"},
            "left_knee": (8, 9),
            "right_shoulder1": (1, 10, 11),
            "right_shoulder2": (1, 10, 11),
            "right_elbow": (11,),
            "left_shoulder1": (1, 12, 13),
            "left_shoulder2": (1, 12, 13),
            "left_elbow": (13,),
        },
    ),
}
"""Joint graph of each robot."""


class StateColumns:
    """Columns of the parts of a joint state."""

    def __init__(self, robot: Robot, model: mujoco.MjModel) -> None:
        self._model, self._hidden = model, robot.hidden_qpos
        self._start = {"qpos": 0, "qvel": model.nq - robot.hidden_qpos}
        column = self._start["qvel"] + model.nv
        for name in (*robot.fields, *["cfrc_ext"] * bool(robot.contact_forces)):
            self._start[name] = column
            column += model.nbody * WIDTHS[name] if name in WIDTHS else model.nv

    def joint(self, category: str, name: str) -> list[int]:
        """Columns of a driven joint's position, velocity or actuator force."""
        if category not in self._start:
            return []
        joint = self._model.joint(name)
        if category == "qpos":
            return [int(joint.qposadr[0]) - self._hidden]
        return [self._start[category] + int(joint.dofadr[0])]

    def body(self, category: str, body: int) -> list[int]:
        """Columns of a body's readings."""
        if category not in self._start:
            return []
        width = WIDTHS[category]
        start = self._start[category] + body * width
        return list(range(start, start + width))

    def torso(self) -> list[int]:
        """Columns of the undriven joints' positions and velocities."""
        driven = self._model.nu
        pos = range(self._model.nq - driven - self._hidden)
        start = self._start["qvel"]
        return [*pos, *range(start, start + self._model.nv - driven)]


def joints_by_distance(joints: Sequence[str], graph: JointGraph, k: int) -> Iterator[list[str]]:
    """Yields the joints at distance 0, 1, ..., k of ``joints``, each list in order of name."""
    seen, ring = set(joints), set(joints)
    for _ in range(k + 1):
        yield sorted(ring)
        near = {other for edge in graph.edges if edge & ring for other in edge}
        ring = near - seen
        seen |= ring


def nearest_columns(
    robot: Robot, model: mujoco.MjModel, partition: Partition, agent: int, k: int
) -> list[int]:
    """Returns the columns of the joint state that ``agent`` sees with ``agent_obsk=k``."""
    graph, state = GRAPHS[robot.name], StateColumns(robot, model)
    own, *others = joints_by_distance(robot.actuators[partition.block(agent)], graph, k)
    columns: list[int] = []
    for name in own:
        columns += state.joint("qpos", name) + state.joint("qvel", name)
        columns += _unseen(_bodies(state, graph, name, ("cinert", "cvel")), columns)
        columns += state.joint("qfrc_actuator", name)
        columns += _unseen(_bodies(state, graph, name, ("cfrc_ext",)), columns)
    for ring in others:
        columns += [column for name in ring for column in state.joint("qpos", name)]
    return columns + state.torso()


def _bodies(
    state: StateColumns, graph: JointGraph, joint: str, categories: Iterable[str]
) -> list[int]:
    bodies = graph.bodies.get(joint, ())
    return [c for category in categories for body in bodies for c in state.body(category, body)]


def _unseen(columns: Sequence[int], seen: Sequence[int]) -> list[int]:
    """Bodies shared by several joints are listed once."""
    return [column for column in columns if column not in seen]
