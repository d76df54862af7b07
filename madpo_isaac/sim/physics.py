"""The physics of a model as a run keeps it: the numbers that decide how its bodies move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

_FIELDS = {
    "body": "parentid pos quat mass ipos inertia gravcomp",
    "jnt": "type bodyid pos axis range stiffness margin solref solimp limited actfrcrange",
    "dof": "armature damping frictionloss solref solimp",
    "geom": "type bodyid contype conaffinity condim size pos quat friction margin gap solref "
    "solimp",
    "pair": "geom1 geom2 dim friction margin gap solref solreffriction solimp",
    "eq": "type obj1id obj2id active0 data solref solimp",
    "tendon": "stiffness damping frictionloss range lengthspring armature solref_lim solimp_lim",
    "wrap": "type objid prm",
    "actuator": "trntype trnid gear gaintype gainprm biastype biasprm dyntype dynprm ctrlrange "
    "ctrllimited forcerange forcelimited",
    "exclude": "signature",
    "key": "qpos",
}
"""Fields of MjModel, as <group>_<name>.

``body_iquat`` is left out: of a body whose inertia is the same about two axes it says how the
computer rounded."""
_OPTIONS = ("timestep", "gravity", "density", "viscosity", "integrator", "cone", "impratio")
_KINDS = {
    "body": (mujoco.mjtObj.mjOBJ_BODY, "nbody"),
    "jnt": (mujoco.mjtObj.mjOBJ_JOINT, "njnt"),
    "geom": (mujoco.mjtObj.mjOBJ_GEOM, "ngeom"),
    "tendon": (mujoco.mjtObj.mjOBJ_TENDON, "ntendon"),
    "actuator": (mujoco.mjtObj.mjOBJ_ACTUATOR, "nu"),
}
"""Groups whose elements have names, and the fields of MjModel that count them."""
_RELATIVE, _ABSOLUTE = 1e-6, 1e-9
"""Differences that another computer's rounding makes; the second is a share of the largest
number."""


def record(model: mujoco.MjModel) -> dict[str, Any]:
    """Returns the record of ``model`` that a run keeps.

    ``values`` are the numbers of all fields, (V,) float64: one tensor, since a checkpoint takes a
    millisecond for each. ``shapes`` are the fields' shapes by name, in their order, and ``names``
    those of bodies, joints, ... by group.
    """
    fields = [f"{group}_{name}" for group, names in _FIELDS.items() for name in names.split()]
    arrays = {name: getattr(model, name) for name in ("qpos0", "qpos_spring", *fields)}
    arrays |= {f"opt.{name}": np.array(getattr(model.opt, name)) for name in _OPTIONS}
    elements = {
        group: [mujoco.mj_id2name(model, kind, i) or "" for i in range(getattr(model, size))]
        for group, (kind, size) in _KINDS.items()
    }
    elements["dof"] = [elements["jnt"][joint] for joint in model.dof_jntid]
    values = np.concatenate([array.astype(np.float64).ravel() for array in arrays.values()])
    return {
        "values": torch.from_numpy(values),
        "shapes": {name: list(array.shape) for name, array in arrays.items()},
        "names": elements,
    }


def change(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """Returns a text about the first difference; empty if there is none.

    Args:
        now: present result of an environment's ``physics()``.
        then: earlier result. Entries that only one of the two has are not compared.

    Raises:
        AttributeError, LookupError, RuntimeError, TypeError, ValueError: ``then`` is damaged.
    """
    if not now or not then:
        return ""
    for key, text in now.get("data", {}).items():
        if then.get("data", {}).get(key, text) != text:
            return key
    before = dict(_fields(then))
    for name, value in _fields(now):
        old = before.get(name, value)
        if old.shape != value.shape:
            return f"{name} has {value.numel()} numbers and had {old.numel()}"
        if old.numel() and (differs := _differs(value, old)).any():
            at = tuple(differs.nonzero()[0].tolist())
            names = now["names"].get(name.partition("_")[0])
            element = f" of '{names[at[0]]}'" if names else ""
            return f"{name}{element} is {value[at]:.6g} and was {old[at]:.6g}"
    return ""


def _fields(recorded: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The fields of a record by name, in their shapes."""
    shapes = recorded["shapes"]
    parts = recorded["values"].split([math.prod(shape) for shape in shapes.values()])
    for (name, shape), part in zip(shapes.items(), parts, strict=True):
        yield name, part.view(shape)


def _differs(value: Tensor, old: Tensor) -> Tensor:
    """Returns where two tensors of one shape differ by more than rounding."""
    limit = _RELATIVE * old.abs() + _ABSOLUTE * old.abs().amax()
    return (value != old) & ~((value - old).abs() <= limit)
