"""Off-screen pictures of an environment: ``python -m madpo_isaac.render task=X out=scene.png``."""

from __future__ import annotations

import ctypes.util
import os
import sys
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


def main(argv: list[str]) -> int:
    """Writes the reset state of ``task=`` to ``out=``; ``seed=`` chooses the reset."""
    from madpo_isaac import console

    settings = {"task": "ShadowHandOver", "out": "scene.png", "seed": "1"}
    try:
        for argument in argv:
            key, found, value = argument.partition("=")
            if not found or key not in settings:
                raise UserError(f"'{argument}': use task=<name> out=<file.png> seed=<number>.")
            settings[key] = value
        choose_backend()
        import matplotlib.image

        import tasks

        env = tasks.make(settings["task"], num_envs=1, seed=_whole(settings["seed"]))
        if not hasattr(env, "scene"):
            raise UserError(f"task={settings['task']}: pictures are made of hand tasks only.")
        env.reset()
        Path(settings["out"]).parent.mkdir(parents=True, exist_ok=True)
        matplotlib.image.imsave(settings["out"], picture(env, 0, 960, 600))
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
