"""Builds the MuJoCo scene: two hands, fixed or floating, their sensors and their surroundings.

One model serves every engine. Actuators carry the joint damping, so that the force limit clamps
the whole drive as PhysX does. Contacts: :mod:`madpo_isaac.tasks.hands.contacts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np

from madpo_isaac.errors import UserError, unknown
from madpo_isaac.tasks.hands import contacts
from madpo_isaac.tasks.hands.contacts import HAND_PREFIXES
from madpo_isaac.tasks.hands.hand import SHADOW, Base, Capsule, Hand, load
from madpo_isaac.tasks.hands.objects import Quaternion, Vector
from madpo_isaac.tasks.hands.stage import add_stage

PREFIX = HAND_PREFIXES[0]
"""Beginning of the names of a scene's first hand."""
DRAG = 100.0
"""1/s: a floating hand's velocities decay at this rate, as Bi-DexHands sets it."""


@dataclass(frozen=True)
class Placement:
    """Initial position (m) and orientation (w, x, y, z) of the actor frame of a hand's mount."""

    pos: Vector
    quat: Quaternion

    @classmethod
    def euler(cls, pos: Vector, roll: float, pitch: float, yaw: float) -> Placement:
        """Turns about the world's x, then y, then z axis by angles in radians."""
        quat = np.empty(4)
        mujoco.mju_euler2Quat(quat, np.array((roll, pitch, yaw)), "XYZ")
        return cls(pos, (float(quat[0]), float(quat[1]), float(quat[2]), float(quat[3])))


@dataclass(frozen=True)
class Drive:
    """Force (N) and torque (N m) on a floating hand at full action, in world axes."""

    force: float
    torque: float


class Scenery(Protocol):
    """Objects of a scene besides the hands."""

    @property
    def hand_friction(self) -> float | None:
        """Friction between two floating hands; None if :meth:`add_to` lets them touch."""
        ...

    def add_to(self, spec: mujoco.MjSpec, hand: Hand, *, visual: bool) -> None:
        """Adds bodies and their contacts with ``hand``; ``visual`` adds ghosts for pictures."""
        ...


def build_spec(
    placements: Sequence[Placement],
    scenery: Scenery,
    *,
    hand: Hand | None = None,
    drive: Drive | None = None,
    visual: bool = False,
) -> mujoco.MjSpec:
    """Returns the scene of two hands, by default Shadow's; with ``drive`` they float.

    ``visual`` adds meshes, floor, light and ghosts. They take part in no contact and add no
    degree of freedom, so the state of a simulation fits both versions.

    Positions, velocities, controls and sensors start with one block for each hand. Without
    ``drive`` these are the joints, the joint targets and 19 readings a finger. A floating hand has
    its base before the joints (7 positions, 6 velocities), force, torque and three unused controls
    of the drag after the targets, palm center and palm origin after the readings.

    Raises:
        UserError: with ``drive``, for a hand that cannot float.
    """
    hand = hand or load(SHADOW)
    if drive is not None and hand.base is None:
        raise UserError(
            f"task.hand={hand.name} cannot float, which this task needs: its data have no 'base'."
        )
    base = hand.base if drive is not None else None
    spec = _empty_spec()
    for prefix, placement in zip(HAND_PREFIXES, placements, strict=True):
        frame = _frame(spec, prefix, placement, base)
        spec.attach(_hand_spec(hand, visual=visual), frame=frame, prefix=prefix)
        _add_sensors(spec, hand, prefix)
        contacts.pair_with_itself(spec, hand, prefix)
        if drive is not None and base is not None:
            _add_drive(spec, prefix, drive, base)
            _add_palm_sensors(spec, prefix + hand.full(base.palm), base)
    scenery.add_to(spec, hand, visual=visual)
    if drive is not None and scenery.hand_friction is not None:
        contacts.pair_hands(spec, hand, friction=scenery.hand_friction)
    if visual:
        add_stage(spec)
    return spec


def build_hand(hand: Hand, *, visual: bool) -> mujoco.MjSpec:
    """Returns a scene of one hand, whose names begin with :data:`PREFIX`, without sensors."""
    spec = _empty_spec()
    frame = _frame(spec, PREFIX, Placement((0.0, 0.0, 0.5), (1.0, 0.0, 0.0, 0.0)), None)
    spec.attach(_hand_spec(hand, visual=visual), frame=frame, prefix=PREFIX)
    if visual:
        add_stage(spec)
    return spec


