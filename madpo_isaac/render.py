"""Off-screen pictures of environments.

``python -m madpo_isaac.render task=X out=scene.png`` draws one task, ``... sheet out=all.png`` all
hand tasks.
"""

from __future__ import annotations

import ctypes.util
import itertools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from madpo_isaac.errors import UserError


def choose_backend() -> None:
    """Sets MUJOCO_GL to EGL or OSMesa if it is unset; must run before MuJoCo is imported."""
    if os.environ.get("MUJOCO_GL") or sys.platform != "linux":
        return
    for backend, library in (("egl", "EGL"), ("osmesa", "OSMesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = backend
            return
    raise UserError("No off-screen OpenGL: install the system package libegl1 or libosmesa6.")


def picture(env: Any, index: int, width: int, height: int) -> Any:
    """Renders environment ``index`` of a hand task as it stands now. (height, width, 3) uint8."""
    import mujoco

    model = env.scene(visual=True).compile()
    data = mujoco.MjData(model)
    env.pose(data, index)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat[:] = env.view.lookat
    camera.distance = env.view.distance
    camera.azimuth = env.view.azimuth
    camera.elevation = env.view.elevation
    options = mujoco.MjvOption()
    options.geomgroup[:] = (1, 1, 1, 0, 0, 0)  # group 4 holds the collision primitives
    with mujoco.Renderer(model, height, width) as renderer:
        renderer.update_scene(data, camera, options)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        return renderer.render().copy()


def sheet(names: Sequence[str], seed: int, out: str, columns: int = 4) -> None:
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
    import tasks

    env = tasks.make(task, num_envs=1, seed=seed)
    if not hasattr(env, "scene"):
        raise UserError(f"task={task}: pictures are made of hand tasks only.")
    env.reset()
    return picture(env, 0, width, height)


def main(argv: list[str]) -> int:
    """Writes the reset state of ``task=`` to ``out=``; ``seed=`` chooses the reset.

    With ``sheet`` as an argument, all hand tasks side by side.
    """
    from madpo_isaac import console

    settings = {"task": "ShadowHandOver", "out": "scene.png", "seed": "1"}
    everything = "sheet" in argv
    try:
        for argument in argv:
            key, found, value = argument.partition("=")
            if argument == "sheet":
                continue
            if not found or key not in settings:
                usage = "task=<name> (or sheet) out=<file.png> seed=<number>"
                raise UserError(f"'{argument}': use {usage}.")
            settings[key] = value
        choose_backend()
        import matplotlib.image

        from tasks import TASKS

        out, seed = settings["out"], _whole(settings["seed"])
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


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"seed={text} must be a whole number of at least 0.")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
