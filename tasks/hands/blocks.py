"""Two cubes on a table, to be stacked or pushed."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco

from madpo_isaac.tasks.hands import contacts
from madpo_isaac.tasks.hands.hand import Hand
from madpo_isaac.tasks.hands.objects import (
    TABLE,
    Vector,
    add_free_body,
    add_geom,
    add_table,
    add_weight,
)

BLOCKS = ("right_block", "left_block")
CUBE_DENSITY = 567.0
"""kg/m^3, as Bi-DexHands' model file says."""
CUBE_SIDE = 0.05
"""Meters."""
_COLORS = ((0.85, 0.25, 0.2), (0.2, 0.35, 0.85))
_BOX = mujoco.mjtGeom.mjGEOM_BOX


@dataclass(frozen=True)
class Blocks:
    """The table and the cubes, with the frictions that PhysX averages pair by pair."""

    places: tuple[Vector, ...]
    """Initial positions of the cubes, meters."""
    goals: tuple[Vector, ...]
    """Target positions of the cubes, meters."""
    hand_friction: float = 1.0
    cube_friction: float = 1.0
    table_friction: float = 1.0
    table_depth: float = 0.5
    """Meters along x."""

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds table, cubes, their weight and contacts; with ``visual`` translucent goals."""
        mass = CUBE_DENSITY * CUBE_SIDE**3
        size = 3 * (CUBE_SIDE / 2,)
        own, table = self.cube_friction, self.table_friction
        table_size, friction = (self.table_depth, 1.0, 0.6), (self.hand_friction + table) / 2
        add_table(spec, hand, friction=friction, size=table_size)
        for name, pos, goal, rgb in zip(BLOCKS, self.places, self.goals, _COLORS, strict=True):
            # The orientation that Bi-DexHands' numbers start from, by which it is observed.
            block = add_free_body(spec, name, pos, (0.5, 0.5, 0.5, -0.5))
            add_geom(block, name, _BOX, size, (*rgb, 1.0), mass=mass)
            add_weight(spec, name, mass)
            contacts.pair_with_hands(spec, hand, name, friction=(self.hand_friction + own) / 2)
            contacts.add_pair(spec, name, TABLE, condim=4, friction=(own + table) / 2)
            if visual:
                add_geom(spec.worldbody, f"{name}_goal", _BOX, size, (*rgb, 0.35), pos=goal)
        contacts.add_pair(spec, *BLOCKS, condim=4, friction=own)
