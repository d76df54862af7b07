import math
import subprocess
import sys

import matplotlib.image
import pytest

from madpo_isaac.evaluation.render import main
from madpo_isaac.tasks import TASKS

RENDER = "madpo_isaac.evaluation.render"


def check(code, text):
    """Skips where nothing can be drawn."""
    if code and "GL" in text:
        pytest.skip(f"no off-screen OpenGL here: {text.strip().splitlines()[-1]}")
    assert code == 0, text


def test_picture_shows_hands_egg_and_goal(tmp_path, zygote):
    out = tmp_path / "new" / "scene.png"
    check(*zygote.run("task=ShadowHandOver", f"out={out}", "seed=3", main=RENDER))
    red, green, blue = matplotlib.image.imread(out)[..., :3].transpose(2, 0, 1)
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
def test_sheet_shows_every_hand_task(tmp_path):
    out = tmp_path / "all.png"
    command = [sys.executable, "-m", RENDER, "sheet", f"out={out}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    check(done.returncode, done.stderr)
    pixels = matplotlib.image.imread(out)[..., :3]
    height, width = pixels.shape[:2]
    names = [name for name in TASKS if name.startswith("ShadowHand")]
    assert len(names) >= 10
    rows = math.ceil(len(names) / 5)
    for i in range(5 * rows):
        top, left = i // 5 * height // rows, i % 5 * width // 5
        panel = pixels[top + 40 : top + height // rows, left : left + width // 5]
        drawn = panel.std() > 0.05
        assert drawn == (i < len(names)), i


@pytest.mark.parametrize(
    ("argument", "named"),
    [("--out=x.png", "--out=x.png"), ("task=ShadowHandOve", "ShadowHandOver")],
)
def test_bad_arguments_give_one_line(argument, named, capsys):
    assert main([argument]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert len(error.strip().splitlines()) == 1
