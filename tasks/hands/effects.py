"""Numbers of a model that a multiplier of domain randomization changes.

MuJoCo derives constants from masses and sizes when it compiles a model. A later change of masses or
sizes has to change these constants too, so they are listed here with their own powers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np

from madpo_isaac.errors import UserError

_PRIMITIVES = (
    mujoco.mjtGeom.mjGEOM_SPHERE,
    mujoco.mjtGeom.mjGEOM_CAPSULE,
    mujoco.mjtGeom.mjGEOM_ELLIPSOID,
    mujoco.mjtGeom.mjGEOM_CYLINDER,
    mujoco.mjtGeom.mjGEOM_BOX,
)


class Effect(NamedTuple):
    """Elements of one model field that are multiplied by a factor."""

    field: str
    elements: np.ndarray
    """Elements of the flattened field. (k,)"""
    factor: str
    """``friction``, ``gain``, ``size``, ``mass``, ``inertia``, ``per_mass`` or ``per_inertia``."""
    column: np.ndarray
    """Column of the factor that multiplies each element. (k,)"""


def effects_of(
    model: mujoco.MjModel, roots: Sequence[int], drives: np.ndarray, active: Mapping[str, Any]
) -> Iterator[Effect]:
    """Yields the effects of the ``active`` quantities; no element of a field comes twice."""
    if "friction" in active:
        yield from _friction_effects(model, roots)
    for column, root in enumerate(roots):
        if "object_size" in active:
            yield from _size_effects(model, root, column)
        if "object_size" in active or "object_mass" in active:
            yield from _mass_effects(model, root, column)
    if "actuator_gain" in active:
        if len(drives) == 0:
            raise _unsupported("actuator_gain", "there is no drive")
        order = np.arange(len(drives))
        # The target's side and the position's side of kp (target - q), and its constant.
        yield Effect("actuator_gainprm", _flat(model.actuator_gainprm, drives, 0), "gain", order)
        for k in (0, 1):
            index = _flat(model.actuator_biasprm, drives, k)
            yield Effect("actuator_biasprm", index, "gain", order)


def _friction_effects(model: mujoco.MjModel, roots: Sequence[int]) -> Iterator[Effect]:
    own = np.isin(model.geom_bodyid, np.concatenate([_subtree(model, root) for root in roots]))
    # A pair has its own coefficients; other contacts have those of the geom of higher priority.
    pairs = np.flatnonzero(own[model.pair_geom1] | own[model.pair_geom2])
    yield _uniform("pair_friction", model.pair_friction, pairs, "friction")
    geoms = np.flatnonzero(own & _filtered(model))
    for a in geoms.tolist():
        others = _partners(model, a) & ~own
        if (model.geom_priority[others] >= model.geom_priority[a]).any():
            name = model.geom(a).name
            raise _unsupported("friction", f"what '{name}' touches has no lower geom priority")
    if len(pairs) == len(geoms) == 0:
        raise _unsupported("friction", "the objects touch nothing")
    yield _uniform("geom_friction", model.geom_friction, geoms, "friction")


def _mass_effects(model: mujoco.MjModel, root: int, column: int) -> Iterator[Effect]:
    """Yields all numbers that are proportional to an object's mass, derived constants included.

    The proportionality is exact, since only the object itself moves with its joints.
    """
    name = model.body(root).name
    if model.body_weldid[model.body_parentid[root]] != 0:
        raise _unsupported("object_mass", f"'{name}' is carried")
    bodies = _subtree(model, root)
    dofs = np.flatnonzero(np.isin(model.dof_bodyid, bodies))
    if model.dof_armature[dofs].any():
        raise _unsupported("object_mass", f"'{name}' has armature")
    # The engine derives none of these again: it takes a simple body's inertia from dof_M0, and
    # the softness of contacts and limits from the inverse weights.
    free = model.jnt_type[model.dof_jntid[dofs]] == mujoco.mjtJoint.mjJNT_FREE
    linear = free & (dofs - model.jnt_dofadr[model.dof_jntid[dofs]] < 3)
    for field, array, rows, factor in (
        ("body_mass", model.body_mass, bodies, "mass"),
        ("body_subtreemass", model.body_subtreemass, bodies, "mass"),
        ("body_inertia", model.body_inertia, bodies, "inertia"),
        ("dof_M0", model.dof_M0, dofs[linear], "mass"),
        ("dof_M0", model.dof_M0, dofs[~linear], "inertia"),
        ("dof_invweight0", model.dof_invweight0, dofs[linear], "per_mass"),
        ("dof_invweight0", model.dof_invweight0, dofs[~linear], "per_inertia"),
    ):
        yield _uniform(field, array, rows, factor, column)
    for k, factor in enumerate(("per_mass", "per_inertia")):
        index = _flat(model.body_invweight0, bodies, k)
        yield Effect("body_invweight0", index, factor, np.full(len(index), column))
    # Weights are constant forces on the object's own joint.
    joints = np.isin(model.actuator_trnid[:, 0], model.dof_jntid[dofs])
    joints &= model.actuator_trntype == mujoco.mjtTrn.mjTRN_JOINT
    weights = np.flatnonzero(joints & (model.actuator_gainprm[:, 0] == 0.0))
    index = _flat(model.actuator_biasprm, weights, 0)
    yield Effect("actuator_biasprm", index, "mass", np.full(len(index), column))


def _size_effects(model: mujoco.MjModel, root: int, column: int) -> Iterator[Effect]:
    """Yields all lengths of an object, with the bounds that collision detection looks at first."""
    name = model.body(root).name
    geoms = np.flatnonzero(model.geom_bodyid == root)
    joint = model.body_jntadr[root]
    free = joint >= 0 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE
    if not free or len(_subtree(model, root)) > 1:
        raise _unsupported("object_size", f"'{name}' is not one free body")
    if not np.isin(model.geom_type[geoms], _PRIMITIVES).all():
        raise _unsupported("object_size", f"'{name}' is not made of primitive shapes")
    if _filtered(model)[geoms].any():
        # Bounding volume trees cannot differ between environments; pairs do not use them.
        raise _unsupported("object_size", f"'{name}' does not collide by explicit pairs")
    for field, array, rows in (
        ("geom_size", model.geom_size, geoms),
        ("geom_rbound", model.geom_rbound, geoms),
        ("geom_aabb", model.geom_aabb, geoms),
        ("geom_pos", model.geom_pos, geoms),
        ("body_ipos", model.body_ipos, np.array([root])),
        ("site_pos", model.site_pos, np.flatnonzero(model.site_bodyid == root)),
    ):
        yield _uniform(field, array, rows, "size", column)


def _unsupported(quantity: str, reason: str) -> UserError:
    return UserError(f"task.randomize.{quantity} does not work here: {reason}.")


def drives_of(model: mujoco.MjModel) -> np.ndarray:
    """Actuators kp (target - q) - kd v: those with a force against the position."""
    return np.flatnonzero(model.actuator_biasprm[:, 1] != 0.0)


def _subtree(model: mujoco.MjModel, root: int) -> np.ndarray:
    """The body ``root`` and all that hang on it; parents come first in a model."""
    bodies = [root]
    for body in range(root + 1, model.nbody):
        if model.body_parentid[body] in bodies:
            bodies.append(body)
    return np.array(bodies)


def _filtered(model: mujoco.MjModel) -> np.ndarray:
    """Geoms that collide by contype and conaffinity. (ngeom,) bool"""
    return (model.geom_contype | model.geom_conaffinity) != 0


def _partners(model: mujoco.MjModel, geom: int) -> np.ndarray:
    """Geoms that the filter lets collide with ``geom``. (ngeom,) bool"""
    kind, affinity = model.geom_contype, model.geom_conaffinity
    return ((kind[geom] & affinity) | (kind & affinity[geom])) != 0


def _flat(array: np.ndarray, rows: np.ndarray, column: int) -> np.ndarray:
    return rows * array.shape[1] + column


def _uniform(
    field: str, array: np.ndarray, rows: np.ndarray, factor: str, column: int = 0
) -> Effect:
    """All elements of ``rows`` of a field times one column of a factor."""
    width = array[0].size if len(array) else 1
    index = (rows[:, None] * width + np.arange(width)).ravel()
    return Effect(field, index, factor, np.full(len(index), column))
