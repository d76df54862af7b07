"""Nothing optional ends a run or costs its work: readers, terminals, clips, curves, records."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    assert_same,
    metrics,
    timeless,
    weights,
)
from tiny_run import ONCE

from madpo_isaac.commands.train import main
from madpo_isaac.evaluation import video
from madpo_isaac.evaluation.player import play_episodes
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs import metrics as numbers
from madpo_isaac.system.signals import StopRequest
from madpo_isaac.training import watching
from madpo_isaac.training.run import Run
from madpo_isaac.training.watching import Filming

TINY = (
    *("task=HalfCheetah-2x3", "algo=happo", "num_envs=2", "num_threads=1", "algo.horizon=4"),
    *("algo.hidden=[8]", *ONCE, "task.episode_length=6", "stagger_episodes=False"),
    "save_frequency=1",
)
FILMED = ("capture_video=True", "capture_video_freq=8", "capture_video_len=4")
EVALUATED = ("eval_frequency=2", "eval_envs=2")


def train(runs, *overrides, name="x", total=4, code=0):
    run = f"runs_dir='{runs}'", f"experiment={name}", f"max_iterations={total}"
    assert main([*TINY, *run, *overrides]) == code
    return runs / name


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The run that nothing happened to, and four more iterations of it."""
    return train(tmp_path_factory.mktemp("plain"), total=8)


def assert_goes_on_as(run, plain):
    """A run has so far what the other has, and goes on as the other does."""
    assert main([f"checkpoint={run}", "max_iterations=8", "capture_video=False"]) == 0
    assert timeless(run) == timeless(plain)
    ours, theirs = weights(run), weights(plain)
    for own in ("wall_s", "config"):
        assert ours.pop(own) and theirs.pop(own)
    assert_same(ours, theirs)


def status(run):
    return json.loads((run / "status.json").read_text())


def warnings_of(capsys):
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert all(line.startswith("warning: ") for line in lines), captured.err
    return lines, captured.out


# Readers and terminals --------------------------------------------------------------------------


def test_a_reader_that_goes_away_ends_nothing(tmp_path, plain, monkeypatch, capfd):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        run = train(tmp_path)
    monkeypatch.undo()
    assert status(run)["state"] == "finished"
    assert capfd.readouterr().err == ""
    assert_goes_on_as(run, plain)


