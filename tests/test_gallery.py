"""The gallery of policies: it says what their JSON files say, and one command adds to it."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from test_pretrained import SMALL
from test_runner import _keep_torch_settings  # noqa: F401

from madpo_isaac import pretrained
from madpo_isaac.__main__ import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gallery():
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "tools" / "gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_are_what_the_program_writes(gallery):
    """If this fails, run ``make gallery``."""
    assert gallery.PAGE.read_text() == gallery.page()
    assert gallery.README.read_text() == gallery.readme()


@pytest.mark.parametrize("name", pretrained.names())
def test_numbers_are_those_of_the_json_file(name):
    facts = json.loads(pretrained.find(name).with_suffix(".json").read_text())
    page = (ROOT / "docs" / "gallery.md").read_text()
    section = re.search(rf"^## {name}\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)[1]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if "[" in line]
    table = {row[0]: row[1:] for row in cells if len(row) == 3}
    for k, actions in enumerate(("mean_actions", "sampled_actions")):
        scores = facts[actions]
        shown = [float(x) for x in re.findall(r"-?[\d.]+", table["return"][k])]
        exact = [scores["return"]["mean"], *scores["return"]["mean_interval"]]
        assert shown == pytest.approx(exact, rel=5e-3)
        rates = [row for row in table if row != "return"]
        keys = [key for key in scores if key.startswith("success")]
        assert len(rates) == len(keys)
        for rate, key in zip(rates, sorted(keys), strict=True):
            shown = [float(x) for x in re.findall(r"[\d.]+", table[rate][k])]
            exact = [scores[key]["rate"], *scores[key]["interval"]]
            assert shown == pytest.approx(exact, abs=6e-4)
    commands = facts["command"].replace(" && ", " ")  # a line each on the page
    assert commands in " ".join(section.replace("\\\n", "").split())
    assert f"{facts['hours']:.2f} hours ({facts['machine']}; revision {facts['revision']})" in (
        section
    )
    end, whole = facts["iteration"], facts["config"]["max_iterations"]
    assert (f"iteration {end} of {whole}:" in section) == (end < whole)
    readme = (ROOT / "README.md").read_text()
    (row,) = re.findall(rf"^\| \[`{name}`\]\(docs/gallery.md#{name.lower()}\) \|.*$", readme, re.M)
    assert float(row.split(" | ")[3]) == pytest.approx(facts["return"], rel=5e-3)


@pytest.mark.parametrize("name", pretrained.names())
def test_every_policy_has_a_film_and_a_picture(gallery, name):
    film, curves = (gallery.PICTURES / f"{name}{suffix}" for suffix in (".gif", ".png"))
    assert film.stat().st_size <= 1_500_000 and curves.stat().st_size <= 300_000
    with Image.open(film) as image:
        assert image.n_frames > 20
    assert {path.stem for path in gallery.PICTURES.iterdir()} == set(pretrained.names())


def test_one_command_adds_a_policy(gallery, tmp_path, monkeypatch):
    run, folder = tmp_path / "x", tmp_path / "policies"
    folder.mkdir()
    argv = ["train", f"runs_dir={tmp_path}", "experiment=x", "algo=happo", *SMALL]
    assert main(argv) == 0
    (tmp_path / "README.md").write_text("before\n" + "old\n".join(gallery.MARKS) + "after\n")
    for name, value in (("PAGE", "gallery.md"), ("README", "README.md"), ("PICTURES", "images")):
        monkeypatch.setattr(gallery, name, tmp_path / value)
    monkeypatch.setattr(pretrained, "FOLDER", folder)
    made = [f"--out={folder}", "--revision=abc1234", "--machine=a box", "--episodes=1"]
    made += ["--note=Trained in a test."]
    assert gallery.main([str(run), *made]) == 0
    page, readme = ((tmp_path / name).read_text() for name in ("gallery.md", "README.md"))
    assert "\n\nTrained in a test.\n\nHAPPO trained it" in page
    assert "(a box; revision abc1234):" in page and "## HalfCheetah-2x3\n" in page
    begin, end = gallery.MARKS
    assert readme.startswith(f"before\n{begin}| policy |") and readme.endswith(f"{end}after\n")
    for suffix in (".gif", ".png"):
        assert (tmp_path / "images" / f"HalfCheetah-2x3{suffix}").stat().st_size > 1000
    assert gallery.main(["nowhere"]) == 2
