"""Checkpoints: what is saved comes back, writes are atomic, bad files are refused."""

import errno
import io
import os
import pickle
import stat

import pytest
import torch

from madpo_isaac.errors import UserError
from madpo_isaac.runs import checkpoint
from madpo_isaac.system import files

CPU = torch.device("cpu")


def content(**changes):
    weights = torch.arange(6, dtype=torch.float32).view(2, 3)
    state = {"actors": weights, "list": [{"step": torch.tensor(3.0)}, None]}
    return {"task": "T", "algo": "madpo", "iteration": 7, "algo_state": state, **changes}


def test_saved_content_comes_back(tmp_path):
    path = tmp_path / "nn" / "last.pth"
    checkpoint.save(path, content(best_return=-float("inf"), name="é"))
    loaded = checkpoint.load(path)
    assert loaded["format_version"] == checkpoint.FORMAT_VERSION
    assert (loaded["task"], loaded["iteration"], loaded["name"]) == ("T", 7, "é")
    assert loaded["best_return"] == -float("inf")
    assert torch.equal(loaded["algo_state"]["actors"], content()["algo_state"]["actors"])
    assert loaded["algo_state"]["list"][0]["step"] == 3.0
    assert loaded["algo_state"]["list"][1] is None
    assert [p.name for p in path.parent.iterdir()] == ["last.pth"]


def test_load_executes_nothing(tmp_path, recwarn):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save(content(format_version=1, payload=Payload()), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UserError, match=f"{name}' is damaged or not a checkpoint"):
            checkpoint.load(tmp_path / name)
    assert not (tmp_path / "made").exists()
    assert not recwarn.list


# Atomic writes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["write", "fsync", "replace"])
@pytest.mark.parametrize("old", [True, False])
def test_failing_write_leaves_the_old_file(tmp_path, monkeypatch, stage, old):
    path = tmp_path / "last.pth"
    if old:
        checkpoint.save(path, content())
    before = path.read_bytes() if old else None

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    if stage == "write":
        monkeypatch.setattr(type(path), "open", lambda self, mode: FullDisk(self, mode))
    else:
        monkeypatch.setattr({"fsync": os, "replace": type(path)}[stage], stage, fail)
    with pytest.raises(UserError, match=r"Cannot write checkpoint '.*last\.pth': .*No space left"):
        checkpoint.save(path, content(iteration=8))
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == ([path] if old else [])
    assert not old or path.read_bytes() == before


class FullDisk(io.FileIO):
    """A file on a disk with 100 bytes left."""

    def write(self, data):
        super().write(bytes(data[:100]))
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, stage):
    path = tmp_path / "last.pth"
    checkpoint.save(path, content())

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr({"fsync": os, "replace": type(path)}[stage], stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, content(iteration=8))
    assert list(tmp_path.iterdir()) == [path]
    assert checkpoint.load(path)["iteration"] == 7


def test_the_data_is_on_disk_before_the_name_points_to_it_and_the_name_follows(
    tmp_path, monkeypatch
):
    calls = []
    fsync, replace = os.fsync, type(tmp_path).replace

    def recorded_fsync(descriptor):
        status = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(status.st_mode) else ("data", status.st_size > 0))
        fsync(descriptor)

    def recorded_replace(self, target):
        calls.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(type(tmp_path), "replace", recorded_replace)
    checkpoint.save(tmp_path / "last.pth", content())
    assert calls == [("data", True), "last.pth", "folder"]


@pytest.mark.parametrize("links", [True, False])
def test_several_names_of_one_checkpoint(tmp_path, monkeypatch, links):
    paths = [tmp_path / f"{name}.pth" for name in ("ep_3", "best", "last")]
    order = []
    replace = type(tmp_path).replace
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda self, to: (order.append(to.name), replace(self, to))
    )
    if not links:

        def unsupported(*args):
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", unsupported)
    checkpoint.write(paths, checkpoint.serialize(content()))
    assert order == ["ep_3.pth", "best.pth", "last.pth"]
    checkpoint.save(paths[-1], content(iteration=8))
    assert [checkpoint.load(path)["iteration"] for path in paths] == [7, 7, 8]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pth", "ep_3.pth", "last.pth"]


