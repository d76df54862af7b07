"""The double door of Bi-DexHands from primitives: two leaves with handles on both sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import mujoco
import numpy as np

from madpo_isaac.tasks.hands import contacts
from madpo_isaac.tasks.hands.hand import Hand
from madpo_isaac.tasks.hands.objects import Quaternion, Vector, add_geom, add_point

OPEN_ANGLE = 1.57
"""Radians, where the leaves start in the tasks that close the door."""

Range = tuple[float, float]

_FRAME = (0.5, 0.5, -0.5, -0.5)
"""Rz(-pi/2) Rx(pi/2): x to the side, y up, z the way the leaves open, in the base's axes."""
_DENSITY = 500.0
_DAMPING = 1.0
"""Damping of a hinge, N m s/rad."""
_HANDLE_MASS = 0.11
_FRICTION = 0.55
"""PhysX's average of the door's 0.1 and the hand's 1."""
_GLASS = (0.55, 0.78, 0.92, 0.55)
_METAL = (0.93, 0.69, 0.13, 1.0)
_WOOD = (0.45, 0.3, 0.2, 1.0)
_RAIL = 0.02
"""Height of the rails, meters; the original's are 4 mm, which fast hands get stuck in."""


@dataclass(frozen=True)
class _Leaf:
    """Numbers of one leaf, meters, in the frame's axes with the door closed."""

    name: str
    hinge: Vector
    axis: Vector
    x: Range
    handle_x: float
    point_x: float
    """The handle point's distance from the hinge."""


HANDLE_RADIUS = 0.39
"""Distance of the handle points from their hinges along the leaf, meters."""
_LEAVES = (
    _Leaf(
        "right", (-0.42653, 0.4833, 0.00846), (0, -1, 0), (-0.4475, -0.007), -0.0520, HANDLE_RADIUS
    ),
    _Leaf("left", (0.42041, 0.4833, 0.00560), (0, 1, 0), (0.0031, 0.4436), 0.0435, -HANDLE_RADIUS),
)
_LEAF_Y = (-0.4439, 0.4811)
_LEAF_Z = (-0.0073, 0.0103)
_HANDLE_Y = (-0.1751, 0.0892)
_BAR_RADIUS, _POST_RADIUS = 0.014, 0.0175
_HANDLES = (("front", 0.0737, 0.0772), ("back", -0.0673, -0.0708))
"""Both handles of a leaf, a D each: where the axes of its posts end and where its bar is, in z."""


@dataclass(frozen=True)
class DoubleDoor:
    """A door 0.7 m up whose leaves swing to +x (inward, toward the hands) or to -x.

    The inward door is the outward one turned half a turn about y, which puts it upside down.
    Sensors: the handle points of the right leaf (at +y) and the left one, world frame, 3 each.
    """

    inward: bool
    spring: float
    """N m/rad toward ``rest``."""
    rest: float
    """Radians."""
    pos: ClassVar[Vector] = (0.0, 0.0, 0.7)
    hinges: ClassVar[tuple[str, str]] = ("right_hinge", "left_hinge")
    hand_friction: float | None = None

    @property
    def quat(self) -> Quaternion:
        """Orientation of the door's root."""
        return (0.0, 0.0, 1.0, 0.0) if self.inward else (1.0, 0.0, 0.0, 0.0)

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds frame and leaves; they touch the hands but not each other."""
        root = spec.worldbody.add_body(name="door", pos=self.pos, quat=self.quat)
        frame = root.add_body(name="door_frame", quat=_FRAME)
        for name, y in (("bottom_rail", -0.4417 - _RAIL / 2), ("top_rail", 0.4789 + _RAIL / 2)):
            _add_box(frame, name, (-0.883, 0.879), (y - _RAIL / 2, y + _RAIL / 2), (-0.036, 0.0125))
        for leaf in _LEAVES:
            self._add_leaf(spec, frame, leaf)
        geoms = [geom.name for geom in root.find_all("geom")]
        contacts.filter_by_type(spec, hand, geoms, friction=_FRICTION)

    def _add_leaf(self, spec: mujoco.MjSpec, frame: Any, leaf: _Leaf) -> None:
        body = frame.add_body(name=f"{leaf.name}_leaf", pos=leaf.hinge)
        body.add_joint(
            name=f"{leaf.name}_hinge",
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=leaf.axis,
            limited=True,
            range=(0.0, math.pi / 2),
            damping=(_DAMPING, 0.0, 0.0),
            stiffness=(self.spring, 0.0, 0.0),
            springref=self.rest,
        )
        frame = body.add_frame(pos=[-c for c in leaf.hinge])  # back in the frame's coordinates
        _add_box(frame, body.name, leaf.x, _LEAF_Y, _LEAF_Z, rgba=_GLASS, density=_DENSITY)
        for side, post_z, bar_z in _HANDLES:
            x, (low, high) = leaf.handle_x, _HANDLE_Y
            capsules = (
                ("bar", _BAR_RADIUS, (x, low, bar_z, x, high, bar_z)),
                ("low_post", _POST_RADIUS, (x, low, 0.0, x, low, post_z)),
                ("high_post", _POST_RADIUS, (x, high, 0.0, x, high, post_z)),
            )
            for part, radius, ends in capsules:
                add_geom(
                    frame,
                    f"{leaf.name}_{side}_{part}",
                    mujoco.mjtGeom.mjGEOM_CAPSULE,
                    (radius, 0.0, 0.0),
                    _METAL,
                    fromto=ends,
                    mass=_HANDLE_MASS,
                )
        point = (leaf.point_x, -0.5, 0.04 if self.inward else -0.04)
        add_point(spec, body, f"{leaf.name}_handle", point)


def _add_box(parent: Any, name: str, x: Range, y: Range, z: Range, **settings: Any) -> None:
    """Adds a box that fills the given ranges."""
    low, high = np.array((x, y, z)).T
    settings = {"rgba": _WOOD, **settings}
    kind = mujoco.mjtGeom.mjGEOM_BOX
    add_geom(parent, name, kind, tuple((high - low) / 2), pos=(low + high) / 2, **settings)
