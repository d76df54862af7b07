"""Contacts and their friction in a scene of two hands.

Contacts are listed pair by pair, which avoids the broad phase. If an object has many geoms (the
doors), filtering by type is faster. PhysX takes the average of two frictions and MuJoCo takes the
larger one, so pairs, or geoms with a priority, carry the average.
"""

from __future__ import annotations

import itertools

import mujoco
import numpy as np

from madpo_isaac.tasks.hands.hand import Hand

HAND_PREFIXES = ("hand0_", "hand1_")
_PAIR_MARGIN = 0.0005
_HAND_TYPES = (1, 2)
_OBJECT_TYPE = 4


def add_pair(spec: mujoco.MjSpec, a: str, b: str, *, condim: int, friction: float = 1.0) -> None:
    """Lets the geoms ``a`` and ``b`` touch; ``condim`` 1 is without friction."""
    boxes = all(spec.geom(name).type == mujoco.mjtGeom.mjGEOM_BOX for name in (a, b))
    spec.add_pair(
        geomname1=a,
        geomname2=b,
        condim=condim,
        margin=0.0 if boxes else _PAIR_MARGIN,  # MuJoCo Warp: no margin between boxes
        friction=_coefficients(friction),
    )


def solid_geoms(hand: Hand, prefix: str) -> list[str]:
    """Returns the names that a hand's solid parts have in a scene."""
    return [prefix + hand.full(name) for name in hand.solid]


def pair_with_itself(spec: mujoco.MjSpec, hand: Hand, prefix: str) -> None:
    """Lets the fingers of one hand touch each other, as listed in its data."""
    for a, b in hand.self_collisions:
        add_pair(spec, prefix + hand.full(a), prefix + hand.full(b), condim=1)


def pair_with_hands(spec: mujoco.MjSpec, hand: Hand, geom: str, *, friction: float = 1.0) -> None:
    """Lets ``geom`` touch every solid part of both hands."""
    for prefix in HAND_PREFIXES:
        for part in solid_geoms(hand, prefix):
            add_pair(spec, geom, part, condim=4, friction=friction)


def pair_hands(spec: mujoco.MjSpec, hand: Hand, *, friction: float = 1.0) -> None:
    """Lets every solid part of a hand touch every one of the other hand."""
    for a, b in itertools.product(*(solid_geoms(hand, prefix) for prefix in HAND_PREFIXES)):
        add_pair(spec, a, b, condim=3, friction=friction)


def filter_by_type(spec: mujoco.MjSpec, hand: Hand, geoms: list[str], *, friction: float) -> None:
    """Lets hands touch each other and ``geoms``, which do not touch among themselves.

    The hands' own friction is 1; ``friction`` is that between a hand and one of ``geoms``.
    """
    for prefix, own, other in zip(HAND_PREFIXES, _HAND_TYPES, _HAND_TYPES[::-1], strict=True):
        for name in solid_geoms(hand, prefix):
            geom = spec.geom(name)
            geom.contype, geom.conaffinity = own, other | _OBJECT_TYPE
            geom.condim, geom.margin = 3, 0.0
            geom.friction = _coefficients(1.0)[[0, 2, 3]]
    for name in geoms:
        geom = spec.geom(name)
        geom.contype, geom.conaffinity = _OBJECT_TYPE, sum(_HAND_TYPES)
        geom.condim, geom.margin, geom.priority = 4, 0.0, 1
        geom.friction = _coefficients(friction)[[0, 2, 3]]


def _coefficients(friction: float) -> np.ndarray:
    """Sliding twice, torsional, rolling twice."""
    return np.array((friction, friction, 0.005, 0.001, 0.001))