def _frame(spec: mujoco.MjSpec, prefix: str, placement: Placement, base: Base | None) -> Any:
    """Returns the frame of a hand: a place in the world, or a moving body for a base.

    The free joint is at the hand's center of mass: there linear and angular drag are independent.
    """
    if base is None:
        return spec.worldbody.add_frame(pos=placement.pos, quat=placement.quat)
    center = np.array(base.center_of_mass)
    offset = np.empty(3)
    mujoco.mju_rotVecQuat(offset, center, np.array(placement.quat))
    name = f"{prefix}base"
    body = spec.worldbody.add_body(name=name, pos=placement.pos + offset, quat=placement.quat)
    body.add_joint(name=name, type=mujoco.mjtJoint.mjJNT_FREE)
    return body.add_frame(pos=-center)


def _add_drive(spec: mujoco.MjSpec, prefix: str, drive: Drive, base: Base) -> None:
    """Three forces against linear drag, three torques, and the angular drag.

    The drag sits in actuators since MuJoCo Warp gives a free joint one damping for all its axes.
    """
    kind = mujoco.mjtTrn
    rows = (
        ("force", kind.mjTRN_JOINT, 0, drive.force, 3 * [base.mass]),
        ("torque", kind.mjTRN_JOINTINPARENT, 3, drive.torque, 3 * [0.0]),  # world axes
        ("drag", kind.mjTRN_JOINT, 3, 0.0, base.inertia),  # the hand's axes
    )
    for name, transmission, first, gain, inertia in rows:
        for axis in range(3):
            actuator = spec.add_actuator(name=f"{prefix}{name}_{'xyz'[axis]}")
            actuator.target = f"{prefix}base"
            actuator.trntype = transmission
            actuator.gear = np.eye(6)[first + axis]
            actuator.gainprm[0] = gain
            actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
            actuator.biasprm[2] = -DRAG * inertia[axis]


def _empty_spec() -> mujoco.MjSpec:
    """Returns a scene without bodies; its angles are in radians."""
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    _set_options(spec)
    return spec


def _set_options(spec: mujoco.MjSpec) -> None:
    """Solver settings; measured as the fastest that neither explode nor tunnel."""
    spec.option.timestep = 1.0 / 120.0
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    spec.option.iterations = 10
    spec.option.ls_iterations = 50
    spec.option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    spec.option.gravity = (0.0, 0.0, 0.0)
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_MULTICCD
    spec.visual.global_.offwidth = 1920
    spec.visual.global_.offheight = 1080


def _hand_spec(hand: Hand, *, visual: bool) -> mujoco.MjSpec:
    """Loads one hand and keeps only the parts that the tasks use."""
    spec = mujoco.MjSpec.from_file(str(hand.model_file))
    _check_names(spec, hand)
    _set_options(spec)  # equal options on both sides, or attaching warns of a conflict
    # Buffer sizes in the file are obsolete and clash when the hand is attached twice.
    spec.njmax = spec.nconmax = -1
    for field in ("jnt", "site", "tendon", "sensor", "actuator"):
        setattr(spec, f"nuser_{field}", -1)
    world = spec.worldbody
    root = spec.body(hand.full(hand.root))
    root.pos = hand.mount.pos
    if hand.mount.quat is not None:
        root.quat = hand.mount.quat
    others = [body for body in world.bodies if body.parent == world and body.name != root.name]
    for element in (*world.geoms, *world.lights, *others, *spec.sensors, *spec.pairs):
        spec.delete(element)
    couplings = [hand.full(name) for name in hand.couplings]
    for tendon in spec.tendons:
        if tendon.name not in couplings:
            spec.delete(tendon)
    capsules = {hand.full(name): capsule for name, capsule in hand.capsules.items()}
    solid = [hand.full(name) for name in hand.solid]
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
        if geom.name in capsules:
            _to_capsule(geom, capsules[geom.name])
        elif geom.name not in solid and not visual:
            spec.delete(geom)
    for texture in spec.textures:
        if texture.type == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            spec.delete(texture)
    if not visual:
        for asset in (*spec.meshes, *spec.materials, *spec.textures):
            spec.delete(asset)
        for geom in spec.geoms:
            geom.material = ""
    _move_damping_to_actuators(spec)
    return spec


