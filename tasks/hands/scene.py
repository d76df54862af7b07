"""Builds the MuJoCo scene: two hands, an object, explicit collision pairs, sensors.

One model serves every engine. Contacts are listed pair by pair (contype and conaffinity are 0
everywhere), which spares the broad phase; actuators carry the joint damping, so that the force
limit clamps the whole drive as PhysX does; gravity acts on the object alone, since Bi-DexHands
switches it off for the hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from tasks.hands import hand

HAND_PREFIXES = ("hand0_", "hand1_")
OBJECT = "object"
GRAVITY = 9.81
"""m/s^2, on the object only."""

_PAIR_FRICTION = (1.0, 1.0, 0.005, 0.001, 0.001)
_PAIR_MARGIN = 0.0005


@dataclass(frozen=True)
class Placement:
    """Where a hand's mount starts: position (m) and orientation (w, x, y, z) of its actor frame."""

    pos: tuple[float, float, float]
    quat: tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """A camera for pictures: point looked at (m), distance (m), angles (degrees)."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Ellipsoid:
    """A free object: semi-axes (m), mass (kg) and start position (m)."""

    semi_axes: tuple[float, float, float]
    mass: float
    pos: tuple[float, float, float]
    rgba: tuple[float, float, float, float] = (0.86, 0.58, 0.16, 1.0)


EGG_MASS = 500.0 * 4.0 / 3.0 * np.pi * 0.03 * 0.03 * 0.04
"""kg: density 500 kg/m^3, as Bi-DexHands sets it."""


def build_spec(
    placements: Sequence[Placement], body: Ellipsoid, *, visual: bool = False
) -> mujoco.MjSpec:
    """Returns the scene; with ``visual`` also meshes, floor, light and the goal's ghost.

    The visual additions take part in no contact and add no degree of freedom, so the state of a
    simulation fits both versions.
    """
    spec = mujoco.MjSpec()
    spec.compiler.degree = False
    _set_options(spec)
    for prefix, placement in zip(HAND_PREFIXES, placements, strict=True):
        frame = spec.worldbody.add_frame(pos=placement.pos, quat=placement.quat)
        spec.attach(_hand_spec(visual=visual), frame=frame, prefix=prefix)
        _add_sensors(spec, prefix)
    _add_object(spec, body)
    _add_pairs(spec)
    if visual:
        _add_stage(spec, body)
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


def _hand_spec(*, visual: bool) -> mujoco.MjSpec:
    """Loads one hand and reduces it to what the tasks use."""
    spec = mujoco.MjSpec.from_file(str(hand.model_file()))
    _set_options(spec)  # equal options on both sides, or attaching warns of a conflict
    # Buffer sizes in the file are obsolete and clash when the hand is attached twice.
    spec.njmax = spec.nconmax = -1
    for field in ("jnt", "site", "tendon", "sensor", "actuator"):
        setattr(spec, f"nuser_{field}", -1)
    world = spec.worldbody
    mount = spec.body("robot0:hand mount")
    mount.pos = (0.0, 0.0, 0.0)  # the actor's pose replaces it; its rotation stays
    for element in (*world.geoms, *world.lights, *spec.sensors, *spec.pairs):
        spec.delete(element)
    spec.delete(spec.body("floor0"))
    for tendon in spec.tendons:
        if tendon.name not in hand.COUPLING_TENDONS:
            spec.delete(tendon)
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 0
        if geom.name == "robot0:C_forearm":
            _to_capsule(geom)
        elif geom.name not in hand.COLLISION_GEOMS and not visual:
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


def _to_capsule(geom: mujoco.MjsGeom) -> None:
    """Replaces the forearm's convex mesh by a capsule of its length: far cheaper in contact."""
    geom.type = mujoco.mjtGeom.mjGEOM_CAPSULE
    geom.meshname = ""
    geom.size = (0.045, 0.07, 0.0)
    geom.pos = (0.0, 0.01, 0.154)
    geom.quat = (1.0, 0.0, 0.0, 0.0)


