"""The run folder: names, records, and never over something that is there."""

import json
import os
import re

import pytest
from omegaconf import OmegaConf

from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.runs.folder import RunFolder, as_yaml, machine
from madpo_isaac.system import files
from madpo_isaac.system.lock import Lock, is_alive

OVERRIDES = ["num_envs=4", "algo.hidden=[16]"]


def settings(runs, *overrides):
    return compose([*OVERRIDES, f"runs_dir={runs}", *overrides])


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_new_folder_records_configuration_command_line_and_machine(tmp_path):
    config = settings(tmp_path / "deep" / "runs", "experiment=x")
    folder = RunFolder.create(config, OVERRIDES)
    assert folder.path == tmp_path / "deep" / "runs" / "x"
    assert folder.nn.is_dir() and folder.summaries.is_dir()
    assert not folder.metrics.exists()
    assert sorted(contents(folder.path)) == ["config.yaml", "env.json", "lock", "overrides.txt"]
    recorded = OmegaConf.load(folder.path / "config.yaml")
    assert recorded == OmegaConf.to_container(OmegaConf.structured(config))
    assert (recorded.algo.horizon, recorded.algo.hidden) == (25, [16])
    assert (folder.path / "overrides.txt").read_text() == "num_envs=4\nalgo.hidden=[16]\n"
    assert json.loads((folder.path / "env.json").read_text()) == machine()


@pytest.mark.parametrize("algo", ["happo", "madpo"])
def test_default_name(tmp_path, algo):
    folder = RunFolder.create(settings(tmp_path, f"algo={algo}", "seed=7"), [])
    assert re.fullmatch(rf"ShadowHandOver_{algo}_s7_20\d{{6}}-\d{{6}}", folder.path.name)


def test_default_names_of_the_same_second_differ(tmp_path):
    folders = [RunFolder.create(settings(tmp_path), []).path for _ in range(5)]
    assert len(set(folders)) == 5
    assert not [path.name for path in folders if set(path.name) & set("=[]() \t")]


def test_used_folder_is_refused_and_untouched(tmp_path):
    config = settings(tmp_path, "experiment=x")
    RunFolder.create(config, OVERRIDES)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"x' already holds a run\. .*checkpoint="):
        RunFolder.create(settings(tmp_path, "experiment=x", "num_envs=5"), [])
    assert contents(tmp_path) == before


def test_file_of_that_name_is_refused_and_untouched(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="x'"):
        RunFolder.create(settings(tmp_path, "experiment=x"), [])
    assert (tmp_path / "x").read_text() == "mine"


def test_empty_folder_may_be_used(tmp_path):
    (tmp_path / "x").mkdir()
    assert RunFolder.create(settings(tmp_path, "experiment=x"), []).nn.is_dir()


@pytest.mark.parametrize("experiment", ["", "x"])
@pytest.mark.parametrize("runs", ["file", "file/below", "/dev/null", "/proc/none"])
def test_runs_dir_that_cannot_be_written(tmp_path, runs, experiment):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError) as error:
        RunFolder.create(settings(tmp_path / runs, f"experiment={experiment}"), [])
    assert "\n" not in str(error.value)
    assert str(tmp_path / runs) in str(error.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_yaml_is_resolved():
    text = as_yaml(compose(["algo.horizon=9"]))
    assert OmegaConf.create(text).algo.horizon == 9
    assert "$" not in text and "???" not in text


def test_machine_names_versions_and_devices():
    record = machine()
    assert {"python", "platform", "packages", "cpu_threads", "cuda", "git_revision"} <= set(record)
    assert record["packages"]["mujoco"] == "3.14.0"
    assert all(record["packages"].values())


# Resuming ---------------------------------------------------------------------------------------


def test_folder_of_a_checkpoint(tmp_path, monkeypatch):
    folder = RunFolder.create(settings(tmp_path, "experiment=x"), [])
    (folder.nn / "last.pth").touch()
    found = RunFolder.of_checkpoint(folder.nn / "last.pth")
    assert found is not None and found.path == folder.path
    monkeypatch.chdir(folder.nn)
    relative = RunFolder.of_checkpoint(type(tmp_path)("last.pth"))
    assert relative is not None and relative.path == folder.path


def test_checkpoint_elsewhere_has_no_run_folder(tmp_path):
    (tmp_path / "nn").mkdir()
    assert RunFolder.of_checkpoint(tmp_path / "nn" / "last.pth") is None
    assert RunFolder.of_checkpoint(tmp_path / "last.pth") is None


def test_metrics_after_a_checkpoint_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    lines = [json.dumps({"iteration": i, "x": i / 3}) + "\n" for i in range(1, 6)]
    folder.metrics.write_text("".join(lines))
    folder.drop_metrics_after(3)
    assert folder.metrics.read_text() == "".join(lines[:3])
    folder.drop_metrics_after(3)
    assert folder.metrics.read_text() == "".join(lines[:3])
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "tail",
    [
        *('{"iteration": 2, "en', "2\n", "[]\n", "{}\n", "\n", "null", '{"iteration": "x"}\n'),
        *("\0\0\0", "\xff\xfe\n"),
    ],
)
def test_damaged_lines_are_dropped(tmp_path, tail):
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(('{"iteration": 1}\n' + tail).encode("latin1"))
    folder.drop_metrics_after(2)
    assert folder.metrics.read_text() == '{"iteration": 1}\n'


