"""A hand as data: its model, joints, parts, fingertips and colliding geoms.

The data are YAML files in ``tasks/hands/models``; docs/new_hand.md shows how to add one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from madpo_isaac.errors import UserError, closest, reason_of, unknown
from madpo_isaac.system.files import plain_settings

MODELS = Path(__file__).parent / "models"
SHADOW = "shadow"
"""The hand that the tasks were made for."""

_FARTHEST = 1e3
"""Limit of all lengths (meters) and masses (kilograms)."""
_NO_TURN = 1e-12
"""Least square of the length of a quaternion that can be normalized."""

_RENAMED = {"palm_centre": "palm_center", "centre_of_mass": "center_of_mass"}
"""Keys of the group ``base`` in earlier versions."""
BASE_ROLES = ("force_x", "force_y", "force_z", "torque_x", "torque_y", "torque_z")
"""Roles of the first actions of a floating hand, in world axes; they belong to its first part."""


@dataclass
class Mount:
    """Pose of a hand's root body in the actor frame of the tasks, where fingers point to -y."""

    pos: list[float]
    """(x, y, z), meters."""
    quat: list[float] | None = None
    """(w, x, y, z); None keeps the model's orientation."""


@dataclass
class Capsule:
    """A capsule that replaces a mesh, along the z axis of its body."""

    size: list[float]
    """Radius and half-length of the cylinder, meters."""
    pos: list[float]
    """Its center, meters."""


@dataclass
class Base:
    """Data that a hand needs to float."""

    palm: str
    """The palm's body."""
    palm_center: list[float]
    """The point of the palm that is observed, in the palm's frame, meters."""
    mass: float
    """Mass of the whole hand, kg."""
    center_of_mass: list[float]
    """Center of mass of the flat hand, from its mount, in the axes of the actor's pose, meters."""
    inertia: list[float]
    """About the center of mass along the same axes, kg m^2."""


@dataclass
class Hand:
    """A hand. Names are those of the model, without :attr:`prefix`."""

    model: str
    """MJCF file: beside the YAML file, or <package>/<path> in an installed Python package."""
    root: str
    """The body that carries all others; the rest of the model is dropped."""
    mount: Mount
    """Pose of the root."""
    fingers: dict[str, str]
    """Fingers, and their outermost bodies, whose poses, velocities and loads are observed."""
    fingertip: list[float]
    """The rewarded point of a finger, in the frame of its outermost body, meters."""
    joints: list[str]
    """All hinges, in the order of the model."""
    parts: dict[str, dict[str, str]]
    """Parts that ``agents=fingers`` makes agents of: driven joints and the role of each. All parts
    in a row are the model's position actuators, in its order. MADPO pairs the actions of two parts
    by their roles. The first part has the base of a floating hand."""
    solid: list[str]
    """Geoms that touch things, primitive shapes."""
    name: str = ""
    prefix: str = ""
    """Beginning of all names of the model."""
    couplings: list[str] = field(default_factory=list)
    """Tendons to keep, which make a joint without a drive follow another."""
    capsules: dict[str, Capsule] = field(default_factory=dict)
    """Meshes to replace."""
    self_collisions: list[list[str]] = field(default_factory=list)
    """Pairs of its own geoms that collide, without friction."""
    base: Base | None = None
    """Data of the base; None for a hand that cannot float."""

    @property
    def driven(self) -> list[str]:
        """Joints that actions drive, in their order."""
        return [joint for part in self.parts.values() for joint in part]

    def full(self, name: str) -> str:
        """Returns a name as the model has it."""
        return self.prefix + name

    @property
    def model_file(self) -> Path:
        """The MJCF file of one hand.

        A package is located, not imported: gymnasium-robotics is slow to import and its
        environments do not work with this version of MuJoCo, while its models do.

        Raises:
            UserError: the file does not exist.
        """
        path = self._folder / self.model
        if os.path.isfile(path):  # which takes names that are too long, too
            return path
        package, _, inside = self.model.partition("/")
        found = None
        with contextlib.suppress(ImportError, ValueError):  # of modules that are no packages
            found = importlib.util.find_spec(package) if package.isidentifier() else None
        for folder in (found.submodule_search_locations or []) if found else []:
            if os.path.isfile(Path(folder) / inside):
                return Path(folder) / inside
        hint = ": install gymnasium-robotics==1.4.2" if "gymnasium_robotics" in package else ""
        raise UserError(f"The model '{self.model}' of hand '{self.name}' is not there{hint}.")

    @property
    def _folder(self) -> Path:
        return _path(self.name).parent

    def record(self) -> dict[str, str]:
        """Returns the data as texts by key, without the names of the files."""
        own = [field.name for field in fields(self) if field.name not in ("name", "model")]
        return {f"hand.{name}": str(getattr(self, name)) for name in own}

    def part_actions(self, part: int, *, floating: bool) -> list[tuple[int, str]]:
        """Returns the actions of a part, by number, as (column of the hand's action, role).

        A floating hand has the base's six actions first, which the first part takes.
        """
        first = len(BASE_ROLES) if floating else 0
        base = list(enumerate(BASE_ROLES[:first])) if part == 0 else []
        roles = [list(joints.values()) for joints in self.parts.values()]
        start = first + sum(map(len, roles[:part]))
        return base + list(enumerate(roles[part], start))

    def agent_parts(self, agents: object) -> list[tuple[str, list[int]]]:
        """Returns the agents of one hand as (name, part numbers).

        Args:
            agents: ``"hands"`` (one agent), ``"fingers"`` (one agent a part) or a list of lists of
                numbers of :attr:`parts` that uses every part once.

        Raises:
            UserError: for anything else.
        """
        names = list(self.parts)
        if agents == "hands":
            return [("hand", list(range(len(names))))]
        if agents == "fingers":
            return [(part, [i]) for i, part in enumerate(names)]
        if isinstance(agents, (list, tuple)) and all(isinstance(a, (list, tuple)) for a in agents):
            groups = [list(group) for group in agents]
            used = [part for group in groups for part in group]
            whole = all(type(part) is int for part in used)  # True is no part
            if whole and all(groups) and sorted(used) == list(range(len(names))):
                return [("_".join(names[part] for part in group), group) for group in groups]
        last, hint = len(names) - 1, closest(agents, ("hands", "fingers", "joint"))
        raise UserError(
            f"task.agents={agents} is not a split of the hand.{hint} Allowed: hands, fingers, "
            f"joint, or a list of part lists that uses each of 0..{last} ({', '.join(names)}) "
            f"once, as {_example(len(names))}."
        )


