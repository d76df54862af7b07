"""The Shadow hand as data: where its model is, its joints, parts and collision pairs.

Order of joints and actuators is that of the MJCF file in gymnasium-robotics, which is also the
order of Bi-DexHands.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from madpo_isaac.errors import UserError

NUM_JOINTS = 24
NUM_ACTUATORS = 20

FINGERS = ("ff", "mf", "rf", "lf", "th")
"""First, middle, ring and little finger, thumb."""

PARTS = ("palm", "ff", "mf", "rf", "lf", "th")
PART_ACTUATORS: tuple[tuple[int, ...], ...] = (
    (0, 1),
    (2, 3, 4),
    (5, 6, 7),
    (8, 9, 10),
    (11, 12, 13, 14),
    (15, 16, 17, 18, 19),
)
"""Actuators of each of :data:`PARTS`; the palm moves the wrist."""

PART_ROLES: tuple[tuple[str, ...], ...] = (
    ("abduction", "flexion"),
    *3 * (("abduction", "flexion", "middle_flexion"),),
    ("metacarpal", "abduction", "flexion", "middle_flexion"),
    ("opposition", "flexion", "abduction", "middle_flexion", "distal_flexion"),
)
"""What each actuator of :data:`PARTS` does, from the base outwards; the palm's move the wrist."""

BASE_ROLES = ("force_x", "force_y", "force_z", "torque_x", "torque_y", "torque_z")
"""What the first actions of a floating hand do, in world axes; they belong to the palm."""

MASS = 5.011
"""kg, of the whole hand."""
CENTRE_OF_MASS = (-0.001636, -0.291660, -0.008112)
"""Of the flat hand, from its mount, in the axes of the actor's pose, metres."""
INERTIA = (0.026047, 0.011201, 0.026497)
"""About the centre of mass along the same axes, kg m^2; the products are below 4e-4."""
PALM_CENTRE = (0.0, -0.02, 0.08)
"""The point of the palm that Bi-DexHands observes, in the frame of the palm's body, metres."""
FINGERTIP = (0.0, 0.0, 0.02)
"""The point of a finger that Bi-DexHands rewards, in the frame of its distal link, metres."""

COUPLING_TENDONS = tuple(f"robot0:T_{finger}J1c" for finger in ("FF", "MF", "RF", "LF"))
"""Tendons that make the distal joint J0 of a finger follow J1."""

_FINGER_LINKS = ("proximal", "middle", "distal")
COLLISION_GEOMS = (
    "robot0:C_forearm",
    "robot0:C_wrist",
    "robot0:C_palm0",
    "robot0:C_palm1",
    "robot0:C_lfmetacarpal",
    *(f"robot0:C_{finger}{link}" for finger in FINGERS for link in _FINGER_LINKS),
)
"""Primitives an object can touch."""

SELF_COLLISIONS = tuple(
    (f"robot0:C_{a}", f"robot0:C_{b}")
    for a, b in (
        ("ffdistal", "thdistal"),
        ("ffmiddle", "thdistal"),
        ("ffproximal", "thdistal"),
        ("mfproximal", "thdistal"),
        ("mfdistal", "thdistal"),
        ("rfdistal", "thdistal"),
        ("lfdistal", "thdistal"),
        ("palm0", "thdistal"),
        ("mfdistal", "ffdistal"),
        ("rfdistal", "mfdistal"),
        ("lfdistal", "rfdistal"),
        ("mfproximal", "ffproximal"),
        ("rfproximal", "mfproximal"),
        ("lfproximal", "rfproximal"),
        ("lfdistal", "mfdistal"),
        ("lfdistal", "rfmiddle"),
        ("lfmiddle", "rfdistal"),
        ("lfmiddle", "rfmiddle"),
    )
)
"""Pairs of the hand's own geoms that collide, without friction."""


def model_file() -> Path:
    """Returns the MJCF file of one hand, shipped by gymnasium-robotics.

    The package is located, not imported: its import is slow and its environments do not work
    with this version of MuJoCo, while its models do.
    """
    package = importlib.util.find_spec("gymnasium_robotics")
    if package is None or not package.submodule_search_locations:
        raise UserError("The hand model comes with gymnasium-robotics==1.4.2: install it.")
    return Path(package.submodule_search_locations[0]) / "envs/assets/hand/reach.xml"


def part_actions(part: int, *, floating: bool) -> list[tuple[int, str]]:
    """Returns the actions of one of :data:`PARTS` as (column of the hand's action, role).

    A floating hand has the base's six actions first, which the palm takes.
    """
    first = len(BASE_ROLES) if floating else 0
    base = list(enumerate(BASE_ROLES[:first])) if part == 0 else []
    columns = [first + actuator for actuator in PART_ACTUATORS[part]]
    return base + list(zip(columns, PART_ROLES[part], strict=True))


def agent_parts(agents: object) -> list[tuple[str, list[int]]]:
    """Returns the agents of one hand as (name, part indices).

    Args:
        agents: ``"hands"`` (one agent), ``"fingers"`` (one agent a part) or a list of lists of
            part indices 0 to 5 (see :data:`PARTS`) that uses every part once.

    Raises:
        UserError: for anything else.
    """
    if agents == "hands":
        return [("hand", list(range(len(PARTS))))]
    if agents == "fingers":
        return [(part, [i]) for i, part in enumerate(PARTS)]
    if isinstance(agents, (list, tuple)) and all(isinstance(a, (list, tuple)) for a in agents):
        groups = [list(group) for group in agents]
        used = [part for group in groups for part in group]
        whole = all(type(part) is int for part in used)  # True is no part
        if whole and all(groups) and sorted(used) == list(range(len(PARTS))):
            return [("_".join(PARTS[part] for part in group), group) for group in groups]
    raise UserError(
        f"task.agents={agents} is not a split of the hand. Allowed: hands, fingers, or a list of "
        f"part lists that uses each of 0..5 ({', '.join(PARTS)}) once, as [[0,1,2],[3,4,5]]."
    )