def test_a_line_that_lacks_only_its_end_gets_it(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_text('{"iteration": 1}\n{"iteration": 2}')
    folder.drop_metrics_after(2)
    assert folder.metrics.read_text() == '{"iteration": 1}\n{"iteration": 2}\n'


def test_a_folder_that_another_process_began_meanwhile_is_left_alone(tmp_path):
    config = settings(tmp_path, "experiment=x")
    folder = RunFolder.create(config, OVERRIDES)
    (folder.nn / "last.pth").touch()
    folder.metrics.write_text('{"iteration": 1}\n')
    before = contents(tmp_path)
    for path in (None, tmp_path / "pretrained.pth"):
        with pytest.raises(UserError, match="started by another process meanwhile"):
            folder.reopen(config, OVERRIDES, path, 0, 0, 0)
    assert contents(tmp_path) == before


def test_a_lock_that_is_only_looked_at_does_not_stop_a_run(tmp_path, monkeypatch):
    """`reproduce.py` takes a lock for a moment to see whether a run goes on."""
    folder = RunFolder.create(settings(tmp_path, "experiment=x"), OVERRIDES)
    folder.release()
    probe = Lock(folder.path / "lock")
    assert probe.acquire()
    monkeypatch.setattr("time.sleep", lambda _: probe.release())
    folder.acquire()
    assert not probe.acquire()
    folder.release()


def test_two_that_create_one_folder_at_once(tmp_path, monkeypatch):
    config = settings(tmp_path, "experiment=x")
    (tmp_path / "x").mkdir()
    other = Lock(tmp_path / "x" / "lock")
    assert other.acquire()
    with pytest.raises(UserError, match=r"x' is in use by another process\."):
        RunFolder.create(config, OVERRIDES)
    other.release()
    acquire = RunFolder.acquire

    def late(self):
        acquire(self)
        (self.path / "config.yaml").write_text("theirs")

    monkeypatch.setattr(RunFolder, "acquire", late)
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder.create(config, OVERRIDES)
    assert (tmp_path / "x" / "config.yaml").read_text() == "theirs"


def test_no_metrics_yet(tmp_path):
    RunFolder(tmp_path).drop_metrics_after(3)
    assert not list(tmp_path.iterdir())


def test_a_file_is_written_beside_others_and_by_two_at_once(tmp_path, monkeypatch):
    """A file of the user's with the same stem stays, and the last writer wins as a whole."""
    path, theirs = tmp_path / "page.html", tmp_path / "page.tmp"
    theirs.write_text("precious")
    fsync, others = os.fsync, iter([b"second"])

    def interrupted(descriptor):
        for data in others:
            files.write_atomic(path, data)
            assert path.read_bytes() == data
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", interrupted)
    files.write_atomic(path, b"the first")
    assert path.read_bytes() == b"the first"
    assert {p.name for p in tmp_path.iterdir()} == {"page.html", "page.tmp"}
    assert theirs.read_text() == "precious"


def test_processes_of_other_users_are_alive(monkeypatch):
    def kill(pid, number):
        raise {1: PermissionError, 2: ProcessLookupError, 1 << 70: OverflowError}[pid]

    monkeypatch.setattr(os, "kill", kill)
    assert [is_alive(pid) for pid in (1, 2, 1 << 70)] == [True, False, False]
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    assert [is_alive(pid) for pid in (5, 0, -1)] == [True, False, False]