def _example(parts: int) -> str:
    half = (parts + 1) // 2
    return str([list(range(half)), list(range(half, parts))]).replace(" ", "")


def names() -> list[str]:
    """Returns the hands that come with the project."""
    return sorted(file.stem for file in MODELS.glob("*.yaml"))


def _path(name: str) -> Path:
    return Path(name) if name.endswith(".yaml") else MODELS / f"{name}.yaml"


@functools.cache
def load(name: str) -> Hand:
    """Returns a hand.

    Args:
        name: one of those that come with the project, or the path of a YAML file.

    Raises:
        UserError: there is no such hand, or its data are incomplete.
    """
    path = _path(name)
    if not os.path.isfile(path):
        raise unknown("hand", name, names())
    try:
        given = plain_settings(path.read_text(encoding="utf-8"), path)
        _refuse_old_names(given, path)
        merged = OmegaConf.merge(OmegaConf.structured(Hand), given, {"name": name})
        found = OmegaConf.to_object(merged)
    except UserError:
        raise
    except (OmegaConfBaseException, OSError, OverflowError, ValueError) as problem:
        raise UserError(f"The hand in '{path}' cannot be read: {reason_of(problem)}.") from problem
    assert isinstance(found, Hand)
    try:
        _check(found, path)
    except (AttributeError, TypeError):  # OmegaConf lets a group pass for a text
        raise UserError(f"The hand in '{path}' has an entry of the wrong type.") from None
    return found


def _refuse_old_names(given: DictConfig, path: Path) -> None:
    base = given.get("base")
    for old, new in _RENAMED.items():
        if isinstance(base, DictConfig) and old in base:
            raise UserError(f"'{path}': base.{old} is now base.{new}.")


def _check_numbers(hand: Hand, path: Path) -> None:
    """Raises UserError for a vector of another length or an impossible number."""
    vectors = {"mount.pos": (hand.mount.pos, 3), "fingertip": (hand.fingertip, 3)}
    positive: dict[str, list[float]] = {}
    if hand.mount.quat is not None:
        vectors["mount.quat"] = (hand.mount.quat, 4)
    for name, capsule in hand.capsules.items():
        vectors[f"capsules.{name}.size"] = (capsule.size, 2)
        vectors[f"capsules.{name}.pos"] = (capsule.pos, 3)
        positive[f"capsules.{name}.size"] = capsule.size
    if hand.base is not None:
        for key in ("palm_center", "center_of_mass", "inertia"):
            vectors[f"base.{key}"] = (getattr(hand.base, key), 3)
        positive |= {"base.mass": [hand.base.mass], "base.inertia": hand.base.inertia}
    for key, (value, length) in vectors.items():
        if len(value) != length:
            raise UserError(f"'{path}': {key}={value} must have {length} numbers.")
        if not all(abs(x) <= _FARTHEST for x in value):
            raise UserError(f"'{path}': {key}={value} must be numbers of at most {_FARTHEST:g}.")
    for key, value in positive.items():
        if not all(0.0 < x <= _FARTHEST for x in value):
            raise UserError(f"'{path}': {key}={value} must be greater than 0 and finite.")
    if hand.mount.quat is not None and sum(x * x for x in hand.mount.quat) < _NO_TURN:
        raise UserError(f"'{path}': mount.quat={hand.mount.quat} is no orientation.")


def _check(hand: Hand, path: Path) -> None:
    """Raises UserError if lists contradict each other, and TypeError if a text is not one."""
    couplings, base = hand.couplings, [] if hand.base is None else [hand.base.palm]
    listed = [*hand.joints, *hand.solid, *couplings, *hand.fingers.values(), *hand.driven, *base]
    "".join((hand.model, hand.root, hand.prefix, *listed, *hand.fingers, *hand.parts))
    _check_numbers(hand, path)
    for key in ("fingers", "joints", "parts", "solid"):
        if not getattr(hand, key):
            raise UserError(f"'{path}': {key} must not be empty.")
    for part, joints in hand.parts.items():
        if not joints:
            raise UserError(f"'{path}': part '{part}' drives no joint.")
    for key, names in {
        "joints": hand.joints,
        "parts": hand.driven,
        "fingers": list(hand.fingers.values()),
        "solid": hand.solid,
    }.items():
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"'{path}': {key} has '{twice[0]}' more than once.")
    for pair in hand.self_collisions:
        if len(pair) != 2 or pair[0] == pair[1]:
            raise UserError(f"'{path}': self_collisions has {pair}, which is no pair of two geoms.")
    for joint in hand.driven:
        if joint not in hand.joints:
            raise unknown(f"joint in parts of '{path}'", joint, hand.joints)
    for geom in (*hand.capsules, *(geom for pair in hand.self_collisions for geom in pair)):
        if geom not in hand.solid:
            raise unknown(f"solid geom in '{path}'", geom, hand.solid)