def test_what_a_kill_left_is_not_written_to(tmp_path):
    checkpoint.save(tmp_path / "ep_3.pth", content())
    os.link(tmp_path / "ep_3.pth", tmp_path / ".madpo-0.tmp")  # killed between the two names
    checkpoint.save(tmp_path / "last.pth", content(iteration=8))
    files.remove_temporary(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"ep_3.pth", "last.pth"}
    assert checkpoint.load(tmp_path / "ep_3.pth")["iteration"] == 7


def test_later_changes_do_not_reach_what_was_serialized(tmp_path):
    whole = content()
    data = checkpoint.serialize(whole)
    whole["algo_state"]["actors"].zero_()
    checkpoint.write([tmp_path / "last.pth"], data)
    loaded = checkpoint.load(tmp_path / "last.pth")["algo_state"]["actors"]
    assert torch.equal(loaded, content()["algo_state"]["actors"])


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "nn").write_text("a file")
    with pytest.raises(UserError, match="Cannot write checkpoint"):
        checkpoint.save(tmp_path / "nn" / "last.pth", content())
    assert (tmp_path / "nn").read_text() == "a file"


# Bad files --------------------------------------------------------------------------------------


def write(path, kind):
    whole = content(format_version=checkpoint.FORMAT_VERSION)
    if kind == "truncated":
        torch.save(whole, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "one byte changed":
        torch.save(whole, path)
        data = bytearray(path.read_bytes())
        data[0] ^= 0xFF
        path.write_bytes(data)
    elif kind == "one byte of a tensor changed":
        torch.save(whole, path)
        data = path.read_bytes()
        weights = whole["algo_state"]["actors"].numpy().tobytes()
        assert data.count(weights) == 1
        path.write_bytes(data.replace(weights, weights[:-1] + b"\x41"))
    elif kind in ("text", "empty"):
        path.write_text("hello\n" * (kind == "text"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "weights alone":
        torch.save({"layer.weight": torch.zeros(3)}, path)
    elif kind == "newer":
        torch.save({**whole, "format_version": checkpoint.FORMAT_VERSION + 1}, path)
    elif kind == "no version":
        torch.save({**whole, "format_version": 0}, path)
    elif kind == "version as text":
        torch.save({**whole, "format_version": "1"}, path)
    elif kind == "incomplete":
        torch.save({k: v for k, v in whole.items() if k not in ("algo", "iteration")}, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "does not exist"),
        ("folder", "is not a file"),
        ("empty", "is damaged or not a checkpoint"),
        ("text", "is damaged or not a checkpoint"),
        ("truncated", "is damaged or not a checkpoint"),
        ("one byte changed", "is damaged or not a checkpoint"),
        ("one byte of a tensor changed", "is damaged or not a checkpoint"),
        ("tensor", "is not a checkpoint of this program"),
        ("weights alone", "is not a checkpoint of this program"),
        ("no version", "is not a checkpoint of this program"),
        ("version as text", "is not a checkpoint of this program"),
        ("newer", "has format 2; this version reads up to 1"),
        ("incomplete", "lacks algo, iteration"),
    ],
)
def test_bad_file(tmp_path, kind, message):
    path = tmp_path / "x.pth"
    write(path, kind)
    with pytest.raises(UserError, match=rf"x\.pth' {message}") as error:
        checkpoint.load(path)
    assert "\n" not in str(error.value)


def test_name_too_long_for_the_file_system(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.find("a" * 5000, tmp_path, "T", "madpo")


# Names of checkpoints ---------------------------------------------------------------------------


def make_run(runs, name, age, task="T", algo="madpo", files=("last", "best")):
    run = runs / name
    (run / "nn").mkdir(parents=True)
    (run / "config.yaml").write_text(f"task:\n  name: {task}\nalgo:\n  name: {algo}\n")
    for file in files:
        path = run / "nn" / f"{file}.pth"
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    return run


@pytest.mark.parametrize(("name", "file"), [("latest", "last"), ("best", "best")])
def test_latest_and_best_are_of_the_newest_matching_run(tmp_path, name, file):
    make_run(tmp_path, "old", age=30)
    wanted = make_run(tmp_path, "new", age=20)
    make_run(tmp_path, "other_task", age=10, task="U")
    make_run(tmp_path, "other_algo", age=5, algo="happo")
    (tmp_path / "not_a_run").mkdir()
    (tmp_path / "a_file").touch()
    found = checkpoint.find(name, tmp_path, "T", "madpo")
    assert found == wanted / "nn" / f"{file}.pth"


def test_a_run_without_a_best_yet_is_named_and_no_other_is_taken(tmp_path):
    make_run(tmp_path, "old", age=30)
    make_run(tmp_path, "new", age=20, files=("last",))
    with pytest.raises(UserError, match=r"the newest run, '.*new', has no best.pth"):
        checkpoint.find("best", tmp_path, "T", "madpo")
    make_run(tmp_path, "begun", age=0, files=())
    with pytest.raises(UserError, match=r"the newest run, '.*begun', has no last.pth"):
        checkpoint.find("latest", tmp_path, "T", "madpo")


@pytest.mark.parametrize(
    "damage", [None, "", "a: [", "- 1\n- 2\n", "task: 3\n", "\x00", "é".encode("latin1")]
)
def test_damaged_configurations_are_passed_over(tmp_path, damage):
    old = make_run(tmp_path, "old", age=30)
    config = make_run(tmp_path, "new", age=20) / "config.yaml"
    if damage is None:
        config.unlink()
    else:
        config.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    assert checkpoint.find("latest", tmp_path, "T", "madpo") == old / "nn" / "last.pth"


@pytest.mark.parametrize(
    ("task", "algo", "newest"),
    [(None, None, "b"), ("T", None, "c"), (None, "madpo", "b"), ("T", "madpo", "d")],
)
def test_without_task_or_algorithm_any_run_will_do(tmp_path, task, algo, newest):
    make_run(tmp_path, "b", age=5, task="U")
    make_run(tmp_path, "c", age=10, algo="happo")
    make_run(tmp_path, "d", age=15)
    found = checkpoint.find("latest", tmp_path, task, algo)
    assert found == tmp_path / newest / "nn" / "last.pth"


@pytest.mark.parametrize("name", ["latest", "best"])
def test_no_run_at_all(tmp_path, name):
    make_run(tmp_path, "other", age=1, task="U")
    with pytest.raises(UserError, match=f"checkpoint={name}: no run of T with madpo in"):
        checkpoint.find(name, tmp_path, "T", "madpo")
    with pytest.raises(UserError, match=f"checkpoint={name}: no run of T with madpo in"):
        checkpoint.find(name, tmp_path / "missing", "T", "madpo")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("run/nn/lst.pth", "run/nn/last.pth"),
        ("rn", "run"),
        ("rum/nn/last.pth", "run/nn/last.pth"),
        ("ruins", "run"),
        ("run/nothing/like/it", None),
        ("noter", None),  # a folder that is no run
    ],
)
def test_what_is_not_there_is_named_with_the_closest_match(tmp_path, name, meant):
    make_run(tmp_path, "run", age=1)
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match="does not exist") as error:
        checkpoint.find(f"{tmp_path}/{name}", tmp_path)
    hint = f" Did you mean '{tmp_path}/{meant}'?" if meant else ""
    assert str(error.value) == f"Checkpoint '{tmp_path}/{name}' does not exist.{hint}"


def test_folder_means_its_last_checkpoint_and_a_file_itself(tmp_path):
    run = make_run(tmp_path, "run", age=1)
    assert checkpoint.find(str(run), tmp_path, "T", "madpo") == run / "nn" / "last.pth"
    assert checkpoint.find(f"{run}/nn/best.pth", tmp_path, "T", "x") == run / "nn" / "best.pth"
