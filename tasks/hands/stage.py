"""Decoration of a scene's pictures; nothing here collides or moves."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco


@dataclass(frozen=True)
class View:
    """A camera for pictures: point looked at (m), distance (m), angles (degrees)."""

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


def add_stage(spec: mujoco.MjSpec) -> None:
    """Adds sky, floor and light."""
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
