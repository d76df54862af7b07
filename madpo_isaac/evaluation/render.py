"""Off-screen pictures of environments."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from madpo_isaac.env import AgentSpec
from madpo_isaac.errors import UserError

if TYPE_CHECKING:
    import mujoco

PALETTE = (
    *((0.36, 0.62, 0.90), (0.90, 0.45, 0.62), (0.40, 0.75, 0.72), (0.62, 0.50, 0.85)),
    *((0.93, 0.87, 0.55), (0.55, 0.48, 0.45)),
)
"""Agents' colors, RGB in [0, 1]; a seventh agent has the first one's, darker."""
SHADE = 0.7

_PACKAGES = "install the system package libegl1 or libosmesa6"
_OWN_CHOICE = "mujoco.rendering.classic.gl_context"


class Drawable(Protocol):
    """An environment of which pictures can be made; the environments of all tasks are drawable."""

    agents: tuple[AgentSpec, ...]
    view: Any
    """A camera of the scene by name, or ``lookat`` (m), ``distance`` (m), ``azimuth`` and
    ``elevation`` (degrees)."""

    def scene(self, *, visual: bool) -> mujoco.MjSpec:
        """Returns the scene as it is shown."""
        ...

    def pose(self, data: mujoco.MjData, index: int) -> None:
        """Puts ``data`` of that scene into the state of environment ``index``."""
        ...

    def action_joints(self) -> list[int]:
        """Returns the joint that each column of the joint action drives, -1 for none."""
        ...


def choose_backend() -> None:
    """Sets MUJOCO_GL to EGL or OSMesa if it is unset.

    Raises:
        UserError: neither is installed.
    """
    if os.environ.get("MUJOCO_GL") or sys.platform != "linux":
        return
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            if _OWN_CHOICE in sys.modules:  # MuJoCo chose when it was imported
                importlib.reload(sys.modules[_OWN_CHOICE])
            return
    raise UserError(f"No off-screen OpenGL: {_PACKAGES}.")


def agent_color(p: int) -> tuple[float, ...]:
    """RGB of agent p, in [0, 1]."""
    rounds, k = divmod(p, len(PALETTE))
    return tuple(SHADE**rounds * x for x in PALETTE[k])


class FreeCamera(NamedTuple):
    """A camera that the user can turn, as MuJoCo's free one."""

    lookat: tuple[float, ...]
    """Point that it turns about, m. (3,)"""
    distance: float
    """m"""
    azimuth: float
    """Degrees."""
    elevation: float
    """Degrees."""
    fovy: float
    """Vertical field of view, degrees."""
    follow: int
    """Body that the point moves along with; -1 for none."""


class Scene:
    """The scene of environments as it is shown, each agent's bodies in a color of their own.

    Args:
        env: environments of a task with pictures.

    Raises:
        UserError: the task has none.
    """

    model: mujoco.MjModel
    data: mujoco.MjData

    def __init__(self, env: Any) -> None:
        import mujoco

        if not hasattr(env, "scene"):
            raise UserError("This task has no pictures: its environments have no scene().")
        self._env: Drawable = env
        self._forward = mujoco.mj_forward
        self.model = self._env.scene(visual=True).compile()
        color_agents(self.model, env.agents, env.action_joints())
        self.data = mujoco.MjData(self.model)

    def place(self, index: int) -> None:
        """Puts :attr:`data` into the state of environment ``index``."""
        self._env.pose(self.data, index)
        self._forward(self.model, self.data)

    def camera(self) -> FreeCamera:
        """Returns the task's camera as a free one.

        One of the model's looks at the point on its axis that is nearest to its body's center of
        mass, and follows the body.
        """
        view, model = self._env.view, self.model
        if not isinstance(view, str):
            fovy = float(model.vis.global_.fovy)
            place = tuple(view.lookat), view.distance, view.azimuth, view.elevation
            return FreeCamera(*place, fovy, -1)
        import mujoco

        start = mujoco.MjData(model)
        self._forward(model, start)
        index = model.camera(view).id
        body = int(model.cam_bodyid[index])
        eye, forward = start.cam_xpos[index], -start.cam_xmat[index].reshape(3, 3)[:, 2]
        distance = max(float((start.subtree_com[body] - eye) @ forward), 0.1)
        return FreeCamera(
            lookat=tuple((eye + distance * forward).tolist()),
            distance=distance,
            azimuth=float(np.degrees(np.arctan2(forward[1], forward[0]))),
            elevation=float(np.degrees(np.arcsin(np.clip(forward[2], -1.0, 1.0)))),
            fovy=float(model.cam_fovy[index]),
            follow=body,
        )


