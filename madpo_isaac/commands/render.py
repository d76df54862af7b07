"""``madpo render``: a picture of a task at the start of an episode, or of a hand alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from madpo_isaac import console, plugins, tasks
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.evaluation.render import Painter, choose_backend
from madpo_isaac.sim import BRIDGES
from madpo_isaac.system.files import check_writable, writing
from madpo_isaac.tasks.hands import hand
from madpo_isaac.tasks.hands.alone import HandAlone
from madpo_isaac.tasks.registry import canonical
from madpo_isaac.training.factory import make_env
from madpo_isaac.training.runner import with_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHEET = "sheet"
SIZE = (960, 600)
"""Width and height of a picture, pixels."""
_COLUMNS = 5
"""Pictures side by side in a sheet."""


def main(argv: Sequence[str]) -> int:
    """Writes a picture; returns 0."""
    parser = Parser(
        "madpo render", "Draws a task at the start of an episode, or a hand alone; trains nothing."
    )
    parser.add_argument(
        "what",
        help=f"a task, a hand ({', '.join(hand.names())} or a YAML file), or sheet: all hand tasks",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings of train.py, such as seed=3 task.hand=quad plugins=[<file.py>]",
    )
    parser.add_argument("--out", type=parser.path, help="file to write, .png (<what>.png)")
    options = parser.parse(argv)
    what, settings = options.what, options.settings
    parser.refuse_task(what, settings)
    out = options.out or Path(f"{Path(what).stem}.png")
    if out.suffix != ".png":
        raise UserError(f"--out {out}: the name of a picture ends with .png.")
    check_writable(out.parent)
    choose_backend()  # fails before anything is built
    if what == SHEET:
        picture = sheet([name for name in tasks.TASKS if name.startswith("ShadowHand")], settings)
    elif what.endswith(".yaml") or what in hand.names():
        if settings:
            raise UserError(f"'{settings[0]}': a picture of a hand alone has no settings.")
        picture = _draw(HandAlone(hand.load(what)), *SIZE)
    else:
        picture = task_picture(what, settings, *SIZE)
    with writing(out):
        _save(picture, out)
    console.info(f"wrote {out}")
    return 0


def task_picture(task: str, settings: Sequence[str], width: int, height: int) -> NDArray[np.uint8]:
    """Returns a picture of ``task`` right after a reset, which ``seed=`` chooses.

    Args:
        task: its name.
        settings: further settings of train.py.
        width: pixels.
        height: pixels.
    """
    if canonical(task) not in tasks.TASKS and not any("plugins=" in text for text in settings):
        plugins.load_installed()
        if task not in tasks.TASKS:
            raise unknown("task or hand", task, [*tasks.TASKS, *hand.names(), SHEET])
    config = compose([f"task={task}", *settings])
    if config.sim.name in BRIDGES:
        raise UserError(f"sim={config.sim.name} has no pictures.")
    config = with_seed(config)
    env = make_env(config, num_envs=1, seed=config.seed)
    env.reset()
    return _draw(env, width, height)


def _draw(env: Any, width: int, height: int) -> NDArray[np.uint8]:
    painter = Painter(env, width, height, shadows=True)
    try:
        return painter.draw(0)
    finally:
        painter.close()


def sheet(names: Sequence[str], settings: Sequence[str]) -> Figure:
    """Returns one picture of every task in ``names``, each under its name."""
    from matplotlib.figure import Figure

    rows = math.ceil(len(names) / _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 2.3 * rows), dpi=100, layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis, name in itertools.zip_longest(axes.flat, names):
        axis.set_axis_off()
        if name:
            axis.imshow(task_picture(name, settings, 480, 320))
            axis.set_title(name.removeprefix("ShadowHand"), fontsize=11)
    return figure


def _save(picture: Figure | NDArray[np.uint8], out: Path) -> None:
    if isinstance(picture, np.ndarray):
        import matplotlib.image

        matplotlib.image.imsave(out, picture)
    else:
        picture.savefig(out)
