"""Geoms of a MuJoCo model as triangles."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mujoco

ROUND = 24
"""Edges of a circle."""
ENDLESS = 40.0
"""Half the length, m, of the square that is drawn for an infinite plane."""
_SHOWN_GROUPS = (0, 1, 2)
"""Groups of geoms in pictures; the hands' collision primitives are in others."""
_PLAIN = (0.5, 0.5, 0.5, 1.0)
"""A geom of this color takes that of its material."""


class Mesh(NamedTuple):
    """Triangles in a frame of their own."""

    vertices: NDArray[np.float32]
    """Meters. (V, 3)"""
    faces: NDArray[np.int64]
    """Vertices of each triangle, counterclockwise from outside. (F, 3)"""


class Checker(NamedTuple):
    """The pattern of a floor."""

    colors: tuple[tuple[float, ...], tuple[float, ...]]
    """RGB in [0, 1]."""
    cell: float
    """Edge of a square, m."""


class Part(NamedTuple):
    """A geom: a mesh on a body."""

    mesh: int
    """Index of the mesh; geoms of one shape share it."""
    body: int
    pos: tuple[float, ...]
    """Place in the frame of the body, m. (3,)"""
    quat: tuple[float, ...]
    """Orientation in the frame of the body, wxyz. (4,)"""
    rgba: tuple[float, ...]
    """In [0, 1]. (4,)"""
    checker: Checker | None
    """For planes."""


def triangulate(model: mujoco.MjModel) -> tuple[list[Mesh], list[Part]]:
    """Returns the meshes of a model, each once, and its geoms that pictures show.

    Invisible geoms, other groups and height fields are left out.
    """
    meshes: dict[bytes, int] = {}
    found: list[Mesh] = []
    parts = []
    for geom in range(model.ngeom):
        rgba = _color(model, geom)
        if model.geom_group[geom] not in _SHOWN_GROUPS or rgba[3] == 0.0:
            continue
        mesh = _mesh(model, geom)
        if mesh is None:
            continue
        key = mesh.vertices.tobytes() + mesh.faces.tobytes()
        index = meshes.setdefault(key, len(found))
        if index == len(found):
            found.append(mesh)
        part = Part(
            index,
            int(model.geom_bodyid[geom]),
            tuple(model.geom_pos[geom].tolist()),
            tuple(model.geom_quat[geom].tolist()),
            rgba,
            _checker(model, geom, rgba),
        )
        parts.append(part)
    return found, parts


def _mesh(model: mujoco.MjModel, geom: int) -> Mesh | None:
    import mujoco

    x, y, z = model.geom_size[geom].tolist()
    kind = mujoco.mjtGeom(int(model.geom_type[geom]))
    if kind == mujoco.mjtGeom.mjGEOM_PLANE:
        return plane(x or ENDLESS, y or ENDLESS)
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return box(x, y, z)
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return ellipsoid(x, x, x)
    if kind == mujoco.mjtGeom.mjGEOM_ELLIPSOID:
        return ellipsoid(x, y, z)
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return capsule(x, y)
    if kind == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return lathe([(0.0, -y), (x, -y), (x, y), (0.0, y)])
    if kind != mujoco.mjtGeom.mjGEOM_MESH:
        return None
    data = model.geom_dataid[geom]
    vertices, faces = model.mesh_vertadr[data], model.mesh_faceadr[data]
    return Mesh(
        model.mesh_vert[vertices : vertices + model.mesh_vertnum[data]].astype(np.float32),
        model.mesh_face[faces : faces + model.mesh_facenum[data]].astype(np.int64),
    )


# Shapes -----------------------------------------------------------------------------------------


def plane(x: float, y: float) -> Mesh:
    """Returns a rectangle of half-lengths ``x`` and ``y`` that faces +z."""
    corners = [(-x, -y, 0.0), (x, -y, 0.0), (x, y, 0.0), (-x, y, 0.0)]
    return Mesh(np.array(corners, np.float32), np.array([(0, 1, 2), (0, 2, 3)]))