def _check_names(spec: mujoco.MjSpec, hand: Hand) -> None:
    """Raises UserError if the model does not agree with the hand's data."""
    palm = [] if hand.base is None else [hand.base.palm]
    if (root := spec.body(hand.full(hand.root))) is None:
        names = [body.name for body in spec.bodies]
        raise unknown(f"body in the model of hand '{hand.name}'", hand.full(hand.root), names)
    for kind, names, elements in (
        ("body", [*hand.fingers.values(), *palm], [root, *root.find_all("body")]),
        ("geom", hand.solid, root.find_all("geom")),
        ("tendon", hand.couplings, spec.tendons),
    ):
        found = [element.name for element in elements]
        for name in map(hand.full, names):
            if name not in found:
                raise unknown(f"{kind} in the model of hand '{hand.name}'", name, found)
    for what, names, found in (
        ("joints", hand.joints, [joint.name for joint in spec.joints]),
        ("actuators of parts", hand.driven, [actuator.target for actuator in spec.actuators]),
    ):
        if (full := [hand.full(name) for name in names]) != found:
            raise UserError(f"Hand '{hand.name}' has the {what} {full}, its model {found}.")
    for joint in spec.joints:
        named = f"Joint '{joint.name}' in the model of hand '{hand.name}'"
        if joint.type != mujoco.mjtJoint.mjJNT_HINGE:
            kind = mujoco.mjtJoint(joint.type).name.removeprefix("mjJNT_").lower()
            raise UserError(f"{named} is a {kind} joint: only hinges can be driven and observed.")
        low, high = joint.range
        if joint.limited == mujoco.mjtLimited.mjLIMITED_FALSE or not low < high:
            raise UserError(f"{named} has no range: actions are mapped to it.")


def _to_capsule(geom: mujoco.MjsGeom, capsule: Capsule) -> None:
    """Replaces a convex mesh by a capsule: far cheaper in contact."""
    geom.type = mujoco.mjtGeom.mjGEOM_CAPSULE
    geom.meshname = ""
    geom.size = (*capsule.size, 0.0)
    geom.pos = capsule.pos
    geom.quat = (1.0, 0.0, 0.0, 0.0)


def _move_damping_to_actuators(spec: mujoco.MjSpec) -> None:
    """Makes each drive kp (target - q) - kd v under one force limit, as a PhysX drive is."""
    driven = {actuator.target: actuator for actuator in spec.actuators}
    for joint, actuator in driven.items():
        actuator.name = actuator.name or f"{joint}_drive"  # hands are told apart by names
    for joint in spec.joints:
        joint.margin = 0.0
        joint.frictionloss = 0.0
        if joint.name in driven:
            driven[joint.name].biasprm[2] = -joint.damping[0]
            joint.damping = np.zeros_like(joint.damping)


def _add_sensors(spec: mujoco.MjSpec, hand: Hand, prefix: str) -> None:
    """Fingertip poses and velocities (13 numbers each), then their force-torques (6 each)."""
    kind = mujoco.mjtSensor
    distals = [prefix + hand.full(body) for body in hand.fingers.values()]
    for body in distals:
        for name, sensor in (
            ("pos", kind.mjSENS_FRAMEPOS),
            ("quat", kind.mjSENS_FRAMEQUAT),
            ("linvel", kind.mjSENS_FRAMELINVEL),
            ("angvel", kind.mjSENS_FRAMEANGVEL),
        ):
            spec.add_sensor(
                name=f"{body}_{name}",
                type=sensor,
                objtype=mujoco.mjtObj.mjOBJ_XBODY,
                objname=body,
            )
    for body in distals:
        spec.body(body).add_site(name=f"{body}_ft")
        for name, sensor in (("force", kind.mjSENS_FORCE), ("torque", kind.mjSENS_TORQUE)):
            spec.add_sensor(
                name=f"{body}_{name}",
                type=sensor,
                objtype=mujoco.mjtObj.mjOBJ_SITE,
                objname=f"{body}_ft",
            )


def _add_palm_sensors(spec: mujoco.MjSpec, name: str, base: Base) -> None:
    """Positions of the palm's center and of its body's origin (3 numbers each)."""
    palm = spec.body(name)
    center = f"{palm.name}_center"
    palm.add_site(name=center, pos=base.palm_center)
    kind = mujoco.mjtObj
    for objtype, name in ((kind.mjOBJ_SITE, center), (kind.mjOBJ_XBODY, palm.name)):
        spec.add_sensor(
            name=f"{name}_pos",
            type=mujoco.mjtSensor.mjSENS_FRAMEPOS,
            objtype=objtype,
            objname=name,
        )