class Painter:
    """Draws an environment as it stands.

    Args:
        env: one of a task with pictures.
        width: pixels.
        height: pixels.
        shadows: twice as slow.

    Raises:
        UserError: there is no off-screen OpenGL, or it does not work.
    """

    def __init__(self, env: Any, width: int, height: int, *, shadows: bool = False) -> None:
        choose_backend()
        import mujoco

        self._scene = Scene(env)
        model = self._scene.model
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = (1, 1, 1, 0, 0, 0)  # group 4 holds the collision primitives
        self._camera = _camera(env.view)
        try:
            self._renderer = mujoco.Renderer(model, height, width)
        except Exception as problem:  # OpenGL's libraries fail in many ways
            name = os.environ.get("MUJOCO_GL", "")
            raise UserError(
                f"Off-screen OpenGL (MUJOCO_GL={name}) does not work: {problem}. {_PACKAGES}, or "
                "set MUJOCO_GL=osmesa."
            ) from problem
        flags = self._renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows

    def draw(self, index: int) -> NDArray[np.uint8]:
        """Returns a picture of environment ``index``. (height, width, 3)"""
        self._scene.place(index)
        self._renderer.update_scene(self._scene.data, self._camera, self._options)
        return self._renderer.render().copy()

    def close(self) -> None:
        """Gives the OpenGL context back."""
        self._renderer.close()


def _camera(view: Any) -> Any:
    if isinstance(view, str):
        return view
    import mujoco

    free = mujoco.MjvCamera()
    free.lookat[:] = view.lookat
    free.distance, free.azimuth, free.elevation = view.distance, view.azimuth, view.elevation
    return free


def color_agents(
    model: mujoco.MjModel, agents: Sequence[AgentSpec], action_joints: Sequence[int]
) -> None:
    """Gives the geoms of each agent's bodies its color; the others keep theirs.

    An agent's bodies are those its joints move, what hangs on them, and what carries nothing but
    them.
    """
    owner = _owners(model, agents, action_joints)
    for geom in range(model.ngeom):
        p = owner[model.geom_bodyid[geom]]
        if p is not None:
            model.geom_matid[geom] = -1
            model.geom_rgba[geom, :3] = agent_color(p)


def _owners(
    model: mujoco.MjModel, agents: Sequence[AgentSpec], action_joints: Sequence[int]
) -> list[int | None]:
    """The agent of each body, or None."""
    owner: list[int | None] = [None] * model.nbody
    joints = np.array(action_joints)
    for p, agent in enumerate(agents):
        columns = agent.action_slice
        chosen = joints[columns if isinstance(columns, slice) else columns.cpu().numpy()]
        for joint in chosen[chosen >= 0]:
            owner[model.jnt_bodyid[joint]] = p
    for body in range(1, model.nbody):  # parents come first
        if owner[body] is None:
            owner[body] = owner[model.body_parentid[body]]
    for body in range(model.nbody - 1, 0, -1):
        carried = {owner[b] for b in range(body + 1, model.nbody) if model.body_parentid[b] == body}
        if owner[body] is None and len(carried) == 1:
            owner[body] = carried.pop()
    return owner
