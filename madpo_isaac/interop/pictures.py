"""Pictures of environments for the interfaces that have a ``render_mode``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from gymnasium.error import ClosedEnvironmentError
from numpy.typing import NDArray

from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.tasks.settings import integer

if TYPE_CHECKING:
    from madpo_isaac.evaluation.render import Painter

RENDER_MODES = ("rgb_array",)
_MAX_SIZE = 2**14
"""Largest width and height of a picture, pixels."""


class Camera:
    """Takes pictures of an environment as it stands; OpenGL starts with the first one.

    Args:
        env: environments of a task that has pictures.
        render_mode: ``"rgb_array"``, or None for no pictures.
        width: pixels.
        height: pixels.

    Raises:
        UserError: there is no such mode, the task has no pictures, or a size is not from 1 to
            16384.
    """

    def __init__(self, env: VecEnv, render_mode: str | None, width: int, height: int) -> None:
        if render_mode is not None and render_mode not in RENDER_MODES:
            raise unknown("render_mode", render_mode, RENDER_MODES)
        if render_mode is not None and not hasattr(env, "scene"):
            raise UserError(f"render_mode={render_mode}: this task has no pictures.")
        sizes = {"width": width, "height": height}
        self._size = [integer(name, value, 1, _MAX_SIZE) for name, value in sizes.items()]
        self._env, self._mode = env, render_mode
        self._painter: Painter | None = None

    @property
    def metadata(self) -> dict[str, object]:
        """The entries that Gymnasium and PettingZoo look up."""
        fps = round(1.0 / self._env.step_dt)
        return {"render_modes": list(RENDER_MODES), "render_fps": fps}

    def picture(self, index: int) -> NDArray[np.uint8]:
        """Returns a picture of environment ``index``. (height, width, 3)"""
        if self._mode is None:
            raise UserError('render() needs render_mode="rgb_array" when the environment is made.')
        if self._painter is None:
            from madpo_isaac.evaluation.render import Painter

            self._painter = Painter(self._env, *self._size)
        return self._painter.draw(index)

    def close(self) -> None:
        """Gives the OpenGL context back."""
        if self._painter is not None:
            self._painter.close()
            self._painter = None


def check_open(closed: bool) -> None:
    """Raises Gymnasium's ClosedEnvironmentError if an interface was closed."""
    if closed:
        raise ClosedEnvironmentError("the environment is closed: make another one")
