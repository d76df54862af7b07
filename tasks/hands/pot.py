"""The pot of Bi-DexHands from primitives: a heavy cylinder with two handles, on a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco

from madpo_isaac.tasks.hands import contacts
from madpo_isaac.tasks.hands.hand import Hand
from madpo_isaac.tasks.hands.objects import (
    OBJECT,
    TABLE,
    Vector,
    add_free_body,
    add_geom,
    add_point,
    add_table,
    add_weight,
)

_MASS, _INERTIA = 4.0, (0.4, 0.8, 0.8)
"""kg, and kg m^2 about the pot's origin, lid included: what Bi-DexHands' model file says."""
_X = -0.005
"""The middle of all parts, meters."""
_WALL: dict[str, Any] = {"size": (0.119, 0.0632, 0.0), "pos": (_X, 0.0, -0.002)}
_STEEL, _GHOST = (0.6, 0.72, 0.98, 1.0), (0.2, 0.75, 0.3, 0.3)


@dataclass(frozen=True)
class Pot:
    """The pot on its table. Sensors: the handle points at +y and at -y, world frame, 3 each."""

    pos: Vector
    """Meters."""
    goal: Vector
    """Position of the goal, where pictures show the pot too, meters."""
    hand_friction: float | None = 1.0

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds table, pot, its weight and contacts; with ``visual`` a translucent goal."""
        cylinder, box = mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_BOX
        place = (self.pos[0], self.pos[1])
        add_table(spec, hand, friction=2.0, size=(0.3, 0.3, 0.4), place=place)
        pot = add_free_body(spec, OBJECT, self.pos)
        pot.explicitinertial, pot.mass, pot.inertia = True, _MASS, _INERTIA
        pot.ipos = (0.0, 0.0, 0.0)  # or MuJoCo takes the body's place for it
        add_geom(pot, OBJECT, cylinder, rgba=_STEEL, **_WALL)
        contacts.pair_with_hands(spec, hand, OBJECT)
        _add_rod(spec, hand, pot, "knob", 0.0055, (_X, -0.045, 0.096, _X, 0.045, 0.096))
        for side, y in (("right", 1.0), ("left", -1.0)):
            ends = (_X - 0.0455, y * 0.1754, 0.063, _X + 0.0455, y * 0.1754, 0.063)
            _add_rod(spec, hand, pot, f"{side}_bar", 0.0055, ends)
            for end, x in (("near", _X + 0.0288), ("far", _X - 0.0288)):
                ends = (x, y * 0.1176, 0.0184, x, y * 0.171, 0.0626)
                _add_rod(spec, hand, pot, f"{side}_{end}_rod", 0.0037, ends)
            add_point(spec, pot, f"{side}_handle", (0.0, y * 0.15, 0.06))
        # It stands on a box: a cylinder touches the table in one point at a time.
        add_geom(pot, "foot", box, (0.083, 0.083, 0.005), _STEEL, pos=(_X, 0.0, -0.0602))
        contacts.add_pair(spec, "foot", TABLE, condim=4, friction=2.0)
        add_weight(spec, OBJECT, _MASS)
        if visual:
            goal = spec.worldbody.add_body(name="goal", pos=self.goal)
            add_geom(goal, "goal", cylinder, rgba=_GHOST, **_WALL)


def _add_rod(
    spec: mujoco.MjSpec, hand: Hand, pot: Any, name: str, radius: float, ends: tuple[float, ...]
) -> None:
    """Adds a capsule that can be grasped: radius and ends in meters."""
    kind = mujoco.mjtGeom.mjGEOM_CAPSULE
    add_geom(pot, name, kind, (radius, 0.0, 0.0), _STEEL, fromto=ends)
    contacts.pair_with_hands(spec, hand, name)