def test_a_full_disk_below_stdout_is_not_the_run_folders_fault(tmp_path, plain, monkeypatch, capfd):
    with open("/dev/full", "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        run = train(tmp_path)
    monkeypatch.undo()
    error = capfd.readouterr().err
    assert re.fullmatch(
        r"warning: nothing more is printed, because stdout [^\n]*No space left[^\n]*\n", error
    )
    assert_goes_on_as(run, plain)


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_closed_terminal_and_a_dead_tee_save_first(tmp_path, plain, zygote, number):
    """The signal comes when nobody reads any more, as with Ctrl-C behind ``| tee log``."""
    pipe, errors = tmp_path / "pipe", tmp_path / "errors"
    os.mkfifo(pipe)
    errors.touch()
    settings = *TINY, f"runs_dir={tmp_path}", "experiment=x", "max_iterations=100000"
    process = zygote.start(*settings, out=pipe, err=errors)
    with pipe.open() as printed:
        for _ in range(5):
            assert printed.readline()
    os.kill(process, number)
    assert zygote.wait(process)[0] == 128 + number
    assert errors.read_text() == ""
    run, total = tmp_path / "x", len(metrics(tmp_path / "x"))
    state = "interrupted" if number == signal.SIGINT else "preempted"
    assert (status(run)["state"], status(run)["signal"]) == (state, number.name)
    assert weights(run)["iteration"] == total
    assert timeless(run)[:8] == timeless(plain)[:total]


def test_nohup_goes_on_ignoring_the_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest().listening():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# By-products ------------------------------------------------------------------------------------


@pytest.fixture
def black(monkeypatch):
    """A painter that needs no OpenGL."""

    class Black:
        def __init__(self, env, width, height):
            self.shape = height, width, 3

        def draw(self, index):
            return np.zeros(self.shape, np.uint8)

        def close(self):
            pass

    monkeypatch.setattr(video, "Painter", Black)
    monkeypatch.setattr("madpo_isaac.training.runner.choose_backend", lambda: None)


def ffmpeg_that(does, folder):
    path = folder / "ffmpeg"
    if does != "is missing":
        path.write_text("#!/bin/sh\nhead -c 9 > /dev/null\nkill -9 $$\n")
        path.chmod(0o644 if does == "cannot be run" else 0o755)
    return str(path)


@pytest.mark.parametrize("fate", ["is killed", "is missing", "cannot be run"])
def test_training_goes_on_without_ffmpeg(tmp_path, plain, monkeypatch, capsys, black, fate):
    ffmpeg = ffmpeg_that(fate, tmp_path)
    monkeypatch.setattr(video.imageio_ffmpeg, "get_ffmpeg_exe", lambda: ffmpeg)
    run = train(tmp_path, *FILMED)
    (line,), out = warnings_of(capsys)
    assert re.match(r"warning: no more clips, .*videos/step_0\.mp4': ffmpeg", line), line
    assert "wrote" not in out
    assert list((run / "videos").iterdir()) == []
    assert_goes_on_as(run, plain)


def test_a_place_that_takes_no_clip_is_named_once(tmp_path, plain, monkeypatch, capsys, black):
    start = Filming.on_start

    def block(self, run):
        (tmp_path / "x" / "videos").touch()
        start(self, run)

    monkeypatch.setattr(Filming, "on_start", block)
    run = train(tmp_path, *FILMED)
    (line,), _ = warnings_of(capsys)
    assert "no more clips" in line and "videos" in line
    assert_goes_on_as(run, plain)


def test_ffmpeg_does_not_get_the_signals_of_the_run(tmp_path):
    writer = video.Mp4(tmp_path / "x.mp4", 30.0)
    writer.write(np.zeros((48, 64, 3), np.uint8))
    assert os.getsid(writer._ffmpeg.pid) == writer._ffmpeg.pid != os.getsid(0)
    assert writer.close()


def test_a_folder_with_a_colon_is_filmed_into(tmp_path, black, capsys):
    run = train(tmp_path / "12:30", *FILMED)
    clips = sorted((run / "videos").iterdir())
    assert [clip.name for clip in clips] == ["step_0.mp4", "step_8.mp4"]
    assert imageio_ffmpeg.count_frames_and_secs(str(clips[0]))[0] > 0
    assert capsys.readouterr().out.count("wrote ") == 2


def test_records_that_cannot_be_written_are_given_up_one_by_one(
    tmp_path, plain, monkeypatch, capsys
):
    (tmp_path / "x").mkdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    start = watching.Evaluation.on_start

    def block(self, run):
        (tmp_path / "x" / "eval").touch()
        start(self, run)

    monkeypatch.setattr(watching.Evaluation, "on_start", block)
    monkeypatch.setattr(numbers.TensorBoard, "write", full)
    mark = numbers.MetricsFile.__init__

    def take_status(self, path):
        (path.parent / "status.json").unlink()
        (path.parent / "status.json").mkdir()
        mark(self, path)

    monkeypatch.setattr(numbers.MetricsFile, "__init__", take_status)
    run = train(tmp_path, *EVALUATED)
    lines, _ = warnings_of(capsys)
    for part in ("no more TensorBoard curves", "eval/training.json", "status.json"):
        assert len([line for line in lines if part in line]) == 1, lines
    assert len(lines) == 3
    monkeypatch.undo()
    found = [{k: v for k, v in line.items() if not k.startswith("eval/")} for line in timeless(run)]
    assert found == timeless(plain)[:4]


def test_a_folder_that_is_moved_says_that_its_run_has_ended(tmp_path, monkeypatch, capsys):
    update = Run.update

    def move(self):
        if self.iteration == 2:
            (tmp_path / "x").rename(tmp_path / "y")
        return update(self)

    monkeypatch.setattr(Run, "update", move)
    train(tmp_path, *EVALUATED, total=6, code=1)
    error = capsys.readouterr().err
    assert "Traceback" not in error and "was moved" in error
    assert status(tmp_path / "y")["state"] == "failed"
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


def test_a_folder_that_is_moved_while_a_file_is_written_has_the_same_end(
    tmp_path, monkeypatch, capsys
):
    written = checkpoint.write

    def move(paths, data):
        (tmp_path / "x").rename(tmp_path / "y")
        written(paths, data)

    monkeypatch.setattr(checkpoint, "write", move)
    train(tmp_path, *EVALUATED, total=6, code=1)
    assert "was moved" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["y"]


# The best policy, clocks and clips --------------------------------------------------------------


@pytest.mark.parametrize("algo", ["happo", "ppo"])
def test_the_best_policy_is_the_one_that_was_scored(tmp_path, algo):
    settings = f"algo={algo}", *(["algo.num_minibatches=2"] if algo == "ppo" else ONCE)
    shared = [setting for setting in TINY if setting not in ONCE and "algo=" not in setting]
    begun = [*shared, *settings, f"runs_dir={tmp_path}", "experiment=x", "max_iterations=5"]
    assert main(begun) == 0
    returns = {line["iteration"]: line["episode_return"] for line in metrics(tmp_path / "x")}
    k = max((i for i in returns if returns[i] is not None), key=returns.__getitem__)
    best = weights(tmp_path / "x", "best")
    assert (best["iteration"], best["best_return"]) == (k - 1, returns[k])
    before = weights(tmp_path / "x", f"ep_{k - 1}")
    for name in ("wall_s", "best_return"):  # the score was not known then
        assert best.pop(name) != before.pop(name)
    assert_same(best, before)
    last = weights(tmp_path / "x")
    assert main([f"checkpoint={tmp_path}/x/nn/ep_2.pth", "max_iterations=5"]) == 0
    assert weights(tmp_path / "x")["best_return"] == last["best_return"] == returns[k]


def test_evaluations_choose_the_best_policy_where_there_are_any(tmp_path):
    run = train(tmp_path, *EVALUATED, total=6)
    scores = {line["iteration"]: line.get("eval/return") for line in metrics(run)}
    k = max((i for i in scores if scores[i] is not None), key=scores.__getitem__)
    best, whole = weights(run, "best"), weights(run, f"ep_{k}")
    assert best["best_return"] == scores[k] == weights(run)["best_return"]
    assert best.pop("wall_s") != whole.pop("wall_s")
    assert_same(best, whole)
    # Scores of another kind are not compared with these.
    assert main([f"checkpoint={run}", "max_iterations=8", "eval_frequency=0"]) == 0
    returns = [line["episode_return"] for line in metrics(run)[6:]]
    assert weights(run)["best_return"] == max(x for x in returns if x is not None)


def test_the_clock_counts_evaluations_and_earlier_processes(tmp_path, monkeypatch):
    def slow(*arguments):
        time.sleep(0.2)
        return play_episodes(*arguments)

    monkeypatch.setattr("madpo_isaac.evaluation.evaluate.play_episodes", slow)
    run = train(tmp_path, *EVALUATED)
    assert main([f"checkpoint={run}", "max_iterations=6"]) == 0
    walls = [line["wall_s"] for line in metrics(run)]
    assert all(walls[k] - walls[k - 1] >= 0.2 for k in (1, 3, 5))
    assert walls == sorted(walls)


def test_clips_are_numbered_by_the_steps_of_every_environment(tmp_path, monkeypatch):
    """However many processes there are, and whatever the length of their iterations was."""
    config = SimpleNamespace(
        num_envs=4, capture_video_freq=9, capture_video_len=1, capture_video_envs=1
    )
    env = SimpleNamespace(num_envs=4)
    starts = []
    monkeypatch.setattr(watching, "Film", lambda *_, step, **__: starts.append(step))
    run = SimpleNamespace(config=config, env=env, env_steps=192, ranks=SimpleNamespace(count=2))
    run.steps = Run.steps.fget(run)
    Filming(tmp_path).on_start(run)
    assert starts == [24]


def test_a_sweep_into_a_used_folder_is_refused_before_anything_starts(tmp_path, capsys):
    train(tmp_path, name="run_2", total=1)
    capsys.readouterr()
    sweep = ["-m", "seed=1,2", "experiment=run_${seed}", f"runs_dir={tmp_path}"]
    assert main([*TINY, "max_iterations=1", *sweep]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: '[^\n]*run_2' already holds a run\.[^\n]*\n", error)
    assert [path.name for path in tmp_path.iterdir()] == ["run_2"]
    assert main([*TINY, "-m", "seed=1,2", "experiment=same", f"runs_dir={tmp_path}"]) == 2
    assert "2 runs of the sweep would be in" in capsys.readouterr().err


def test_a_run_without_standard_streams_keeps_its_files_clean(tmp_path):
    """The files that it opens would take the numbers of the streams, and get what it prints."""
    run = (sys.executable, "train.py", *TINY, f"runs_dir={tmp_path}", "experiment=x")
    command = f"exec {shlex.join(run)} max_iterations=2 <&- >&- 2>&-"
    done = subprocess.run(["bash", "-c", command], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == 0
    assert (tmp_path / "x" / "lock").read_bytes() == b""
    assert len((tmp_path / "x" / "metrics.jsonl").read_text().splitlines()) == 2
