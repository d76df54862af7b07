"""Bad input of every kind is one line and exit code 2."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from report_runs import write_run

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.commands import listing
from madpo_isaac.config.nodes import read_record
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import Record
from madpo_isaac.report import tables, write
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study
from madpo_isaac.reproduce.plan import Job
from madpo_isaac.runs.checkpoint import load as load_checkpoint
from madpo_isaac.system.files import plain_settings
from madpo_isaac.tasks.hands.hand import MODELS

HEAD = "run,env_steps,episode_return\n"


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setitem(write.write.__kwdefaults__, "reps", 2)


def refused(capsys, *argv):
    """The one line that ``madpo`` refuses ``argv`` with."""
    assert main([str(argument) for argument in argv]) == 2
    found = re.fullmatch(r"error: ([^\n]+)\n", capsys.readouterr().err)
    assert found
    return found[1]


# Reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ("a,0,1\n", "Run 'a' in '.*': env_steps=0 must be greater than 0"),
        ("a,-5,1\na,100,1\n", "env_steps=-5 must be greater than 0"),
        ("a,100,1\na,50,1\n", "env_steps must not fall, as from 100 to 50"),
        ("a,inf,1\n", "Line 2 of '.*': env_steps=inf must be a finite number"),
        ("a,nan,1\n", "env_steps=nan must be a finite number"),
        ("a,1" + 400 * "0" + ",1\n", "env_steps=10* must be a finite number"),
        (",100,1\n", "Line 2 of '.*' names no run"),
        ("  ,100,1\n", "names no run"),
        ("a" * 300 + ",100,1\n", "the name of the run has more than 255 letters"),
        ("a," + "1" * 131_073 + ",1\n", "cannot be read: field larger than field limit"),
        ("a,x,1\n", "Line 2 of '.*' cannot be read"),
    ],
)
def test_curves_that_cannot_be_are_refused(rows, part, tmp_path, capsys):
    path = tmp_path / "curves.csv"
    path.write_text(HEAD + rows)
    assert re.search(part, refused(capsys, "report", path, "--out", tmp_path / "report"))


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text(HEAD + "$a$x_{_s1,100,1\n$a$x_{_s1,200,2\nb$_s1,100,1\nb$_s1,200,2\n")
    assert main(["report", str(path), "--by", "run", "--out", str(tmp_path / "report")]) == 0
    assert "$a$x_{" in (tmp_path / "report" / "report.html").read_text()


def test_text_on_each_line_leaves_the_numbers(tmp_path):
    folder = write_run(tmp_path / "run", lines=3)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"host": "node7", "agent0/entropy": "node7", "agent0/grad_norm": [1, 2]}
        line |= {"eval/return": 10**400}
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (run,) = load([str(folder)])
    np.testing.assert_array_equal(run.metrics["env_steps"], [100.0, 200.0, 300.0])
    assert not run.metrics.keys() & {"host", "agent0/entropy", "agent0/grad_norm"}
    assert np.isnan(run.metrics["eval/return"]).all() and len(run.metrics["eval/return"]) == 3


def test_lines_nested_too_deeply_are_skipped(tmp_path):
    folder = write_run(tmp_path / "run", lines=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert load([str(folder)])[0].steps == 300.0


def test_a_list_as_seed_is_text(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "runs" / f"run{seed}", seed=[seed, 7], lines=3)
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0


def test_a_configuration_nested_too_deeply_is_none(tmp_path, capsys):
    folder = write_run(tmp_path / "run", lines=3)
    (folder / "config.yaml").write_text("[" * 20_000)
    assert "holds no configuration" in refused(capsys, "report", folder)
    (folder / "config.yaml").write_text("a: &a {b: *a}")
    assert "holds no configuration" in refused(capsys, "report", folder)


def test_a_window_of_less_than_a_step_is_refused_and_one_step_does_not_hang(tmp_path, capsys):
    path = tmp_path / "curves.csv"
    path.write_text(HEAD + "a,500000000,1\na,1000000000,3\n")
    out = ("--out", tmp_path / "report")
    message = refused(capsys, "report", path, "--window", "1e-300", *out)
    assert message == "--window 1e-300 must be one number, at least 1 step."
    assert main(list(map(str, ("report", path, "--window", "1", *out)))) == 0
    rows = (tmp_path / "report" / "curves.csv").read_text().splitlines()
    assert rows == ["run,env_steps,episode_return,success_rate",
                    "a,500000000,1,nan", "a,1000000000,3,nan"]  # fmt: skip


def test_a_clock_that_stood_still_gives_no_pace(tmp_path):
    write_run(tmp_path / "still", "A", "happo", pace=0.0)
    write_run(tmp_path / "moving", "A", "madpo", pace=0.5)
    rows = tables.wall_time(Study(load([str(tmp_path)])), "happo").rows
    assert rows == [
        ["A", "happo", "2000", "0:00:00", "-", "-", "-", "-"],
        ["A", "madpo", "2000", "0:00:10", "-", "200", "-", "-"],
    ]


# Runs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iteration", [float("nan"), 3.0, -1, True, "3", 10**30])
def test_an_iteration_that_is_no_count_is_refused(iteration, tmp_path):
    content = {"format_version": 1, "task": "x", "algo": "y", "algo_state": {}}
    torch.save({**content, "iteration": iteration}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"has iteration=.*, which is not a count"):
        load_checkpoint(tmp_path / "x.pth")


def test_references_of_a_foreign_checkpoint_are_refused_and_not_shown(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("SECRET", "hunter2")
    config = "task: {name: HalfCheetah-2x3}\nalgo: {name: happo}\nsim: {name: mujoco}\n"
    content = {"format_version": 1, "task": "x", "algo": "y", "algo_state": {}, "iteration": 1}
    for line in ("experiment: ${oc.env:SECRET}", "sim_device: a${oc.env:SECRET}b", "x: ${seed}"):
        torch.save({**content, "config": f"{config}{line}\n"}, tmp_path / "x.pth")
        message = refused(capsys, "train", f"checkpoint={tmp_path / 'x.pth'}")
        assert "refers to '${" in message and "hunter2" not in message


def test_a_checkpoint_outside_a_run_folder_chooses_no_code(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    Path("planted_plugin.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    Path("planted.sh").write_text(f"#!/bin/sh\ntouch {ran}\n")
    Path("planted.sh").chmod(0o755)
    config = "task: {name: ShadowHandOver}\nalgo: {name: happo}\n"
    content = {"format_version": 1, "task": "ShadowHandOver", "algo": "happo"}
    content |= {"algo_state": {}, "iteration": 1}
    lines = {
        "sim: {name: mujoco}\nplugins: [planted_plugin.py]": "outside a run folder",
        f"sim: {{name: isaacgym, python: {tmp_path / 'planted.sh'}}}": "needs sim.python=<interp",
    }
    for line, said in lines.items():
        torch.save({**content, "config": f"{config}{line}\n"}, "x.pth")
        for command in (("train", "checkpoint=x.pth"), ("play", "x.pth"), ("export", "x.pth")):
            message = refused(capsys, *command)
            assert said in message or (command[0] == "export" and "isaacgym" in message), message
            assert not ran.exists()
    with pytest.raises(UserError, match="outside a run folder"):
        read_record("plugins: [planted_plugin.py]", Path("x.pth"), alone=True)
    with pytest.raises(UserError, match="which task it is for"):  # one that the user names is run
        read_record("plugins: [x.py]", Path("x.pth"), ["planted_plugin.py"], alone=True)
    assert ran.exists()


def test_a_plugin_with_the_name_of_a_module_is_refused(tmp_path, capsys):
    for name in ("time", "json"):  # built in, and a file
        (tmp_path / f"{name}.py").write_text("")
        message = refused(capsys, "train", f"plugins=[{tmp_path}/{name}.py]")
        assert f"{name}.py' has the name of another module" in message


def test_plain_settings_are_read():
    assert plain_settings("a: {b: 1}\nc: x$y\n", MODELS) == {"a": {"b": 1}, "c": "x$y"}


def test_a_damaged_record_of_evaluations_keeps_what_is_sound(tmp_path):
    path = tmp_path / "training.json"
    good = {"step_count": 8, "return": [1.0, 2.0], "length": [3.0, 4.0]}
    wrong = ({"return": []}, {"return": 3}, {"step_count": "8"}, {"length": [None]})
    bad = (*({**good, **x} for x in wrong), {**good, "return": [10**400]}, {"step_count": 8}, [1])
    steps = {f"step_{k}": step for k, step in enumerate((good, *bad, {**good, "step_count": 16}))}
    path.write_text(json.dumps({"MuJoCo": 3}))
    record = Record("HalfCheetah-2x3", "happo", 1)
    record.continue_from(path, 8)
    assert record._steps == []
    content = steps
    for key in reversed(record._keys):
        content = {key: content}
    path.write_text(json.dumps(content))
    record.continue_from(path, 8)
    assert record._steps == [good]
    record.write(path)
    path.write_text("[" * 100_000)
    record.continue_from(path, 8)
    assert record._steps == []


@pytest.mark.parametrize("digits", [10, 26, 5000])
def test_more_episodes_than_a_setting_may_have_are_refused(digits, capsys):
    message = refused(capsys, "eval", "HalfCheetah-2x3", "--episodes", "9" * digits)
    assert "argument --episodes: " in message
    assert "must be at most 1000000000" in message or digits > 4300  # Python reads no more


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"),
    ],
)
def test_too_little_memory_is_one_line(problem, monkeypatch, capsys):
    def fail(_):
        raise problem

    monkeypatch.setattr(listing, "main", fail)
    assert "Not enough memory: use fewer environments" in refused(capsys, "list")


def test_other_errors_are_not_taken_for_it(monkeypatch):
    def fail(_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(listing, "main", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["list"])


def test_overrides_that_are_no_text_are_one_line(tmp_path):
    (tmp_path / "overrides.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"overrides.txt' cannot be read"):
        Job(tmp_path, "HalfCheetah-2x3", (), 8).finished()


def test_progress_of_damaged_metrics_is_none(tmp_path):
    job = Job(tmp_path, "HalfCheetah-2x3", (), 8)
    for line in ('{"env_steps": "x", "wall_s": null}', '{"env_steps": NaN}', "[" * 100_000,
                 '{"env_steps": 1' + 400 * "0" + "}", "[1]"):  # fmt: skip
        (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
        assert job.progress() == (0.0, 0.0)


# Hands ------------------------------------------------------------------------------------------


@pytest.fixture
def hand(tmp_path):
    """Writes a copy of the quad hand with something replaced, and returns its file."""
    count = iter(range(100))

    def write(old="", new="", model=("", "")):
        folder = tmp_path / f"hand{next(count)}"
        folder.mkdir()
        for suffix, (before, after) in {"yaml": (old, new), "xml": model}.items():
            text = (MODELS / f"quad.{suffix}").read_text()
            assert before in text
            (folder / f"quad.{suffix}").write_text(text.replace(before, after, 1))
        return str(folder / "quad.yaml")

    return write


POS = "pos: [0.0, -0.265, 0.0]"
QUAT = "quat: [0.0, 0.0, -0.7071068, 0.7071068]"
BASE = "base: {palm: plam, palm_center: [0, 0, 0], mass: 1, center_of_mass: [0, 0, 0]"


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (QUAT, "quat: [0.0, 0.0, 1.0]", "mount.quat=.* must have 4 numbers"),
        (QUAT, "quat: [0, 0, 0, 0]", "mount.quat=.* is no orientation"),
        (POS, "pos: [0.0, .nan, 0.0]", "mount.pos=.* must be numbers of at most 1000"),
        (POS, "pos: [0.0, 0.0]", "mount.pos=.* must have 3 numbers"),
        ("[[t2, a2],", "[[t2, t2],", r"self_collisions has \['t2', 't2'\], which is no pair"),
        ("[[t2, a2],", "[[t2],", "which is no pair"),
        ("model: quad.xml", "capsules: {a1: {size: [1], pos: [0, 0, 0]}}\nmodel: quad.xml",
         "capsules.a1.size=.* must have 2 numbers"),
        ("model: quad.xml", "capsules: {a1: {size: [1, -1], pos: [0, 0, 0]}}\nmodel: quad.xml",
         "capsules.a1.size=.* must be greater than 0"),
        ("model: quad.xml", f"{BASE}, inertia: [1, 1, 1]}}\nmodel: quad.xml",
         "body .*'plam'. Did you mean 'palm'"),
        ("model: quad.xml", f"{BASE}, inertia: [1, 1]}}\nmodel: quad.xml",
         "base.inertia=.* must have 3"),
        ("model: quad.xml", f"{BASE}, inertia: [1, 1, 0]}}\nmodel: quad.xml",
         "base.inertia=.* greater than 0"),
        ("a: a2, b: b2", "a: a2, b: a2", "fingers has 'a2' more than once"),
        ("root: palm", "root: {a: 1}", "cannot be read"),
        ("solid: [palm,", "solid: [{a: 1},", "has an entry of the wrong type"),
        ("model: quad.xml", "model: ${oc.env:HOME}", "refers to '[$]{oc.env:HOME}'"),
    ],
)  # fmt: skip
def test_hands_that_cannot_be_are_one_line(hand, old, new, part):
    with pytest.raises(UserError, match=part):
        tasks.make("ShadowHandOver", 1, hand=hand(old, new), num_threads=1)


def test_a_binary_hand_is_one_line(tmp_path):
    path = tmp_path / "hand.yaml"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="cannot be read"):
        tasks.make("ShadowHandOver", 1, hand=str(path))


def test_joints_that_are_no_hinges_with_a_range_are_refused(hand):
    joint = '<joint name="a_bend"'
    assert joint in (MODELS / "quad.xml").read_text()
    for change, part in (
        (f'{joint} type="slide"', "Joint 'a_bend' .* is a slide joint"),
        (f'{joint} limited="false"', "Joint 'a_bend' .* has no range"),
    ):
        with pytest.raises(UserError, match=part):
            tasks.make("ShadowHandOver", 1, hand=hand(model=(joint, change)), num_threads=1)
