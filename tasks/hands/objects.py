"""Objects made of primitives. Every class adds its bodies and contacts to a scene."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from madpo_isaac.tasks.hands import contacts
from madpo_isaac.tasks.hands.hand import Hand

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
"""(w, x, y, z)"""
Color = tuple[float, float, float, float]
"""(red, green, blue, opacity)"""

OBJECT, TABLE = "object", "table"
SECOND = {"name": "object1", "rgba": (0.8, 0.3, 0.5, 1.0), "goal_rgba": (0.98, 0.6, 0.72, 0.4)}
"""Name and colors of the second of two objects of a kind, for :class:`Solid`."""
GRAVITY = 9.81
"""m/s^2, on objects only: Bi-DexHands switches it off for the hands."""


def add_geom(
    parent: Any,
    name: str,
    kind: mujoco.mjtGeom,
    size: tuple[float, ...],
    rgba: Color,
    **settings: Any,
) -> None:
    """Adds a geom without contacts; :mod:`madpo_isaac.tasks.hands.contacts` adds these."""
    parent.add_geom(
        name=name, type=kind, size=size, rgba=rgba, contype=0, conaffinity=0, **settings
    )


def add_free_body(
    spec: mujoco.MjSpec, name: str, pos: Vector, quat: Quaternion = (1.0, 0.0, 0.0, 0.0)
) -> Any:
    """Adds a body that moves freely and returns it; its joint is ``<name>_free``."""
    body = spec.worldbody.add_body(name=name, pos=pos, quat=quat)
    body.add_joint(name=f"{name}_free", type=mujoco.mjtJoint.mjJNT_FREE)
    return body


def add_weight(spec: mujoco.MjSpec, name: str, mass: float) -> None:
    """Pulls the free body ``name`` down.

    A constant force instead of option.gravity keeps the hands weightless at no cost, and unlike
    qfrc_applied it survives every kind of reset.
    """
    weight = spec.add_actuator(name=f"{name}_gravity", target=f"{name}_free")
    weight.trntype = mujoco.mjtTrn.mjTRN_JOINT
    weight.gear = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    weight.gainprm[0] = 0.0
    weight.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    weight.biasprm[0] = -GRAVITY * mass


def add_gravity(spec: mujoco.MjSpec) -> None:
    """Pulls down everything except the hands, for objects of several bodies."""
    spec.option.gravity = (0.0, 0.0, -GRAVITY)
    for body in spec.bodies:
        if body.name.startswith(contacts.HAND_PREFIXES):
            body.gravcomp = 1.0


def add_point(spec: mujoco.MjSpec, body: Any, name: str, pos: Vector) -> None:
    """Adds a point of ``body`` (m, in its frame) and a sensor of its position in the world."""
    body.add_site(name=name, pos=pos)
    kind, site = mujoco.mjtSensor.mjSENS_FRAMEPOS, mujoco.mjtObj.mjOBJ_SITE
    spec.add_sensor(name=name, type=kind, objtype=site, objname=name)


def add_table(
    spec: mujoco.MjSpec,
    hand: Hand,
    *,
    friction: float = 1.0,
    size: Vector = (0.5, 1.0, 0.6),
    place: tuple[float, float] = (0.0, 0.0),
) -> None:
    """Adds a static table of ``size`` (m), its middle at ``place``; hands touch it."""
    half, pos = (size[0] / 2, size[1] / 2, size[2] / 2), (*place, size[2] / 2)
    add_geom(spec.worldbody, TABLE, mujoco.mjtGeom.mjGEOM_BOX, half, (0.62, 0.47, 0.35, 1), pos=pos)
    contacts.pair_with_hands(spec, hand, TABLE, friction=friction)


@dataclass(frozen=True)
class Solid:
    """A free object: semi-axes (m), mass (kg), start position (m), and the color of its goal."""

    semi_axes: Vector
    mass: float
    pos: Vector
    rgba: Color = (0.86, 0.58, 0.16, 1.0)
    goal_rgba: Color = (0.2, 0.75, 0.3, 0.4)
    name: str = OBJECT
    kind: mujoco.mjtGeom = mujoco.mjtGeom.mjGEOM_ELLIPSOID
    hand_friction: float | None = 1.0

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds the body, its weight and contacts."""
        del visual
        body = add_free_body(spec, self.name, self.pos)
        add_geom(body, self.name, self.kind, self.semi_axes, self.rgba, mass=self.mass)
        add_weight(spec, self.name, self.mass)
        contacts.pair_with_hands(spec, hand, self.name)

    def add_goal(self, spec: mujoco.MjSpec) -> None:
        """Adds a translucent body of its shape, which :meth:`HandTaskEnv.pose` is to place."""
        name = self.name.replace(OBJECT, "goal")
        goal = spec.worldbody.add_body(name=name, mocap=True, pos=self.pos)
        add_geom(goal, name, self.kind, self.semi_axes, self.goal_rgba, mass=0.0)


@dataclass(frozen=True)
class Solids:
    """Several solids, which touch each other."""

    bodies: tuple[Solid, ...]
    hand_friction: float | None = 1.0
    goals: bool = False
    """True: pictures show the goal of each."""

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds the bodies, see :class:`Solid`, and with ``visual`` their goals."""
        for body in self.bodies:
            body.add_to(spec, hand, visual=visual)
            if visual and self.goals:
                body.add_goal(spec)
        for a, b in itertools.combinations(self.bodies, 2):
            contacts.add_pair(spec, a.name, b.name, condim=4)


EGG_MASS = 500.0 * 4.0 / 3.0 * np.pi * 0.03 * 0.03 * 0.04
"""kg: density 500 kg/m^3, as Bi-DexHands sets it."""


def egg_at(pos: Vector, **settings: Any) -> Solid:
    """Returns the egg of the throwing tasks."""
    return Solid(semi_axes=(0.03, 0.03, 0.04), mass=EGG_MASS, pos=pos, **settings)
