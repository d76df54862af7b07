"""MuJoCo's viewer: when it opens, what it shows, and that it changes no training."""

import contextlib
import re
import sys
import types

import numpy as np
import pytest
from test_runner import _keep_torch_settings, timeless  # noqa: F401
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.evaluation import window
from madpo_isaac.evaluation.agents import untrained

SMALL = (
    *("task=HalfCheetah-2x3", "num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "algo=happo"),
    *("num_threads=1", "max_iterations=2", "task.episode_length=10", *ONCE),
)


class Handle:
    """Stands in for MuJoCo's window: keeps what it was to show, and is closed after ``life``."""

    life = 10**9

    def __init__(self, model, data):
        self.data, self.poses, self.closed = data, [], False
        self.cam = types.SimpleNamespace(lookat=np.zeros(3), type=0, trackbodyid=-1)
        self.opt = types.SimpleNamespace(geomgroup=np.ones(6))
        self.model = model

    def lock(self):
        return contextlib.nullcontext()

    def is_running(self):
        return not self.closed and len(self.poses) < self.life

    def sync(self):
        self.poses.append(self.data.xpos.copy())

    def close(self):
        self.closed = True


@pytest.fixture
def windows(monkeypatch):
    """The windows that were opened, on a display that is not there."""
    opened = []

    def launch_passive(model, data, **options):
        opened.append(Handle(model, data))
        return opened[-1]

    viewer = types.SimpleNamespace(launch_passive=launch_passive)
    monkeypatch.setitem(sys.modules, "mujoco.viewer", viewer)
    monkeypatch.setattr(window, "check_display", lambda: None)
    return opened


@pytest.fixture
def headless(monkeypatch):
    if sys.platform != "linux":
        pytest.skip("other systems always have a display")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)


def test_the_viewer_follows_the_policy_until_it_is_closed(windows, monkeypatch):
    monkeypatch.setattr(Handle, "life", 5)
    monkeypatch.setattr(window, "RATE", float("inf"))
    env = tasks.make("ShadowHandOver", num_envs=2, seed=3, num_threads=1)
    env.step_dt = 1e-4
    window.watch(untrained("random", env, 1), env)
    (handle,) = windows
    assert len(handle.poses) == 5 and handle.closed
    other = tasks.make("ShadowHandOver", num_envs=2, seed=3, num_threads=1)
    act, state = untrained("random", other, 1), other.reset()
    egg = handle.model.body("object").id
    for pose in handle.poses:
        place = other.sim.qpos[0, 48:51].numpy()
        np.testing.assert_allclose(pose[egg], place, atol=1e-6)
        state = other.step(act(state)).state
    np.testing.assert_allclose(handle.cam.lookat, other.view.lookat)


def test_a_robot_is_followed(windows, monkeypatch):
    monkeypatch.setattr(Handle, "life", 1)
    env = tasks.make("HalfCheetah-2x3", num_envs=1, num_threads=1)
    window.watch(untrained("zero", env, 1), env)
    assert windows[0].cam.trackbodyid == windows[0].model.body("torso").id


def test_watching_leaves_training_as_it_is(windows, monkeypatch, tmp_path):
    monkeypatch.setattr(window, "RATE", float("inf"))
    begun = ["train", f"runs_dir={tmp_path}", *SMALL]
    assert main([*begun, "experiment=plain"]) == 0
    assert not windows
    assert main([*begun, "experiment=watched", "headless=False"]) == 0
    assert len(windows[0].poses) == 16 and windows[0].closed
    assert timeless(tmp_path / "watched") == timeless(tmp_path / "plain")
    # Where it was trained is no matter of the policy.
    assert main(["play", str(tmp_path / "watched")]) == 0
    assert len(windows) == 1


def test_training_goes_on_when_the_window_is_closed(windows, monkeypatch, tmp_path):
    monkeypatch.setattr(Handle, "life", 3)
    monkeypatch.setattr(window, "RATE", float("inf"))
    command = ["train", f"runs_dir={tmp_path}", *SMALL, "experiment=x", "headless=False"]
    assert main(command) == 0
    assert len(windows[0].poses) == 3
    assert len((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()) == 2


def test_pictures_are_at_most_so_many_a_second(windows, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(window.time, "monotonic", lambda: now[0])
    env = tasks.make("HalfCheetah-2x3", num_envs=1, num_threads=1)
    shown = window.Window(env)
    for now[0] in (100.0, 100.01, 100.0166, 100.02, 100.033, 100.04):
        shown.show()
    assert len(windows[0].poses) == 3  # at 100, 100.02 and 100.04


@pytest.mark.parametrize(
    "command",
    [
        ("train", *SMALL, "headless=False"),
        ("play", "HalfCheetah-2x3", "--viewer"),
        ("play", "HalfCheetah-2x3", "--viewer", "--agent=zero"),
        ("train", "checkpoint=best", "test=True", "headless=False"),
    ],
)
def test_without_a_display_one_line_says_so(headless, command, tmp_path, capsys, monkeypatch):
    built = []
    monkeypatch.setattr("madpo_isaac.tasks.make", lambda *args, **kwargs: built.append(args))
    if "checkpoint=best" in command:
        from madpo_isaac import pretrained

        command = (command[0], f"checkpoint={pretrained.find('HalfCheetah-2x3')}", *command[2:])
    assert main([*command, f"runs_dir={tmp_path}"]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: There is no display [^\n]+\n", captured.err)
    assert not built and not list(tmp_path.iterdir())


def test_a_viewer_that_does_not_open_is_one_line(windows, monkeypatch, capsys):
    def broken(model, data, **options):
        raise RuntimeError("could not initialize GLFW")

    monkeypatch.setattr(sys.modules["mujoco.viewer"], "launch_passive", broken)
    assert main(["play", "HalfCheetah-2x3", "--viewer", "num_threads=1"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: The viewer cannot be opened: could not initialize GLFW[^\n]*\n", error
    )
