"""MuJoCo's interactive viewer, which follows an environment."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from typing import Any

from madpo_isaac.env import Policy, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.render import Scene

RATE = 60.0
"""Largest number of pictures per second."""
_PATIENCE = 20.0
"""Seconds that a closed window may take to finish its last picture."""


def check_display() -> None:
    """Raises UserError if no window can be opened."""
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise UserError(
            "There is no display for the viewer: leave out headless=False and --viewer, and use "
            "madpo play <run> --html or --video instead."
        )
    if sys.platform == "darwin" and "mjpython" not in os.path.basename(sys.executable):
        raise UserError("On macOS the viewer needs MuJoCo's own Python: start it by mjpython.")


class Window:
    """A window that shows the first environment; with the mouse one turns and moves the view.

    Args:
        env: environments of a task with pictures.

    Raises:
        UserError: there is no display, it cannot be used, or the task has no pictures.
    """

    def __init__(self, env: Any) -> None:
        check_display()
        self._scene = scene = Scene(env)
        scene.place(0)
        viewer = importlib.import_module("mujoco.viewer")
        before = set(threading.enumerate())
        try:
            self._handle = viewer.launch_passive(
                scene.model, scene.data, show_left_ui=False, show_right_ui=False
            )
        except Exception as problem:  # GLFW and OpenGL fail in many ways
            raise UserError(f"The viewer cannot be opened: {problem}.") from problem
        self._threads = set(threading.enumerate()) - before
        with self._handle.lock():
            self._handle.opt.geomgroup[:] = (1, 1, 1, 0, 0, 0)
            self._look()
        self._shown = 0.0

    def _look(self) -> None:
        import mujoco

        own, wanted = self._handle.cam, self._scene.camera()
        own.lookat[:], own.distance = wanted.lookat, wanted.distance
        own.azimuth, own.elevation = wanted.azimuth, wanted.elevation
        if wanted.follow >= 0:
            own.type, own.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, wanted.follow

    @property
    def is_open(self) -> bool:
        """False once somebody has closed the window."""
        return self._handle.is_running()

    def show(self) -> None:
        """Shows the present state, unless the last picture is younger than 1 / :data:`RATE`."""
        now = time.monotonic()
        if now - self._shown < 1.0 / RATE or not self.is_open:
            return
        self._shown = now
        with self._handle.lock():
            self._scene.place(0)
        self._handle.sync()

    def close(self) -> None:
        """Closes the window, if it is open.

        It waits for the viewer's threads: a process that ends while they draw would crash.
        """
        self._handle.close()
        for thread in self._threads:
            thread.join(_PATIENCE)


def watch(policy: Policy, env: VecEnv) -> None:
    """Plays in real time in a window, episode after episode, until it is closed.

    Args:
        policy: maps joint states (N, S) to joint actions (N, A).
        env: N environments of a task with pictures.

    Raises:
        UserError: there is no display, or it cannot be used.
    """
    state = env.reset()
    window = Window(env)
    try:
        due = time.monotonic()
        while window.is_open:
            window.show()
            state = env.step(policy(state)).state
            due = max(due + env.step_dt, time.monotonic() - env.step_dt)
            time.sleep(max(0.0, due - time.monotonic()))
    finally:
        window.close()
