"""Off-screen pictures of environments.

``python -m madpo_isaac.evaluation.render task=X out=scene.png`` draws one task, ``... sheet
out=all.png`` all hand tasks.
"""

from __future__ import annotations

import ctypes.util
import importlib
import itertools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from madpo_isaac import plugins
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
    """An environment that pictures can be made of; those of all tasks are."""

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


class Painter:
    """Draws an environment as it stands, each agent's bodies in a color of their own.

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

        self._env: Drawable = env
        self._model = model = self._env.scene(visual=True).compile()
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        color_agents(model, env.agents, env.action_joints())
        self._data = mujoco.MjData(model)
        self._forward = mujoco.mj_forward
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
        self._env.pose(self._data, index)
        self._forward(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera, self._options)
        return self._renderer.render().copy()

    def close(self) -> None:
        """Gives the OpenGL context back."""
        self._renderer.close()


def _camera(view: Any) -> Any:
    if isinstance(view, str):
        return view
    import mujoco

    camera = mujoco.MjvCamera()
    camera.lookat[:] = view.lookat
    camera.distance, camera.azimuth = view.distance, view.azimuth
    camera.elevation = view.elevation
    return camera


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


def sheet(names: Sequence[str], seed: int, out: str, columns: int = 5) -> None:
    """Writes one picture of every task in ``names``, each under its name, to ``out``."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.3 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, name in itertools.zip_longest(axes.flat, names):
        axis.set_axis_off()
        if name:
            axis.imshow(reset_picture(name, seed, 480, 320))
            axis.set_title(name.removeprefix("ShadowHand"), fontsize=11)
    figure.savefig(out)


def reset_picture(task: str, seed: int, width: int, height: int) -> Any:
    """Renders a reset state of ``task``. (height, width, 3) uint8."""
    from madpo_isaac import tasks

    env = tasks.make(task, num_envs=1, seed=seed)
    env.reset()
    painter = Painter(env, width, height, shadows=True)
    try:
        return painter.draw(0)
    finally:
        painter.close()


def main(argv: list[str]) -> int:
    """Writes the reset state of ``task=`` to ``out=``; ``seed=`` chooses the reset.

    With ``sheet`` as an argument, all hand tasks side by side.
    """
    from madpo_isaac import console

    usage = "task=<name> (or sheet) out=<file.png> seed=<number> plugins=[<file.py>]"
    if not {"-h", "--help"}.isdisjoint(argv):
        console.info(f"python -m madpo_isaac.evaluation.render {usage}")
        console.info("Draws a task at the start of an episode; sheet: all hand tasks side by side.")
        return 0
    settings = {"task": "ShadowHandOver", "out": "scene.png", "seed": "1", "plugins": ""}
    everything = "sheet" in argv
    try:
        for argument in argv:
            key, found, value = argument.partition("=")
            if argument == "sheet":
                continue
            if not found or key not in settings:
                raise UserError(f"'{argument}': use {usage}.")
            if key == "plugins":
                for file in value.strip("[]").split(","):
                    plugins.load(file)
            settings[key] = value
        import matplotlib.image

        from madpo_isaac.tasks import TASKS

        out, seed = os.path.expanduser(settings["out"]), _natural(settings["seed"])
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        if everything:
            sheet([name for name in TASKS if name.startswith("ShadowHand")], seed, out)
        else:
            matplotlib.image.imsave(out, reset_picture(settings["task"], seed, 960, 600))
    except UserError as problem:
        console.error(str(problem))
        return 2
    console.info(f"wrote {settings['out']}")
    return 0


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"seed={text} must be a whole number of at least 0.")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
