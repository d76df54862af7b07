import math
import re

import matplotlib.image
import numpy as np
import pytest

from madpo_isaac.__main__ import main
from madpo_isaac.evaluation.render import PALETTE
from madpo_isaac.tasks import TASKS


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """A function that draws and returns the picture; skips where nothing can be drawn."""
    out = tmp_path_factory.mktemp("pictures") / "new" / "scene.png"

    def draw(what, *settings):
        out.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            said = []
            patch.setattr("madpo_isaac.console.error", said.append)
            code = main(["render", what, "--out", str(out), *settings])
        if code and "OpenGL" in said[0]:
            pytest.skip(said[0])
        assert code == 0, said
        return matplotlib.image.imread(out)[..., :3]

    return draw


def test_picture_shows_hands_egg_and_goal(render):
    red, green, blue = render("ShadowHandOver", "seed=3").transpose(2, 0, 1)
    orange = (red > 0.5) & (green > 0.25) & (green < 0.8 * red) & (blue < 0.3)
    goal = (green > 0.4) & (green > 1.4 * red) & (green > 1.2 * blue)
    hand0 = (blue > 0.35) & (blue > 1.2 * green) & (green > 1.2 * red)
    hand1 = (red > 0.35) & (red > 1.2 * blue) & (blue > 1.2 * green)
    # The camera is fixed and the egg 6 to 8 cm wide: each covers some thousand of 960 x 600 pixels.
    for name, shown in (("egg", orange), ("goal", goal), ("hand0", hand0), ("hand1", hand1)):
        assert 1000 < shown.sum() < 100_000, f"{name}: {shown.sum()} pixels"
    # Hand 0 holds the egg on the left of the picture, the goal is on the right.
    assert orange.nonzero()[1].mean() < goal.nonzero()[1].mean()
    assert hand0.nonzero()[1].mean() < hand1.nonzero()[1].mean()


@pytest.mark.slow
def test_sheet_shows_every_hand_task(render):
    pixels = render("sheet")
    height, width = pixels.shape[:2]
    names = [name for name in TASKS if name.startswith("ShadowHand")]
    assert len(names) >= 10
    rows = math.ceil(len(names) / 5)
    for i in range(5 * rows):
        top, left = i // 5 * height // rows, i % 5 * width // 5
        panel = pixels[top + 40 : top + height // rows, left : left + width // 5]
        drawn = panel.std() > 0.05
        assert drawn == (i < len(names)), i


@pytest.mark.parametrize(("hand", "parts"), [("quad", 4), ("shadow", 6)])
def test_a_hand_alone_has_a_color_for_each_part(render, hand, parts):
    pixels = render(hand)
    hues = np.array(PALETTE[:parts])
    hues /= np.linalg.norm(hues, axis=1, keepdims=True)
    bright = pixels[pixels.max(-1) > 0.3]
    bright = bright / np.linalg.norm(bright, axis=-1, keepdims=True)
    shown = (bright @ hues.T > 0.998).sum(0)
    assert (shown > 300).all(), shown
    edge = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    edge = edge / np.linalg.norm(edge, axis=-1, keepdims=True)
    assert (edge @ hues[:2].T > 0.995).sum() == 0  # all of it is in the picture


EGG = """
from madpo_isaac.tasks import register_task
from madpo_isaac.tasks.hands.base import HandTaskConfig, HandTaskEnv
from madpo_isaac.tasks.hands.objects import egg_at
from madpo_isaac.tasks.hands.over import PLACEMENTS, Env as Over


@register_task("ShadowHandNoGoal", HandTaskConfig)
class Env(HandTaskEnv):
    tail_dim, placements, view = 0, PLACEMENTS, Over.view

    def scenery(self):
        return egg_at((0.0, -0.39, 0.54))

    def observe_tail(self, out):
        pass

    def evaluate(self):
        pass
"""


def test_an_egg_without_a_goal_is_of_one_color(render, tmp_path):
    """Pictures of tasks without goals have no marker of one."""
    (tmp_path / "egg.py").write_text(EGG)
    (tmp_path / "cfg" / "task").mkdir(parents=True)
    defaults = "defaults: [base_ShadowHandNoGoal, /base/hands@_here_, _self_]\n"
    (tmp_path / "cfg" / "task" / "ShadowHandNoGoal.yaml").write_text(defaults)
    try:
        pixels = render("ShadowHandNoGoal", f"plugins=[{tmp_path}/egg.py]")
    finally:
        TASKS.pop("ShadowHandNoGoal", None)
    red, green, blue = pixels.transpose(2, 0, 1)
    assert ((red > 0.5) & (green > 0.25) & (green < 0.8 * red) & (blue < 0.3)).sum() > 1000
    assert ((green > 0.4) & (green > 1.4 * red) & (green > 1.2 * blue)).sum() < 20


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("ShadowHandOver", "--out=x.jpg"), "ends with .png"),
        (("ShadowHandOve",), "ShadowHandOver"),
        (("quadd",), "'quad'"),
        (("Juggle",), "plugins="),
        (("nobody.yaml",), "nobody.yaml"),
        (("quad", "seed=3"), "seed=3"),
        (("ShadowHandOver", "task.hnd=quad"), "task.hnd"),
        ((), "what"),
    ],
)
def test_bad_arguments_give_one_line(arguments, named, capsys):
    assert main(["render", *arguments]) == 2
    captured = capsys.readouterr()
    assert named in captured.err
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
