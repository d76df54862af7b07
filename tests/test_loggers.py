"""Loggers beside metrics.jsonl: Weights & Biases, and TensorBoard's texts and hyper-parameters."""

import importlib.util
import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    metrics,
    timeless,
)
from tiny_run import ONCE

from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.video import Mp4, as_gif
from madpo_isaac.runs.metrics import TensorBoard
from madpo_isaac.training.watching import NewClips
from madpo_isaac.training.weights_and_biases import WeightsAndBiases

TINY = (
    *("task=HalfCheetah-2x3", "algo=happo", "num_envs=2", "num_threads=1", "algo.horizon=4"),
    *("algo.hidden=[8]", *ONCE, "task.episode_length=6", "stagger_episodes=False"),
)
WATCHED = (
    *("wandb_activate=True", "wandb_project=p", "wandb_group=g", "wandb_entity=e"),
    *("wandb_name=n", "wandb_tags=[a,b]"),
)


def train(runs, *overrides, total=2, code=0):
    run = f"runs_dir='{runs}'", "experiment=x", f"max_iterations={total}"
    assert main([*TINY, *run, *overrides]) == code
    return runs / "x"


class FakeWandb(SimpleNamespace):
    """Takes what the package takes, and keeps it."""

    def __init__(self):
        super().__init__(began=[], logged=[], finished=0, metrics=[], full=False)

    def init(self, **options):
        self.began.append(options)
        return self

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, values, step):
        if self.full:
            raise ConnectionError("no route to host")
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    def Settings(self, **settings):  # noqa: N802
        return settings

    def Video(self, path, format):  # noqa: N802
        return path, format


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr("madpo_isaac.training.runner.check_installed", lambda: None)
    return fake


def test_wandb_gets_what_metrics_jsonl_gets_and_training_stays_the_same(tmp_path, wandb):
    run = train(tmp_path / "watched", *WATCHED)
    (options,) = wandb.began
    settings = {"project": "p", "group": "g", "entity": "e", "name": "n", "tags": ["a", "b"]}
    assert options.items() >= settings.items()
    assert options["config"] == yaml.safe_load((run / "config.yaml").read_text())
    assert options["config"]["wandb_tags"] == ["a", "b"]
    assert wandb.metrics == [("env_steps", None), ("*", "env_steps")]
    known = [{k: v for k, v in line.items() if v is not None} for line in metrics(run)]
    assert wandb.logged == [(line["iteration"], line) for line in known]
    assert wandb.finished == 1
    assert timeless(run) == timeless(train(tmp_path / "alone"))


def test_a_continued_run_goes_on_in_the_same_place(tmp_path, wandb):
    run = train(tmp_path, "wandb_activate=True")
    assert main([f"checkpoint={run}", "max_iterations=3"]) == 0
    first, second = wandb.began
    assert first["id"] == second["id"] == (run / "wandb_id.txt").read_text().strip()
    assert (first["name"], first["group"], first["entity"]) == ("x", None, None)
    assert first["resume"] == "allow"
    assert [step for step, _ in wandb.logged] == [1, 2, 3]


def test_each_clip_is_sent_once(tmp_path, wandb):
    config = SimpleNamespace(capture_video=True)
    run = SimpleNamespace(config=config, iteration=1)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "step_old.mp4").touch()  # of before a break
    logger = WeightsAndBiases(tmp_path)
    logger._run, logger._video = wandb, wandb.Video
    logger.on_iteration(run, {"kl": None, "lr": 1.0})
    for name in ("step_0.mp4", ".step_8.partial.mp4"):
        (tmp_path / "videos" / name).touch()
    for _ in range(2):
        logger.on_iteration(run, {"lr": 1.0})
    clip = str(tmp_path / "videos" / "step_0.mp4"), "mp4"
    expected = [{"lr": 1.0}, {"lr": 1.0, "clips/step_0": clip}, {"lr": 1.0}]
    assert [values for _, values in wandb.logged] == expected


def test_a_server_that_is_gone_ends_nothing(tmp_path, wandb, capsys):
    wandb.full = True
    run = train(tmp_path, "wandb_activate=True")
    error = capsys.readouterr().err
    assert re.fullmatch(r"warning: no more Weights & Biases, [^\n]*no route to host\.\n", error)
    assert len(metrics(run)) == 2


def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name)
    )
    train(tmp_path, "wandb_activate=True", code=2)
    error = capsys.readouterr().err
    assert error == "error: wandb_activate=True needs the package wandb: pip install wandb.\n"
    assert not (tmp_path / "x").exists()


def test_tensorboard_has_the_configuration_and_the_hyper_parameters(tmp_path):
    run = train(tmp_path)
    events = EventAccumulator(str(run / "summaries"))
    events.Reload()
    (text,) = events.Tensors("config")
    written = text.tensor_proto.string_val[0].decode()
    lines = [line.removeprefix("    ") for line in written.splitlines()]
    assert "\n".join(lines) + "\n" == (run / "config.yaml").read_text()
    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert data.plugin_name == "hparams"
    start = plugin_data_pb2.HParamsPluginData.FromString(data.content).session_start_info
    found = {key: getattr(value, value.WhichOneof("kind")) for key, value in start.hparams.items()}
    assert (found["algo.name"], found["num_envs"], found["algo.hidden"]) == ("happo", 2.0, "[8]")
    assert start.group_name == "x"


def test_tensorboard_shows_clips_as_moving_pictures(tmp_path):
    clip = Mp4(tmp_path / "step_0.mp4", 20.0)
    for shade in range(20):
        clip.write(np.full((48, 64, 3), 12 * shade, np.uint8))
    clip.close()
    board = TensorBoard(tmp_path, 1)
    board.show("clips", 7, as_gif(tmp_path / "step_0.mp4", width=32, fps=10))
    board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (shown,) = events.Images("clips")
    assert (shown.step, shown.width, shown.height) == (7, 32, 24)
    with Image.open(io.BytesIO(shown.encoded_image_string)) as picture:
        assert (picture.format, picture.size) == ("GIF", (32, 24))
        assert picture.n_frames == pytest.approx(10, abs=1)


def test_new_clips_come_in_the_order_of_their_steps(tmp_path):
    clips = NewClips(tmp_path)
    for step in (1000, 200):
        (tmp_path / f"step_{step}.mp4").touch()
    assert [path.name for path in clips.take()] == ["step_200.mp4", "step_1000.mp4"]
    assert clips.take() == []


def test_tags_are_texts():
    assert compose(["task=HalfCheetah-2x3", "wandb_tags=[0,a]"]).wandb_tags == ["0", "a"]
    with pytest.raises(UserError, match=r"wandb_tags=\[\[1\]\] must be a list, each entry a text"):
        compose(["task=HalfCheetah-2x3", "wandb_tags=[[1]]"])
