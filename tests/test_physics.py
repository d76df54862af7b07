"""A run keeps the model it was trained on: a changed one is refused, and a moved one is found."""

import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from test_runner import _keep_torch_settings  # noqa: F401

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.sim import physics
from madpo_isaac.tasks.hands.hand import MODELS, load

TINY = (
    *("task=ShadowHandOver", "algo=happo", "num_envs=2", "num_threads=1", "algo.horizon=4"),
    *("algo.hidden=[4]", "algo.epochs=1", "algo.critic_epochs=1", "max_iterations=1"),
)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with the files of a hand, and a run of one iteration that began in it."""
    folder = tmp_path_factory.mktemp("begun")
    for suffix in ("yaml", "xml"):
        shutil.copy(MODELS / f"quad.{suffix}", folder / f"mine.{suffix}")
    replace(folder / "mine.yaml", "quad.xml", "mine.xml")
    before = os.getcwd()
    try:
        os.chdir(folder)
        assert main(["train", *TINY, "task.hand=mine.yaml", "experiment=x"]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def place(begun, tmp_path):
    """The same files elsewhere, and the run with them."""
    folder = tmp_path / "place"
    shutil.copytree(begun, folder)
    load.cache_clear()
    yield folder
    load.cache_clear()


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def go_on(place, *settings):
    """Continues the run with the hand of ``place``."""
    run, hand = place / "runs" / "x", place / "mine.yaml"
    return main(["train", f"checkpoint={run}", f"task.hand={hand}", "max_iterations=2", *settings])


def checkpoint(place):
    return place / "runs" / "x" / "nn" / "last.pth"


def without_physics(place):
    """Makes the run one of an earlier version."""
    content = torch.load(checkpoint(place), weights_only=True)
    del content["physics"]
    torch.save(content, checkpoint(place))


# Changed models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "part"),
    [
        ("mine.xml", 'density="600"', 'density="1200"', "body_mass of 'hand0_palm'"),
        # Actuators carry the damping of driven joints: force = kp (target - q) - kd v.
        ("mine.xml", 'damping="0.1"', 'damping="0.2"',
         "actuator_biasprm of 'hand0_a_spread_drive' is -0.2 and was -0.1"),
        ("mine.xml", 'armature="0.001"', 'armature="0.002"',
         "dof_armature of 'hand0_a_spread' is 0.002 and was 0.001"),
        ("mine.xml", 'range="-0.4 0.4"', 'range="-0.4 0.5"',
         "jnt_range of 'hand0_a_spread' is 0.5 and was 0.4"),
        ("mine.yaml", "a_spread: abduction", "a_spread: adduction", "another model: hand.parts."),
        ("mine.yaml", "[[t2, a2], ", "[", "another model: hand.self_collisions."),
    ],
)  # fmt: skip
def test_a_changed_hand_is_refused_in_one_line(place, capsys, file, old, new, part):
    replace(place / file, old, new)
    assert go_on(place) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: [^\n]+\n", error)
    assert "was trained on another model" in error and "begin a new run" in error
    assert part in error
    if "body_mass" in part:
        masses = re.search(r"is (\S+) and was (\S+)\. Put", error)
        assert float(masses[1]) == pytest.approx(2 * float(masses[2]), rel=1e-4)
    assert len((place / "runs/x/metrics.jsonl").read_text().splitlines()) == 1


def test_a_policy_is_played_on_a_changed_hand_with_one_warning(place, capsys):
    replace(place / "mine.xml", 'density="600"', 'density="1200"')
    where = f"checkpoint={checkpoint(place)}", f"task.hand={place / 'mine.yaml'}"
    assert main(["train", *where, "test=True", "num_envs=1", "task.episode_length=2"]) == 0
    error = capsys.readouterr().err
    assert re.fullmatch(r"warning: [^\n]+ was trained on another model: body_mass [^\n]+\n", error)


def test_a_run_of_an_earlier_version_goes_on_with_one_warning(place, capsys):
    without_physics(place)
    assert go_on(place) == 0
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"warning: [^\n]+ does not say which model it was trained on[^\n]+\n", error
    )
    capsys.readouterr()
    assert go_on(place, "max_iterations=3") == 0  # now it does
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damage", [None, 3, {"shapes": 1}, {"shapes": {}, "values": 1},
                                    {"shapes": {"a": [2]}, "values": torch.zeros(3)}])  # fmt: skip
def test_a_damaged_record_is_one_line(place, capsys, damage):
    content = torch.load(checkpoint(place), weights_only=True)
    torch.save({**content, "physics": damage}, checkpoint(place))
    assert go_on(place) == (0 if damage is None else 2)
    error = capsys.readouterr().err
    assert error == "" if damage is None else re.fullmatch(r"error: [^\n]+\n", error)


def test_a_dump_of_another_model_is_not_replayed(begun, place, capsys):
    content = torch.load(checkpoint(place), weights_only=True)
    dump = {"iteration": 1, "start": content["env_state"], "actions": torch.zeros(1, 2, 24),
            "faults": torch.tensor([[0, 0]]), "physics": content["physics"],
            "config": content["config"].replace(str(begun), str(place))}  # fmt: skip
    torch.save(dump, place / "dump.pth")
    assert main(["replay-dump", str(place / "dump.pth")]) == 1  # it was made up, and is replayed
    assert "error" not in capsys.readouterr().err
    load.cache_clear()
    replace(place / "mine.xml", 'density="600"', 'density="1200"')
    assert main(["replay-dump", str(place / "dump.pth")]) == 2
    assert "is of another model: body_mass of" in capsys.readouterr().err


# Moved models -----------------------------------------------------------------------------------


def test_a_relative_hand_is_found_from_another_folder(begun, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hand = OmegaConf.load(begun / "runs" / "x" / "config.yaml").task.hand
    assert hand == str(begun / "mine.yaml")
    settings = "num_envs=1", "task.episode_length=2", "num_threads=1"
    assert main(["eval", str(begun / "runs" / "x"), *settings]) == 0
    (summary,) = (begun / "runs/x/eval").glob("last_*_summary.json")
    assert json.loads(summary.read_text())["length"]["max"] == 2


def test_a_hand_that_has_moved_is_named_anew(begun, place, capsys):
    replace(place / "runs/x/config.yaml", str(begun), "/nowhere")
    content = torch.load(checkpoint(place), weights_only=True)
    content["config"] = content["config"].replace(str(begun), "/nowhere")
    torch.save(content, checkpoint(place))
    assert main(["train", f"checkpoint={place / 'runs/x'}", "max_iterations=2"]) == 2
    error = capsys.readouterr().err
    assert "Unknown hand '/nowhere/mine.yaml'" in error and "task.hand=<file.yaml>" in error
    assert go_on(place) == 0
    assert main(["train", f"checkpoint={place / 'runs/x'}", "task.hand=quad"]) == 2
    assert "which cannot change when a run is continued or played" in capsys.readouterr().err


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["HalfCheetah-2x3", "ShadowHandOver"])
def test_rounding_is_no_change_and_every_number_counts(task):
    env = tasks.make(task, 1, num_threads=1)
    then, model = env.physics(), env.sim.model
    values = then["values"]
    other = torch.tensor(np.random.default_rng(0).uniform(-1.0, 1.0, len(values)))
    assert physics.change(env.physics(), {**then, "values": values * (1 + 1e-8 * other)}) == ""
    for name, field in (("body_mass", model.body_mass), ("opt.gravity", model.opt.gravity),
                        ("geom_friction", model.geom_friction), ("jnt_range", model.jnt_range),
                        ("actuator_gainprm", model.actuator_gainprm)):  # fmt: skip
        kept = field.copy()
        field[-1] = 1.001 * field[-1] + 0.001
        assert physics.change(env.physics(), then).startswith(name)
        field[:] = kept
    assert physics.change(env.physics(), then) == ""


def test_environments_without_a_record_change_nothing():
    assert physics.change({}, {"values": 1}) == physics.change({"values": 1}, {}) == ""
