"""A page that plays an episode: one HTML file with a view that the mouse turns, without network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madpo_isaac import console
from madpo_isaac.env import Policy, VecEnv
from madpo_isaac.evaluation import video
from madpo_isaac.evaluation.geometry import Mesh, triangulate
from madpo_isaac.evaluation.render import Scene, agent_color
from madpo_isaac.system.files import write_atomic, writing

SUFFIX = ".html"
_LEVELS = 65535
"""Steps of a mesh's coordinates between its smallest and its largest one."""
_HERE = Path(__file__)


class Recording(NamedTuple):
    """An episode of T steps of an environment whose scene has B bodies."""

    poses: NDArray[np.float32]
    """Position (m) and orientation (wxyz) of each body before each step. (T, B, 7)"""
    rewards: NDArray[np.float32]
    """(T,)"""
    success: NDArray[np.uint8]
    """1 if the episode counts as a success after that step; 0 in tasks without success. (T,)"""


def write_episode(
    policy: Policy, env: VecEnv, path: str | Path, title: str = "Episode", text: str = ""
) -> None:
    """Plays the first environment's episode from a reset on, writes the page and prints its path.

    Args:
        policy: maps joint states (N, S) to joint actions (N, A).
        env: N environments of a task with pictures.
        path: the file; its name ends with .html.
        title: title of the page.
        text: text beside the title.

    Raises:
        UserError: the file cannot be written; an existing file is not changed.
    """
    path = Path(path)
    check_path(path)
    scene = Scene(env)
    content = page(scene, env, record(policy, env, scene), title, text)
    with writing(path):
        write_atomic(path, content.encode())
    console.info(f"wrote {path}")


def check_path(path: Path) -> None:
    """Makes the folder of a page; raises UserError if none can be written at ``path``."""
    video.check_path(path, (SUFFIX,), "page")


def record(policy: Policy, env: VecEnv, scene: Scene) -> Recording:
    """Plays the first environment's episode from a reset on, to its end."""
    poses: list[NDArray[np.float32]] = []
    numbers: list[list[float]] = []
    state, over = env.reset(), False
    while not over:
        scene.place(0)
        poses.append(np.hstack((scene.data.xpos, scene.data.xquat)).astype(np.float32))
        step = env.step(policy(state))
        state, success = step.state, step.log["success"]
        numbers.append([float(step.reward[0]), float(success[0]) * env.has_success])
        over = bool(step.terminated[0] | step.truncated[0])
    rewards, success = np.array(numbers, np.float32).T
    return Recording(np.stack(poses), rewards, success.astype(np.uint8))


def page(scene: Scene, env: VecEnv, recording: Recording, title: str, text: str) -> str:
    """Returns the page as HTML, with everything it needs inside."""
    meshes, parts = triangulate(scene.model)
    data = {
        "dt": env.step_dt,
        "camera": scene.camera()._asdict(),
        "bodies": scene.model.nbody,
        "meshes": [_packed(mesh) for mesh in meshes],
        "parts": [
            {**part._asdict(), "checker": part.checker and part.checker._asdict()} for part in parts
        ],
        "poses": _base64(recording.poses, "<f4"),
        "rewards": _base64(recording.rewards, "<f4"),
        "success": _base64(recording.success, "u1"),
    }
    return Template(_HERE.with_suffix(".html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        text=escape(text),
        agents=_legend([agent.name for agent in env.agents]),
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        script=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
    )


def _packed(mesh: Mesh) -> dict[str, Any]:
    """A mesh whose coordinates are ``low`` + ``step`` times 16-bit numbers."""
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    step = np.maximum(high - low, 1e-9) / _LEVELS
    wide = len(mesh.vertices) > _LEVELS
    return {
        "low": low.tolist(),
        "step": step.tolist(),
        "vertices": _base64(np.rint((mesh.vertices - low) / step), "<u2"),
        "faces": _base64(mesh.faces, "<u4" if wide else "<u2"),
        "wide": wide,
    }


def _base64(values: ArrayLike, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def _legend(agents: Sequence[str]) -> str:
    shown = enumerate(agents) if len(agents) <= video.SHOWN_AGENTS else ()
    colors = [(name, ",".join(f"{100 * x:.0f}%" for x in agent_color(p))) for p, name in shown]
    return "".join(f'<span style="color:rgb({rgb})">{escape(x)}</span>' for x, rgb in colors)
