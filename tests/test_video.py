"""Videos: what they show, their format, and that nothing is drawn outside a clip."""

import contextlib
import errno
import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from test_runner import _keep_torch_settings, timeless  # noqa: F401
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation import render, video
from madpo_isaac.evaluation.video import Clip, Film, grid, tile_size
from madpo_isaac.runs.metrics import EpisodeTracker

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="session")
def opengl():
    """Skips where nothing can be drawn."""
    try:
        render.Painter(tasks.make("HalfCheetah-2x3", num_envs=1), 16, 16).close()
    except UserError as problem:
        pytest.skip(str(problem))


def decode(path):
    """All frames (T, height, width, 3), and what ffmpeg says about the file."""
    # Reading to the end with imageio_ffmpeg would leave its pipe open.
    with contextlib.closing(imageio_ffmpeg.read_frames(str(path))) as reader:
        about = next(reader)
    command = [FFMPEG, "-loglevel", "error", "-i", str(path)]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run(command, capture_output=True, check=True).stdout
    width, height = about["size"]
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3), about


def film(env, path, steps, count=1, act=None):
    clip, tracker = Clip(env, path, count, steps), EpisodeTracker(env.num_envs, env.device)
    state = env.reset()
    for _ in range(steps):
        action = state.new_zeros(env.num_envs, env.action_dim) if act is None else act(state)
        step = env.step(action)
        tracker.add(step)
        clip.add(step, tracker.returns)
        state = step.state
    assert clip.complete
    clip.close()


def masks(frames):
    """Places of the egg (orange), the goal (green) and the agents' colors."""
    red, green, blue = (frames[..., k].astype(float) for k in range(3))
    return {
        "egg": (red > 100) & (green < 0.8 * red) & (green > 0.5 * red) & (blue < 0.35 * red),
        "goal": (green > 80) & (green > 1.4 * red) & (green > 1.2 * blue),
        "first": (blue > 90) & (blue > 1.2 * green) & (green > 1.2 * red),
        "second": (red > 90) & (red > 1.2 * blue) & (blue > 1.2 * green),
    }


# What is shown ----------------------------------------------------------------------------------


def test_video_of_hands_shows_agents_goal_and_an_egg_that_moves(opengl, tmp_path):
    env = tasks.make("ShadowHandOver", num_envs=2, seed=3)
    path = tmp_path / "new" / "over.mp4"
    thrown = []

    def throw(state):
        if not thrown:  # toward the other hand and up
            env.sim.qvel[:, 49:51] = torch.tensor([-1.0, 1.5])
            thrown.append(True)
        return state.new_zeros(2, env.action_dim)

    film(env, path, 20, act=throw)
    frames, about = decode(path)
    assert frames.shape == (20, 480, 640, 3)
    assert (about["codec"], about["pix_fmt"].split("(")[0], about["fps"]) == ("h264", "yuv420p", 60)
    assert min(frame.mean() for frame in frames) > 40  # not black
    shown = masks(frames)
    for name, mask in shown.items():
        pixels = mask.sum(axis=(1, 2))
        assert (pixels > 200).all() and (pixels < 50_000).all(), (name, pixels)
    places = [np.argwhere(mask).mean(0) for mask in shown["egg"]]
    # The egg flies from the left to the right and rises first; the goal stays where it is.
    across = np.array([column for _, column in places])
    assert (np.diff(across) > 0).all() and across[-1] - across[0] > 60
    assert min(row for row, _ in places) < places[0][0] - 10
    goals = [np.argwhere(mask).mean(0) for mask in shown["goal"]]
    assert np.linalg.norm(goals[0] - goals[-1]) < 3
    # The index (moov) comes before the data (mdat): browsers start before all is there.
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    assert [entry.name for entry in path.parent.iterdir()] == ["over.mp4"]