def box(x: float, y: float, z: float) -> Mesh:
    """Returns a box of half-lengths ``x``, ``y`` and ``z``."""
    corners = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
    sides = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in sides for face in ((a, b, c), (a, c, d))]
    return Mesh((corners * (x, y, z)).astype(np.float32), np.array(faces))


def ellipsoid(x: float, y: float, z: float) -> Mesh:
    """Returns an ellipsoid of semi-axes ``x``, ``y`` and ``z``."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, ROUND // 2 + 1)
    ball = lathe(list(zip(np.cos(angles), np.sin(angles), strict=True)))
    return Mesh(ball.vertices * np.array((x, y, z), np.float32), ball.faces)


def capsule(radius: float, half: float) -> Mesh:
    """Returns a cylinder of half-length ``half`` along z that ends in half balls."""
    profile = []
    for end, angles in ((-half, (-np.pi / 2, 0.0)), (half, (0.0, np.pi / 2))):
        steps = np.linspace(*angles, ROUND // 4 + 1)
        profile += [(radius * np.cos(a), end + radius * np.sin(a)) for a in steps]
    return lathe(profile)


def lathe(profile: list[tuple[float, float]]) -> Mesh:
    """Turns a profile about z.

    Args:
        profile: distance from the axis and height of its points, from below to above, m.
    """
    turns = 2.0 * np.pi * np.arange(ROUND) / ROUND
    radius, height = np.array(profile).T
    ring = np.stack((np.cos(turns), np.sin(turns)))  # (2, ROUND)
    across = radius[:, None, None] * ring
    up = np.broadcast_to(height[:, None, None], (len(profile), 1, ROUND))
    points = np.concatenate((across, up), axis=1).transpose(0, 2, 1).reshape(-1, 3)
    row, column = np.divmod(np.arange((len(profile) - 1) * ROUND), ROUND)
    a, b = row * ROUND + column, row * ROUND + (column + 1) % ROUND
    faces = np.concatenate([(a, b, b + ROUND), (a, b + ROUND, a + ROUND)], axis=1).T
    # The points of a ring on the axis are one; triangles that lose an edge by it are none.
    vertices, merged = np.unique(points.round(7).astype(np.float32), axis=0, return_inverse=True)
    faces = merged.reshape(-1)[faces]
    first, second, third = faces.T
    return Mesh(vertices, faces[(first != second) & (second != third) & (third != first)])


# Colors -----------------------------------------------------------------------------------------


def _color(model: mujoco.MjModel, geom: int) -> tuple[float, ...]:
    """Returns the color that MuJoCo draws a geom in. RGBA"""
    own, material = model.geom_rgba[geom], model.geom_matid[geom]
    if material >= 0 and tuple(own) == _PLAIN:
        own = model.mat_rgba[material]
    return tuple(own.round(4).tolist())


def _checker(model: mujoco.MjModel, geom: int, rgba: tuple[float, ...]) -> Checker | None:
    """Returns the pattern of a plane, taken from its texture if it has one."""
    import mujoco

    if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_PLANE:
        return None
    material = model.geom_matid[geom]
    role = mujoco.mjtTextureRole.mjTEXROLE_RGB
    texture = -1 if material < 0 else model.mat_texid[material, role]
    if texture < 0:
        return Checker((rgba[:3], rgba[:3]), 1.0)
    height, width = model.tex_height[texture], model.tex_width[texture]
    start, channels = model.tex_adr[texture], model.tex_nchannel[texture]
    texels = model.tex_data[start : start + height * width * channels]
    row = texels.reshape(height, width, channels)[height // 4, :, :3] / 255.0 * rgba[:3]
    colors = tuple(row[width // 4].tolist()), tuple(row[3 * width // 4].tolist())
    repeat, length = model.mat_texrepeat[material, 0], model.geom_size[geom, 0]
    uniform = model.mat_texuniform[material] or length == 0.0
    # A texture has two squares a side; it is repeated for each meter, or over the plane.
    return Checker(colors, float((0.5 if uniform else length) / repeat))
