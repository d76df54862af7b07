"""The package as a library: forks, copies, threads, what is written where, locks."""

import copy
import fcntl
import json
import os
import platform
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_runner import _keep_torch_settings  # noqa: F401
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.errors import RunFailed, UserError
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.system import spin
from madpo_isaac.system.lock import Lock
from madpo_isaac.training.run import Run

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    *("task=HalfCheetah-2x3", "algo=happo", "num_envs=2", "num_threads=1", "algo.horizon=4"),
    *("algo.hidden=[4]", *ONCE, "experiment=x"),
)


def env_of(**settings):
    return tasks.make("HalfCheetah-2x3", **{"num_envs": 4, "num_threads": 1, **settings})


def in_a_fork(use):
    """Returns the result of ``use`` in a forked child, or the exception it raises, as text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = str(use())
        except BaseException as problem:  # noqa: BLE001  to be told
            said = f"{type(problem).__name__}: {problem}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


def test_a_forked_child_is_told_instead_of_waiting_for_ever():
    env = env_of(num_threads=2)
    env.reset()
    action = torch.zeros(4, 6)
    for use in (lambda: env.step(action), env.reset, lambda: env.load_state_dict(env.state_dict())):
        assert in_a_fork(use).startswith("UserError: These environments were made in another")
    env.step(action)


def test_one_thread_needs_no_others_in_a_child():
    env, twin = env_of(seed=1), env_of(seed=1)
    env.reset(), twin.reset()
    action = torch.full((4, 6), 0.5)
    with torch.no_grad():
        said = in_a_fork(lambda: twin.step(action).state.sum().item())
    assert float(said) == env.step(action).state.sum().item()


@pytest.mark.parametrize("task", ["HalfCheetah-2x3", "ShadowHandOver"])
def test_copies_say_how_to_get_one(task):
    env = tasks.make(task, num_envs=1, num_threads=1)
    for take in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"make others with tasks.make"):
            take(env.sim)
    with pytest.raises(TypeError, match=r"load_state_dict\(env.state_dict\(\)\)"):
        copy.deepcopy(env)


def test_training_outside_the_main_thread(tmp_path):
    codes = []
    argv = [*TINY, "max_iterations=1", f"runs_dir={tmp_path}"]
    thread = threading.Thread(target=lambda: codes.append(main(argv)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert json.loads((tmp_path / "x" / "status.json").read_text())["state"] == "finished"


def test_a_world_that_goes_bad_writes_nothing_into_the_current_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for threads in (1, 2):
        env = env_of(num_threads=threads)
        env.reset()
        env.sim.qpos[1].fill_(float("nan"))
        assert env.step(torch.zeros(4, 6)).diverged.tolist() == [False, True, False, False]
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_numbers_of_numpy_are_numbers():
    env = env_of(num_envs=np.int64(3), seed=np.int32(7), agent_obsk=np.int64(1))
    twin = env_of(num_envs=3, seed=7, agent_obsk=1)
    assert torch.equal(env.reset(), twin.reset())
    assert [a.obs_dim for a in env.agents] == [a.obs_dim for a in twin.agents]
    split = [np.arange(3), (np.int64(3), 4, np.int8(5))]
    hands = tasks.make("ShadowHandOver", 1, agents=split, num_threads=1)
    assert [agent.role for agent in hands.agents[:2]] == ["palm_ff_mf", "rf_lf_th"]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"num_envs": 10**12}, "num_envs=1000000000000 must be at most 10000000"),
        ({"num_envs": np.float64(2.0)}, "num_envs=2.0 must be a whole number of at least 1"),
        ({"num_envs": True}, "num_envs=True must be a whole number"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be at most 9223372036854775807"),
        ({"seed": "a"}, "seed=a must be a whole number"),
        ({"num_threads": 5000}, "num_threads=5000 must be at most 1024"),
        ({"agent_obsk": "a"}, "task.agent_obsk=a must be a whole number of at least 0, or null"),
        ({"agent_obsk": True}, "task.agent_obsk=True must be"),
    ],
)
def test_numbers_that_cannot_be_are_one_line(settings, part):
    with pytest.raises(UserError, match=re.escape(part)):
        env_of(**settings)


# Locks ------------------------------------------------------------------------------------------


def test_a_lock_that_was_removed_ends_the_run_and_lets_nobody_in(tmp_path):
    folder = RunFolder(tmp_path)
    folder.acquire()
    folder.check_lock()
    (tmp_path / "lock").unlink()
    with pytest.raises(RunFailed, match="was removed, or the folder was moved"):
        folder.check_lock()
    alive = {"state": "running", "pid": os.getppid(), "host": platform.node()}
    (tmp_path / "status.json").write_text(json.dumps(alive))
    with pytest.raises(UserError, match=f"in use by another process .process {os.getppid()} on"):
        RunFolder(tmp_path).acquire()
    assert not (tmp_path / "lock").exists()
    for ended in ({"state": "finished"}, {"host": "elsewhere"}, {"pid": 2**22 + 1}, {"pid": "1"}):
        (tmp_path / "status.json").write_text(json.dumps({**alive, **ended}))
        other = RunFolder(tmp_path)
        other.acquire()
        with pytest.raises(RunFailed):
            folder.check_lock()
        other.release()
        (tmp_path / "lock").unlink()
    folder.release()


def test_a_folder_that_was_moved_is_found_without_proc(tmp_path, monkeypatch):
    """As on macOS, which tells the name of an open file in another way."""
    (tmp_path / "a").mkdir()
    lock = Lock(tmp_path / "a" / "lock")
    assert lock.acquire()
    (tmp_path / "a").rename(tmp_path / "b")
    assert lock.folder() == tmp_path / "b"
    answer = f"{tmp_path}/b/lock".encode() + bytes(9)
    monkeypatch.setattr(fcntl, "F_GETPATH", 50, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: answer)
    monkeypatch.delattr(os, "readlink")
    assert lock.folder() == tmp_path / "b"
    (tmp_path / "b" / "lock").unlink()
    assert lock.folder() is None
    lock.release()


def test_a_run_notices_that_its_lock_was_removed(tmp_path, monkeypatch, capsys):
    update = Run.update

    def remove(run):
        if run.iteration == 2:
            (tmp_path / "x" / "lock").unlink()
        return update(run)

    monkeypatch.setattr(Run, "update", remove)
    argv = [*TINY, "max_iterations=4", "save_frequency=1", f"runs_dir={tmp_path}"]
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: The lock of run folder '[^']*x' was removed, or [^\n]*\n", error)
    assert not (tmp_path / "x" / "nn" / "ep_3.pth").exists()


# OpenMP -----------------------------------------------------------------------------------------

FINDER = """
import importlib.abc, json, os, runpy, sys

class Finder(importlib.abc.MetaPathFinder):
    seen = None

    def find_spec(self, name, path=None, target=None):
        if name == "torch" and Finder.seen is None:
            names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
            Finder.seen = {key: os.environ.get(key) for key in names}
            raise SystemExit  # all else takes seconds

sys.meta_path.insert(0, Finder())
sys.argv = sys.argv[1:]
try:
    if sys.argv[0] == "-m":
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__")
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
sys.stdout.write(json.dumps(Finder.seen))
"""


@pytest.mark.parametrize("program", [["train.py"], ["-m", "madpo_isaac", "train"]])
def test_the_spin_is_bounded_before_torch_is_there(program):
    env = {key: x for key, x in os.environ.items() if key not in spin.VARIABLES}
    env["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-c", FINDER, *program, "num_envs=x"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"GOMP_SPINCOUNT": "10000", "OMP_WAIT_POLICY": None}


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}, {}])
def test_what_the_user_says_about_spinning_counts(monkeypatch, given):
    for name in spin.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    spin.bound()
    found = {name: os.environ[name] for name in spin.VARIABLES if name in os.environ}
    assert found == (given or {"GOMP_SPINCOUNT": "10000"})