def _move_damping_to_actuators(spec: mujoco.MjSpec) -> None:
    """Makes each drive kp (target - q) - kd v under one force limit, as a PhysX drive is."""
    driven = {actuator.target: actuator for actuator in spec.actuators}
    for joint in spec.joints:
        joint.margin = 0.0
        joint.frictionloss = 0.0
        if joint.name in driven:
            driven[joint.name].biasprm[2] = -joint.damping[0]
            joint.damping = np.zeros_like(joint.damping)


def _add_sensors(spec: mujoco.MjSpec, prefix: str) -> None:
    """Five fingertip poses and velocities (13 numbers each), then five force-torques (6 each)."""
    kind = mujoco.mjtSensor
    distals = [f"{prefix}robot0:{finger}distal" for finger in hand.FINGERS]
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


def _add_object(spec: mujoco.MjSpec, body: Ellipsoid) -> None:
    element = spec.worldbody.add_body(name=OBJECT, pos=body.pos)
    element.add_joint(name=f"{OBJECT}_free", type=mujoco.mjtJoint.mjJNT_FREE)
    element.add_geom(
        name=OBJECT,
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=body.semi_axes,
        mass=body.mass,
        rgba=body.rgba,
        contype=0,
        conaffinity=0,
    )
    # A constant force instead of option.gravity keeps the hands weightless at no cost, and unlike
    # qfrc_applied it survives every kind of reset.
    weight = spec.add_actuator(name=f"{OBJECT}_gravity", target=f"{OBJECT}_free")
    weight.trntype = mujoco.mjtTrn.mjTRN_JOINT
    weight.gear = (0.0, 0.0, 1.0, 0.0, 0.0, 0.0)
    weight.gainprm[0] = 0.0
    weight.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    weight.biasprm[0] = -GRAVITY * body.mass


def _add_pairs(spec: mujoco.MjSpec) -> None:
    for prefix in HAND_PREFIXES:
        for a, b in hand.SELF_COLLISIONS:
            _add_pair(spec, prefix + a, prefix + b, condim=1)
        for geom in hand.COLLISION_GEOMS:
            _add_pair(spec, OBJECT, prefix + geom, condim=4)


def _add_pair(spec: mujoco.MjSpec, a: str, b: str, *, condim: int) -> None:
    spec.add_pair(
        geomname1=a,
        geomname2=b,
        condim=condim,
        margin=_PAIR_MARGIN,
        friction=np.array(_PAIR_FRICTION),
    )


def _add_stage(spec: mujoco.MjSpec, body: Ellipsoid) -> None:
    """Floor, light and a translucent goal that follows a mocap body; nothing here collides."""
    spec.visual.headlight.ambient = (0.3, 0.3, 0.3)
    spec.visual.headlight.diffuse = (0.3, 0.3, 0.3)
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=(0.86, 0.91, 0.96),
        rgb2=(0.6, 0.72, 0.85),
        width=256,
        height=256,
    )
    spec.add_texture(
        name="floor",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=(0.62, 0.65, 0.69),
        rgb2=(0.54, 0.58, 0.63),
        width=256,
        height=256,
    )
    floor = spec.add_material(name="floor", texrepeat=(8, 8))
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "floor"
    spec.worldbody.add_geom(
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=(2.0, 2.0, 0.1),
        material="floor",
        contype=0,
        conaffinity=0,
    )
    spec.worldbody.add_light(
        pos=(0.4, -0.5, 2.5), dir=(-0.1, 0.0, -1.0), castshadow=True, diffuse=(0.5, 0.5, 0.5)
    )
    goal = spec.worldbody.add_body(name="goal", mocap=True, pos=body.pos)
    goal.add_geom(
        name="goal",
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=body.semi_axes,
        rgba=(0.2, 0.75, 0.3, 0.4),
        contype=0,
        conaffinity=0,
        mass=0,
    )