@pytest.mark.parametrize("task", ["HalfCheetah-2x3", "Walker2d-2x3"])
def test_video_of_robots_is_a_grid_in_real_time(opengl, tmp_path, task):
    env = tasks.make(task, num_envs=3)
    # Walker2d's steps are of 8 ms: every third one makes 42 frames a second.
    every, fps = {"HalfCheetah-2x3": (1, 20.0), "Walker2d-2x3": (3, 41.67)}[task]
    film(env, tmp_path / "x.mp4", 6, count=3)
    frames, about = decode(tmp_path / "x.mp4")
    width, height = tile_size(3)
    assert frames.shape == (6 // every, 2 * height, 2 * width, 3)
    assert about["fps"] == pytest.approx(fps, abs=0.02)
    tiles = frames.reshape(-1, 2, height, 2, width, 3).swapaxes(2, 3)
    assert tiles[:, 1, 1].max() < 30  # there is no fourth environment
    for row, column in ((0, 0), (0, 1), (1, 0)):
        shown = masks(tiles[:, row, column])
        assert shown["first"].sum() > 100 and shown["second"].sum() > 100


def test_gif_is_as_long_as_what_it_shows(opengl, tmp_path):
    film(tasks.make("ShadowHandOver", num_envs=1), tmp_path / "x.gif", 9)
    with Image.open(tmp_path / "x.gif") as image:
        assert (image.n_frames, image.info["duration"], image.info["loop"]) == (3, 50, 0)
        for k in range(3):
            image.seek(k)
            shown = masks(np.asarray(image.convert("RGB")))
            assert all(mask.sum() > 200 for mask in shown.values())


@pytest.mark.parametrize("fps", [20.0, 1000.0 / 56.0, 12.3])
def test_gif_lasts_as_long_as_its_frames(tmp_path, fps):
    """Durations are stored in hundredths of a second: single ones are rounded, the sum is not."""
    count = 50
    writer = video.Gif(tmp_path / "x.gif", fps)
    for k in range(count):
        frame = np.zeros((8, 8, 3), dtype=np.uint8)
        frame[divmod(k, 8)] = 255
        writer.write(frame)
    assert writer.close()
    with Image.open(tmp_path / "x.gif") as image:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert len(times) == count
    assert sum(times) == pytest.approx(1000.0 * count / fps, abs=5.0)


def test_caption_tells_return_success_and_the_last_episode(opengl, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(video, "caption", lambda tile, lines, agents: said.append(lines) or tile)
    env = tasks.make("ShadowHandOver", num_envs=1, episode_length=3, success_distance=9.0)
    returns, tracked = [], EpisodeTracker(1, env.device)
    original = env.step

    def step(action):
        result = original(action)
        tracked.add(result)
        returns.append(result.reward.item())
        return result

    monkeypatch.setattr(env, "step", step)
    film(env, tmp_path / "x.mp4", 5)
    a, b, c, d, e = returns
    assert said == [
        [f"return {a:.1f}, success", ""],
        [f"return {a + b:.1f}, success", ""],
        ["return 0.0", f"last episode: {a + b + c:.1f}, success"],
        [f"return {d:.1f}, success", f"last episode: {a + b + c:.1f}, success"],
        [f"return {d + e:.1f}, success", f"last episode: {a + b + c:.1f}, success"],
    ]


def test_caption_of_a_task_without_success_does_not_name_it(opengl, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(video, "caption", lambda tile, lines, agents: said.extend(lines) or tile)
    film(tasks.make("HalfCheetah-2x3", num_envs=1, episode_length=2), tmp_path / "x.mp4", 3)
    assert any("last episode" in line for line in said)
    assert not any("success" in line for line in said)


@pytest.mark.parametrize("task", ["ShadowHandPushBlock", "ShadowHandBlockStack"])
def test_the_places_of_blocks_are_shown_and_change_no_physics(task):
    env = tasks.make(task, num_envs=1)
    model, physics = env.scene(visual=True).compile(), env.scene(visual=False).compile()
    for block, place in zip(("right_block", "left_block"), env.goals, strict=True):
        goal = model.geom(f"{block}_goal")
        np.testing.assert_allclose(goal.pos, place)
        np.testing.assert_allclose(goal.rgba[:3], model.geom(block).rgba[:3])
        assert goal.rgba[3] < 0.5 and not (goal.contype or goal.conaffinity)
    named = {physics.geom(k).name for k in range(physics.ngeom)}
    assert not [name for name in named if name.endswith("_goal")]
    assert (model.nq, model.nv, model.npair) == (physics.nq, physics.nv, physics.npair)


def test_grid_keeps_the_order():
    tiles = [np.full((2, 4, 3), k, np.uint8) for k in range(1, 6)]
    whole = grid(tiles)
    assert whole.shape == (4, 12, 3)
    assert whole[::2, ::4, 0].tolist() == [[1, 2, 3], [4, 5, 0]]


# Colors ----------------------------------------------------------------------------------------


def colors(task, **settings):
    env = tasks.make(task, num_envs=1, **settings)
    model = env.scene(visual=True).compile()
    before = model.geom_rgba.copy()
    render.color_agents(model, env.agents, env.action_joints())
    return model, before


def color_of(model, body):
    geom = model.body(body).geomadr[0]
    return tuple(model.geom_rgba[geom, :3].round(5))


def agents_color(p):
    return tuple(np.float32(render.agent_color(p)).round(5))


def test_a_hand_is_of_one_color_and_the_egg_keeps_its_own():
    model, before = colors("ShadowHandOver")
    for p in range(2):
        for body in ("forearm", "palm", "ffdistal", "thbase"):
            assert color_of(model, f"hand{p}_robot0:{body}") == agents_color(p)
    for name in ("object", "goal"):
        assert (model.geom(name).rgba == before[model.geom(name).id]).all()


def test_each_finger_has_its_agents_color():
    model, _ = colors("ShadowHandOver", agents="fingers")
    fingers = ("palm", "ffdistal", "mfdistal", "rfdistal", "lfdistal", "thdistal")
    found = [color_of(model, f"hand{h}_robot0:{body}") for h in range(2) for body in fingers]
    assert found == [agents_color(p) for p in range(12)]
    assert len(set(found)) == 12


def test_the_ants_torso_belongs_to_nobody():
    model, _ = colors("Ant-4x2")
    own = {color_of(model, model.body(b).id) for b in range(2, model.nbody)}
    assert own == {agents_color(p) for p in range(4)}
    assert color_of(model, "torso") not in own


# When -------------------------------------------------------------------------------------------


class Counter:
    """Stands in for the painter: counts who draws, and who holds a context."""

    made = drawn = closed = 0

    def __init__(self, env, width, height):
        del env
        type(self).made += 1
        self.shape = (height, width, 3)

    def draw(self, index):
        del index
        type(self).drawn += 1
        return np.zeros(self.shape, np.uint8)

    def close(self):
        type(self).closed += 1


class Frames:
    """Stands in for ffmpeg: the file holds the number of frames."""

    max_fps = 60.0

    def __init__(self, path, fps):
        self.path, self.count = path, 0

    def write(self, frame):
        self.count += 1

    def close(self):
        self.path.write_text(str(self.count))
        return True


@pytest.fixture
def counter(monkeypatch):
    monkeypatch.setitem(video.FORMATS, ".mp4", Frames)
    fresh = type("Fresh", (Counter,), {})
    monkeypatch.setattr(video, "Painter", fresh)
    return fresh


def test_nothing_is_drawn_outside_a_clip(counter, tmp_path):
    env = tasks.make("HalfCheetah-2x3", num_envs=2)
    reel = Film(env, lambda k: tmp_path / f"{k}.mp4", frequency=7, length=3, count=2, step=5)
    env.reset()
    seen = []
    for _ in range(13):  # steps 5 to 17: clips at 7 and, cut short, at 14 ... 16
        reel.add(env.step(torch.zeros(2, 6)), torch.zeros(2))
        seen.append((counter.made, counter.drawn, counter.closed))
    reel.close()
    two = [(0, 0, 0)] * 2
    first = [(1, 2, 0), (1, 4, 0), (1, 6, 1)]
    second = [(2, 8, 1), (2, 10, 1), (2, 12, 2)]
    assert seen == [*two, *first, *[(1, 6, 1)] * 4, *second, (2, 12, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["14.mp4", "7.mp4"]
    assert (tmp_path / "14.mp4").read_text() == "3"


SMALL = (
    *("task=HalfCheetah-2x3", "num_envs=4", "algo.horizon=8", "algo.hidden=[16]"),
    *("num_threads=1", "max_iterations=3", "task.episode_length=10"),
)


@pytest.mark.parametrize("algo", ["happo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_filming_leaves_training_as_it_is(counter, tmp_path, algo):
    learning = ONCE if algo == "happo" else ("algo.num_minibatches=4",)
    begun = [f"runs_dir={tmp_path}", f"algo={algo}", *SMALL, *learning]
    assert main(["train", *begun, "experiment=plain"]) == 0
    assert counter.made == 0
    filming = ["capture_video=True", "capture_video_freq=10", "capture_video_len=4"]
    assert main(["train", *begun, "experiment=filmed", *filming]) == 0
    assert timeless(tmp_path / "filmed") == timeless(tmp_path / "plain")
    clips = tmp_path / "filmed" / "videos"
    # Of 24 steps; the last clip ends with the run.
    frames = {path.name: path.read_text() for path in clips.iterdir()}
    assert frames == {f"step_{step}.mp4": "4" for step in (0, 10, 20)}
    assert (counter.made, counter.drawn, counter.closed) == (3, 12, 3)


def test_a_clip_that_a_killed_process_left_unfinished_is_removed(counter, tmp_path):
    run = [f"runs_dir={tmp_path}", "experiment=x", "algo=happo", *SMALL, *ONCE, "resume=auto"]
    assert main(["train", *run, "max_iterations=1"]) == 0
    clips = tmp_path / "x" / "videos"
    clips.mkdir()
    for name in (".step_3.partial.mp4", "step_0.mp4"):
        (clips / name).touch()
    assert main(["train", *run, "max_iterations=2", "capture_video=True"]) == 0
    assert {path.name for path in clips.iterdir()} == {"step_0.mp4"}


def test_play_films_into_the_run_or_where_it_is_told(opengl, tmp_path, capsys):
    assert main(["train", f"runs_dir={tmp_path}", "experiment=x", "algo=happo", *SMALL, *ONCE]) == 0
    run, clip = tmp_path / "x", ("capture_video=True", "capture_video_len=3")
    assert main(["train", f"checkpoint={run}", "test=True", *clip]) == 0
    frames, _ = decode(run / "videos" / "last.mp4")
    assert frames.shape == (3, 480, 640, 3)
    capsys.readouterr()
    out = tmp_path / "y.mp4"
    assert main(["play", str(run), "--video", str(out), "--steps=2", "--envs=2"]) == 0
    assert decode(out)[0].shape[0] == 2
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 and "y.mp4" in printed[0]  # no episodes that nobody asked for
    again = ["play", str(run), "--video", str(tmp_path / "12:30.mp4"), "--steps=2"]
    assert main([*again, "--episodes=1", "num_envs=3"]) == 0
    assert decode(tmp_path / "12:30.mp4")[0].shape[0] == 2
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and "episodes: 3" in printed[0] and "12:30.mp4" in printed[1]


FULL = """#!/bin/sh
for target; do :; done
head -c 48 > "${target#file:}"
echo "av_interleaved_write_frame(): No space left on device" >&2
exit 228
"""


def test_a_full_disk_leaves_the_mp4_that_was_there(tmp_path, monkeypatch):
    """An ffmpeg that writes 48 bytes and finds no room for more."""
    ffmpeg, path = tmp_path / "ffmpeg", tmp_path / "x.mp4"
    ffmpeg.write_text(FULL)
    ffmpeg.chmod(0o755)
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(ffmpeg))
    path.write_bytes(b"old")
    frame = np.zeros((480, 640, 3), np.uint8)
    writer = video.Mp4(path, 30.0)
    with pytest.raises(OSError, match="No space left on device"):
        for _ in range(5):
            writer.write(frame)
        writer.close()
    writer.close()
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ffmpeg", "x.mp4"]


def test_a_full_disk_leaves_the_gif_that_was_there(tmp_path, monkeypatch):
    def full(image, path, **options):
        Path(path).write_bytes(b"GIF89a")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video.Image.Image, "save", full)
    path = tmp_path / "x.gif"
    path.write_bytes(b"old")
    writer = video.Gif(path, 20.0)
    writer.write(np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(OSError, match="No space left"):
        writer.close()
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.gif"]


def test_a_clip_that_cannot_be_written_is_one_line(opengl, tmp_path, monkeypatch, capsys):
    def full(writer):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video.Gif, "close", full)
    out = ("--video", str(tmp_path / "x.gif"), "--steps=2")
    assert main(["play", "HalfCheetah-2x3", *out]) == 2
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: Cannot write '[^']*x.gif': .*No space left.*\n", captured.err)
    assert "wrote" not in captured.out


def test_a_place_that_takes_no_video_is_named_before_anything_is_played(tmp_path, capsys):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    for name, part in (("folder.mp4", "is a folder"), ("file/x.gif", "File exists")):
        path = tmp_path / name
        assert main(["play", "HalfCheetah-2x3", "num_envs=1", "--video", str(path)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert str(path) in captured.err
        assert part in captured.err and len(captured.err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]


FILMED = [f"capture_video{text}" for text in ("=True", "_freq=8", "_len=8", "_envs=4")]


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["play", "HalfCheetah-2x3", "--video", "x.avi"], ["'x.avi'", ".mp4 or .gif"]),
        (["play", "x", "--steps", "0"], ["--steps", "'0'"]),
        (["play", "x", "--steps", "5"], ["--steps 5 works with --video only"]),
        (["play", "x", "--html", "--envs", "2"], ["--envs 2 works with --video only"]),
        (["play", "x", "--vido", "y"], ["Did you mean '--video'?"]),
        (["train", *FILMED, "capture_video_len=9"], ["capture_video_len=9 must be at most", "=8"]),
        (["train", *FILMED, "num_envs=3"], ["capture_video_envs=4 exceeds num_envs=3"]),
    ],
)
def test_bad_input_is_one_line(capsys, argv, parts):
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert [part for part in parts if part not in error] == []


# The back end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("libraries", "chosen"), [(("EGL", "OSMesa"), "egl"), (("OSMesa",), "osmesa")]
)
def test_egl_comes_before_osmesa(monkeypatch, libraries, chosen):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render.sys, "platform", "linux")
    monkeypatch.setattr(render.sys, "modules", {})  # as before MuJoCo is imported
    monkeypatch.setattr(render.ctypes.util, "find_library", lambda n: n if n in libraries else None)
    render.choose_backend()
    assert render.os.environ["MUJOCO_GL"] == chosen


def test_a_missing_library_is_named_before_anything_is_built(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(render.sys, "platform", "linux")
    monkeypatch.setattr(render.ctypes.util, "find_library", lambda name: None)
    assert main(["train", f"runs_dir={tmp_path}", "capture_video=True"]) == 2
    error = capsys.readouterr().err
    assert "libegl1" in error and "libosmesa6" in error and len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_the_back_end_can_be_chosen_after_mujoco_was_imported(tmp_path, backend):
    """In a process of its own, where MuJoCo found no MUJOCO_GL when it was imported."""
    library = {"egl": "EGL", "osmesa": "OSMesa"}[backend]
    if render.ctypes.util.find_library(library) is None:
        pytest.skip(f"no {library} here")
    script = f"""
import ctypes.util, mujoco, tasks
from madpo_isaac.evaluation import render
ctypes.util.find_library = lambda name: name if name == {library!r} else None
painter = render.Painter(tasks.make("HalfCheetah-2x3", num_envs=1), 64, 48)
print(render.os.environ["MUJOCO_GL"], painter.draw(0).mean() > 40)
painter.close()
"""
    unset = ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    environ = {k: v for k, v in render.os.environ.items() if k not in unset}
    command = [render.sys.executable, "-c", script]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environ, cwd=root, timeout=200
    )
    assert done.stdout.split() == [backend, "True"], done.stderr
