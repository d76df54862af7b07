"""madpo doctor: the table, and an exit code that says whether training would run."""

import os
import re
import shutil
import sys
from collections import namedtuple

import pytest

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.commands import doctor
from madpo_isaac.system import device


def table(text):
    """Name to state and detail."""
    rows = re.findall(r"^\s*([a-z][\w-]*)\s+(ok|missing|error)\s+(.*\S)", text, re.MULTILINE)
    return {name: (state, detail) for name, state, detail in rows}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_machine_that_runs_the_tests_would_train(capsys, tmp_path):
    import torch

    before = os.environ.get("MUJOCO_GL")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "training would run"
    found = table(out)
    assert found["torch"] == ("ok", torch.__version__)
    assert found["package"] == ("ok", f"{len(tasks.TASKS)} tasks in '{doctor.FOLDER}'")
    assert found["physics"] == ("ok", "steps HalfCheetah")
    assert found["devices"][1].startswith("cpu (")
    linux = hasattr(os, "sched_getaffinity")
    usable = len(os.sched_getaffinity(0)) if linux else os.cpu_count()
    assert found["threads"][1].startswith(f"{usable} usable of")
    names = {*doctor.NEEDED, *doctor.OPTIONAL, "python", "opengl", "disk"}
    assert names <= found.keys()
    assert not list(tmp_path.iterdir())
    assert os.environ.get("MUJOCO_GL") == before


def test_a_machine_that_does_not_say_which_cores_are_ours(monkeypatch):
    """As macOS, which has no sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert device.cores() == 6
    assert doctor._threads().startswith("6 usable of 6, torch uses ")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert device.cores() == 1


@pytest.mark.parametrize(
    ("group", "limits", "granted"),
    [
        ("0::/", {"": "150000 100000"}, 1.5),  # a container sees its own group as the root
        ("0::/a/b", {"": "max 100000", "a": "400000 100000", "a/b": "max 100000"}, 4.0),
        ("12:cpu:/x\n0::/a/b", {"a": "400000 100000", "a/b": "50000 100000"}, 0.5),
        ("0::/a/b", {"a": "max 100000"}, float(sys.maxsize)),
        ("0::/a", {"a": "none"}, float(sys.maxsize)),
        ("1:cpu:/", {}, float(sys.maxsize)),
    ],
)
def test_the_quota_of_a_container_is_read(tmp_path, group, limits, granted):
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text(group + "\n")
    for folder, text in limits.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "cpu.max").write_text(text + "\n")
    assert device._quota(own, root) == granted
    assert device._quota(tmp_path / "missing", root) in (granted, float(sys.maxsize))


def test_a_quota_limits_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    for quota, usable in ((1.5, 2), (0.5, 1), (64.0, 64), (float(sys.maxsize), 64)):
        monkeypatch.setattr(device, "_quota", lambda quota=quota: quota)
        assert device.cores() == usable


def test_it_knows_every_file_that_is_no_code():
    files = [p for top in ("cfg", "tasks") for p in (doctor.FOLDER / top).resolve().rglob("*")]
    data = {p for p in files if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert data == {(doctor.FOLDER / name).resolve() for name in doctor.expected()}


def test_files_of_the_package_that_are_missing(monkeypatch, capsys, tmp_path):
    for top in ("cfg", "tasks"):
        shutil.copytree(doctor.FOLDER / top, tmp_path / top)
    (tmp_path / "cfg/task/ShadowHandPen.yaml").unlink()
    (tmp_path / "tasks/hands/models/quad.xml").unlink()
    monkeypatch.setattr(doctor, "FOLDER", tmp_path)
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: training would not run: package\n"
    assert table(captured.out)["package"][0] == "error"
    missing = "lacks cfg/task/ShadowHandPen.yaml, tasks/hands/models/quad.xml"
    assert missing.replace(" ", "") in "".join(captured.out.split())


def test_code_of_a_task_that_is_missing(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "madpo_isaac.tasks.hands.pen", raising=False)
    monkeypatch.setitem(sys.modules, "madpo_isaac.tasks.hands.pen", None)
    assert main(["doctor"]) == 1
    assert "madpo_isaac.tasks.hands.pen" in capsys.readouterr().out


def test_a_needed_package_that_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(doctor.NEEDED, "mjbatch", "no_such_module")
    assert main(["doctor"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: training would not run: mjbatch, package, physics\n"
    assert table(captured.out)["mjbatch"][0] == "error"
    assert "no_such_module" in captured.out


def test_an_optional_package_that_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(doctor.OPTIONAL, "rl-games", ("no_such_module", "algo=ppo"))
    assert main(["doctor"]) == 0
    state, detail = table(capsys.readouterr().out)["rl-games"]
    assert state == "missing" and detail.startswith("for algo=ppo; ModuleNotFoundError")


def test_an_engine_that_does_not_work(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no physics\ntoday")

    monkeypatch.setattr(tasks, "make", broken)
    assert main(["doctor"]) == 1
    found = table(capsys.readouterr().out)
    assert found["package"] == ("ok", f"{len(tasks.TASKS)} tasks in '{doctor.FOLDER}'")
    assert found["physics"] == ("error", "RuntimeError: no physics today")


def test_a_full_disk(monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "error: training would not run: disk\n"


def test_a_place_that_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["doctor", "runs_dir=file/below"]) == 1
    assert table(capsys.readouterr().out)["disk"][1].endswith("cannot be written")


def test_a_place_that_cannot_be_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    for place in ("loop", "loop/below", "x" * 300):
        assert main(["doctor", f"runs_dir={place}"]) == 1
        state, text = table(capsys.readouterr().out)["disk"]
        assert state == "error" and text.startswith(f"'{place}' cannot be ")


def test_no_off_screen_rendering(monkeypatch, capsys):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert main(["doctor"]) == 0
    assert table(capsys.readouterr().out)["opengl"][0] == "missing"


def test_pictures_that_cannot_be_imported_leave_the_table(monkeypatch, capsys):
    """Packages that need torch, where torch is missing."""
    monkeypatch.setitem(sys.modules, "madpo_isaac.evaluation.render", None)
    assert main(["doctor"]) == 0
    assert table(capsys.readouterr().out)["opengl"][0] == "missing"


@pytest.mark.parametrize("argument", ["x", "runs=3", "runs_dir=", "runs_dir"])
def test_arguments_it_does_not_know(argument, capsys):
    assert main(["doctor", argument]) == 2
    assert re.fullmatch(rf"error: '{argument}': [^\n]+\n", capsys.readouterr().err)
