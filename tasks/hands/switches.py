"""The two rocker switches of Bi-DexHands from primitives, on a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco

from madpo_isaac.tasks.hands import contacts
from madpo_isaac.tasks.hands.hand import Hand
from madpo_isaac.tasks.hands.objects import Vector, add_geom, add_gravity, add_point, add_table

ROCKERS = ("right_rocker", "left_rocker")
RELEASED = 0.5585
"""Radians, where a rocker's own weight tips it; 0 is pressed down on the hand's side."""

_HINGE = (0.0108, 0.0, 0.0417)
"""Its axis is along -y. Meters from the switch, x toward the hands."""
_DAMPING = 1e-3
"""N m s/rad, against chatter at the stops; the original's has none."""
_SLOPE = math.atan2(0.024, 0.077)
_BLACK, _GRAY, _RED = (0.16, 0.16, 0.18, 1.0), (0.3, 0.3, 0.33, 1.0), (0.85, 0.3, 0.27, 1.0)


@dataclass(frozen=True)
class Switches:
    """Switches and table. Sensors: where to press the right and the left one, world frame."""

    places: tuple[Vector, Vector]
    """Positions of both switches, meters."""
    hand_friction: float | None = 1.0

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds table, switches and contacts; gravity acts on all but the hands."""
        add_gravity(spec)
        add_table(spec, hand, size=(0.5, 1.0, 0.55))
        for name, place in zip(ROCKERS, self.places, strict=True):
            switch = spec.worldbody.add_body(name=f"{name}_frame", pos=place)
            self._add_parts(switch, name)
            rocker = spec.body(name)
            for geom in (*switch.geoms, *rocker.geoms):
                contacts.pair_with_hands(spec, hand, geom.name)
            add_point(spec, rocker, name.replace("rocker", "handle"), (0.02, 0.0, 0.0))

    @staticmethod
    def _add_parts(switch: Any, name: str) -> None:
        """Adds a frame, and a rocker of a slanting plate with a thick end far from the hands."""
        box, capsule = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
        size, pos = (0.0725, 0.0513, 0.0513), (0.0021, 0.0, -0.0085)
        add_geom(switch, f"{name}_frame", box, size, _BLACK, pos=pos)
        rocker = switch.add_body(name=name, pos=_HINGE)
        rocker.add_joint(
            name=f"{name}_hinge",
            type=mujoco.mjtJoint.mjJNT_HINGE,
            axis=(0, -1, 0),
            limited=True,
            range=(0.0, RELEASED),
            damping=(_DAMPING, 0.0, 0.0),
        )
        # Together 42 g, heavier on the far side, as the meshes are at 500 kg/m^3.
        half, thick = 0.0403, 0.006
        middle = (0.0025 - thick * math.sin(_SLOPE), 0.0, 0.013 - thick * math.cos(_SLOPE))
        turn = (math.cos(_SLOPE / 2), 0.0, math.sin(_SLOPE / 2), 0.0)
        plate = {"pos": middle, "quat": turn, "mass": 0.015}
        add_geom(rocker, f"{name}_plate", box, (half, 0.0301, thick), _GRAY, **plate)
        ends = (-0.0356, -0.0059, 0.001, -0.0356, 0.0059, 0.001)
        end = {"fromto": ends, "mass": 0.027}
        add_geom(rocker, f"{name}_end", capsule, (0.0242, 0.0, 0.0), _RED, **end)
