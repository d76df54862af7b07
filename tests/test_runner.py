"""Training through the command line: output, reproducibility, resuming, interruption, playing."""

import contextlib
import itertools
import json
import math
import os
import pty
import re
import select
import shutil
import signal
import time

import pytest
import torch
from omegaconf import OmegaConf

from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.system.signals import STOPS
from madpo_isaac.training.recording import Recorder

PATIENCE = 250
"""Seconds to wait for a process, which needs one on an idle machine."""
SMALL = (
    "num_envs=4",
    "algo.horizon=8",
    "algo.hidden=[16]",
    "algo.epochs=2",
    "algo.critic_epochs=2",
    "algo.num_minibatches=2",
    "num_threads=1",
    "task.episode_length=12",
    "stagger_episodes=False",
)
AGENT_KEYS = (
    "loss",
    "entropy",
    "kl",
    "clip_fraction",
    "grad_norm",
    "preceding_ratio",
    "divergence_intra",
    "divergence_inter",
)
RUN_KEYS = (
    "iteration",
    "env_steps",
    "wall_s",
    "fps_step",
    "fps_step_infer",
    "fps_total",
    "episode_return",
    "episode_length",
    "episodes",
    "success_rate",
    "nan_resets",
)


@pytest.fixture(autouse=True)
def _keep_torch_settings():
    precision, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    yield
    torch.set_float32_matmul_precision(precision)
    torch.set_num_threads(threads)


def train(runs, *overrides, code=0):
    """Runs train.py in this process; the last value of a key wins."""
    assert main([*SMALL, f"runs_dir={runs}", *overrides]) == code


def metrics(run):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def timeless(run):
    """The metrics of a run without what a clock measured."""
    clock = re.compile(r"(wall_s|iteration_s|fps_.*|time_.*)$")
    return [{k: v for k, v in line.items() if not clock.match(k)} for line in metrics(run)]


def weights(run, name="last"):
    return torch.load(run / "nn" / f"{name}.pth", weights_only=True)


def assert_same(a, b, path=""):
    """Compares nested containers of tensors bit by bit."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    else:
        assert a == b, path


def assert_repeated(run, lines, wholes):
    """A continued run has the metrics and the checkpoints (by name) that it had before."""
    assert timeless(run) == lines
    for name, whole in wholes.items():
        again = weights(run, name)
        for own in ("wall_s", "config"):
            assert again.pop(own) and whole.pop(own)
        assert_same(again, whole)


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished run of four iterations of each algorithm, in folders of that name."""
    folder = tmp_path_factory.mktemp("runs")
    for algo in ("happo", "madpo"):
        settings = f"algo={algo}", f"experiment={algo}", "max_iterations=4", "save_frequency=2"
        train(folder, *settings)
    return folder


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two runs of two iterations, ``old`` and ``new``, which end in this order."""
    folder = tmp_path_factory.mktemp("halves")
    for name in ("old", "new"):
        train(folder, f"experiment={name}", "max_iterations=2", "save_frequency=1")
        time.sleep(0.02)
    return folder


# What a run leaves behind -----------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["happo", "madpo"])
def test_run_folder_holds_what_is_promised(runs, algo):
    run = runs / algo
    names = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
    events = {name for name in names if name.startswith("summaries/events.out.tfevents")}
    assert len(events) == 1
    assert names - events == {
        "config.yaml",
        "overrides.txt",
        "env.json",
        "metrics.jsonl",
        "status.json",
        "lock",
        "nn/last.pth",
        "nn/best.pth",
        "nn/ep_2.pth",
        "nn/ep_4.pth",
    }


@pytest.mark.parametrize("algo", ["happo", "madpo"])
def test_metrics_have_every_key_and_sane_values(runs, algo):
    lines = metrics(runs / algo)
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert [line["env_steps"] for line in lines] == [32, 64, 96, 128]
    wanted = {*RUN_KEYS, *(f"agent{p}/{key}" for p in (0, 1) for key in AGENT_KEYS)}
    for line in lines:
        assert wanted <= line.keys()
        assert all(line[key] > 0 for key in ("wall_s", "fps_step", "fps_step_infer", "fps_total"))
        assert line["fps_step"] > line["fps_step_infer"] > line["fps_total"]
        for p in (0, 1):
            divergences = [line[f"agent{p}/divergence_{term}"] for term in ("intra", "inter")]
            assert all((d is None) == (algo == "happo") for d in divergences)
    assert all(a["wall_s"] < b["wall_s"] for a, b in itertools.pairwise(lines))


def test_episode_statistics_count_whole_episodes(runs):
    # 12 steps an episode and 8 an iteration: all four end in iterations 2, 3 (steps 12, 24), none
    # in 1 or 4, unless an egg is dropped, which 12 steps of 1/60 s are too short for.
    lines = metrics(runs / "madpo")
    assert [line["episodes"] for line in lines] == [0, 4, 4, 0]
    for line in lines:
        finished = line["episodes"] > 0
        for key in ("episode_return", "episode_length", "success_rate"):
            assert (line[key] is not None) == finished
        if finished:
            assert line["episode_length"] == 12
            assert 0 < line["episode_return"] < 12
    best = max(line["episode_return"] or -math.inf for line in lines)
    assert weights(runs / "madpo", "best")["best_return"] == best


def test_tensorboard_uses_the_documented_tags(runs):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(runs / "madpo" / "summaries")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"rewards/step", "rewards/iter", "rewards/time", "episode_lengths/step"} <= tags
    assert {"losses/a_loss", "losses/c_loss", "info/last_lr", "info/e_clip"} <= tags
    assert {"performance/step_fps", "performance/step_inference_fps", "agent0/kl"} <= tags
    lines = metrics(runs / "madpo")
    assert [event.step for event in events.Scalars("agent0/kl")] == [32, 64, 96, 128]
    kl = [event.value for event in events.Scalars("agent0/kl")]
    assert kl == pytest.approx([line["agent0/kl"] for line in lines])


def test_recorded_configuration_reproduces_the_run(runs, tmp_path):
    recorded = OmegaConf.load(runs / "madpo" / "config.yaml")
    overrides = (runs / "madpo" / "overrides.txt").read_text().splitlines()
    assert recorded == OmegaConf.to_container(OmegaConf.structured(compose(overrides)))
    again = f"--config-path={runs / 'madpo'}", "--config-name=config", f"runs_dir={tmp_path}"
    assert main(again) == 0
    assert timeless(tmp_path / "madpo") == timeless(runs / "madpo")


# Reproducibility --------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["happo", "madpo"])
def test_same_seed_repeats_bit_by_bit_and_another_does_not(runs, tmp_path, algo):
    for seed, total in ((1, 4), (2, 1)):
        settings = f"experiment=s{seed}", f"seed={seed}", f"max_iterations={total}"
        train(tmp_path, f"algo={algo}", *settings, "save_frequency=2")
    first, again, other = runs / algo, tmp_path / "s1", tmp_path / "s2"
    assert timeless(first) == timeless(again)
    assert_same(weights(first)["algo_state"], weights(again)["algo_state"])
    assert timeless(first)[0].keys() == timeless(other)[0].keys()
    assert timeless(first)[0]["loss"] != timeless(other)[0]["loss"]


def test_seed_minus_one_draws_a_seed_and_records_it(tmp_path):
    for _ in range(2):
        train(tmp_path, "seed=-1", "max_iterations=1")
    drawn = [OmegaConf.load(path).seed for path in tmp_path.glob("*/config.yaml")]
    assert len(set(drawn)) == 2
    assert min(drawn) >= 0


def test_twelve_agents_train(tmp_path):
    train(tmp_path, "task.agents=fingers", "max_iterations=2", "experiment=x")
    line = metrics(tmp_path / "x")[-1]
    assert all(f"agent{p}/{key}" in line for p in range(12) for key in AGENT_KEYS)
    assert "agent12/loss" not in line


def test_an_own_split_of_the_hands_trains(tmp_path):
    train(tmp_path, "task.agents=[[0,1,2],[3,4,5]]", "max_iterations=1", "experiment=x")
    assert "agent3/loss" in metrics(tmp_path / "x")[0]


# Resuming ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("algo", ["happo", pytest.param("madpo", marks=pytest.mark.slow)])
def test_two_and_two_iterations_equal_four(runs, tmp_path, algo):
    settings = f"algo={algo}", "save_frequency=2"
    train(tmp_path, *settings, "experiment=x", "max_iterations=2")
    train(tmp_path, *settings, f"checkpoint={tmp_path / 'x'}", "max_iterations=4")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert timeless(tmp_path / "x") == timeless(runs / algo)
    for name in ("last", "best", "ep_2", "ep_4"):
        ours, theirs = weights(tmp_path / "x", name), weights(runs / algo, name)
        for clock in ("wall_s", "config"):
            del ours[clock], theirs[clock]
        assert_same(ours, theirs)
    walls = [line["wall_s"] for line in metrics(tmp_path / "x")]
    assert walls == sorted(walls)


@pytest.mark.parametrize("algo", ["happo", pytest.param("madpo", marks=pytest.mark.slow)])
def test_resuming_from_an_earlier_checkpoint_forgets_what_followed(runs, tmp_path, algo):
    settings = f"algo={algo}", "save_frequency=2"
    train(tmp_path, *settings, "experiment=x", "max_iterations=3")
    assert len(metrics(tmp_path / "x")) == 3
    with (tmp_path / "x" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "env')  # as a crash leaves it
    train(tmp_path, *settings, f"checkpoint={tmp_path}/x/nn/ep_2.pth", "max_iterations=4")
    assert timeless(tmp_path / "x") == timeless(runs / algo)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("ShadowHandOver task.agents=fingers", marks=pytest.mark.slow),
        "HalfCheetah-2x3",
        "ShadowHandOver task.agents=fingers algo=mappo algo.input_norm=both",
        "HalfCheetah-2x3 algo=ippo algo.input_norm=both",
        "HalfCheetah-2x3 algo=ippo algo.share_parameters=False algo.reward_scale=0.1",
    ],
)
def test_everything_that_has_a_state_is_resumed(tmp_path, task):
    settings = (
        *f"task={task}".split(),
        "algo.lr_schedule=linear",
        "algo.num_minibatches=3",
        "max_iterations=5",
        "save_frequency=1",
    )
    train(tmp_path, *settings, "experiment=x")
    whole, lines = weights(tmp_path / "x"), timeless(tmp_path / "x")
    train(tmp_path, *settings, f"checkpoint={tmp_path}/x/nn/ep_3.pth")
    again = weights(tmp_path / "x")
    assert timeless(tmp_path / "x") == lines
    for own in ("wall_s", "config"):
        assert again.pop(own) != whole.pop(own)
    assert_same(again, whole)


@pytest.mark.parametrize("name", ["latest", "best", "run folder", "file"])
def test_checkpoint_names(runs, halves, tmp_path, name):
    shutil.copytree(halves, tmp_path, dirs_exist_ok=True)
    given = {"run folder": f"{tmp_path}/new", "file": f"{tmp_path}/new/nn/last.pth"}.get(name, name)
    train(tmp_path, f"checkpoint={given}", "max_iterations=4")
    assert timeless(tmp_path / "new") == timeless(runs / "madpo")
    assert len(metrics(tmp_path / "old")) == 2


def test_resuming_under_a_new_name_leaves_the_old_run_alone(runs, halves, tmp_path):
    shutil.copytree(halves / "old", tmp_path / "old")
    before = files(tmp_path / "old")
    train(tmp_path, "checkpoint=latest", "experiment=new", "max_iterations=4")
    assert files(tmp_path / "old") == before
    assert timeless(tmp_path / "new") == timeless(runs / "madpo")[2:]


REFUSED = {
    "other number of environments": ("num_envs=5", r"num_envs=4"),
    "other networks": ("algo.hidden=[17]", r"algo\.hidden"),
    "other agents": ("task.agents=fingers", r"task\.agents"),
    "other algorithm": ("algo=happo", r"algo=madpo"),
    "nothing left to do": ("max_iterations=1", r"max_iterations=1"),
}


@pytest.mark.parametrize(
    "case",
    list(REFUSED),
)
def test_refused_resume_changes_nothing(halves, capsys, case):
    override, message = REFUSED[case]
    before = files(halves)
    capsys.readouterr()
    checkpoint = f"checkpoint={halves}/new/nn/ep_1.pth"
    train(halves, checkpoint, "max_iterations=4", override, code=2)
    error = capsys.readouterr().err
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", error)
    assert files(halves) == before


# Interruption -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGTERM, signal.SIGUSR1)),
    ],
)
def test_signal_saves_and_the_run_can_be_continued(runs, tmp_path, zygote, number):
    begun = f"runs_dir={tmp_path}", "experiment=x", "max_iterations=100000", "save_frequency=0"
    process = zygote.start(*SMALL, *begun)
    path = tmp_path / "x" / "metrics.jsonl"
    deadline = time.monotonic() + PATIENCE
    while not (path.exists() and path.read_text().count("\n") >= 5):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process, number)
    code, out = zygote.wait(process)
    assert code == 128 + number and "error" not in out and "Traceback" not in out
    state = "interrupted" if number == signal.SIGINT else "preempted"
    assert out.splitlines()[-1] == f"{state}: saved {tmp_path / 'x' / 'nn' / 'last.pth'}"
    status = json.loads((tmp_path / "x" / "status.json").read_text())
    assert (status["state"], status["signal"]) == (state, number.name)
    done = len(metrics(tmp_path / "x"))
    assert weights(tmp_path / "x")["iteration"] == done
    total = f"max_iterations={done + 1}"
    train(tmp_path, "checkpoint=latest", "save_frequency=0", total)
    train(tmp_path, "experiment=straight", "save_frequency=0", total)
    assert timeless(tmp_path / "x") == timeless(tmp_path / "straight")
    assert timeless(tmp_path / "x")[:4] == timeless(runs / "madpo")


def test_second_signal_stops_at_once(tmp_path, capsys, monkeypatch):
    record = Recorder.on_iteration

    def interrupt_twice(self, run, line):
        record(self, run, line)
        if line["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    before = [signal.getsignal(number) for number in STOPS]
    monkeypatch.setattr(Recorder, "on_iteration", interrupt_twice)
    train(tmp_path, "experiment=x", "max_iterations=9", code=130)
    assert capsys.readouterr().err == "error: interrupted\n"
    assert [signal.getsignal(number) for number in STOPS] == before
    assert weights(tmp_path / "x")["iteration"] == 1
    assert len(metrics(tmp_path / "x")) == 2


# Playing ----------------------------------------------------------------------------------------


def test_play_scores_every_environment_and_writes_nothing(runs, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = files(runs)
    capsys.readouterr()
    for _ in range(2):
        train(runs, "test=True", "checkpoint=best", "num_envs=3", "test_episodes=2")
    assert files(runs) == before
    assert not list(tmp_path.iterdir())
    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == lines[7:]
    rewards = [float(re.fullmatch(r"reward: (\S+) steps: 12", line)[1]) for line in lines[:6]]
    form = r"av reward: (\S+) av steps: 12\.0 success: (\S+) episodes: 6"
    assert float(re.fullmatch(form, lines[6])[1]) == pytest.approx(sum(rewards) / 6, abs=1e-3)


@pytest.mark.parametrize("algo", ["mappo", "ippo"])
def test_a_shared_network_plays_normalized_observations(tmp_path, capsys, algo):
    settings = f"algo={algo}", "task.agents=fingers", "algo.input_norm=both"
    train(tmp_path, *settings, "max_iterations=1", "experiment=x")
    capsys.readouterr()
    train(tmp_path, *settings, "test=True", f"checkpoint={tmp_path}/x")
    assert capsys.readouterr().out.count("reward:") == 4 + 1


# Console ----------------------------------------------------------------------------------------


def test_file_gets_plain_lines(tmp_path, zygote):
    code, out = zygote.run(*SMALL, f"runs_dir={tmp_path}", "max_iterations=3")
    assert code == 0
    assert "\x1b" not in out and "\r" not in out
    lines = out.splitlines()
    assert lines[0].startswith("ShadowHandOver with madpo: 4 environments on cpu (1 thread)")
    assert [re.search(r"iteration: (\S+)", line)[1] for line in lines[3:]] == ["1/3", "2/3", "3/3"]
    assert all(re.search(r" fps: \d+ ETA: ", line) for line in lines[3:])


def test_terminal_gets_a_live_view_and_a_closing_block(tmp_path, zygote):
    master, slave = pty.openpty()
    settings = *SMALL, f"runs_dir={tmp_path}", "max_iterations=3"
    process = zygote.start(*settings, out=os.ttyname(slave))
    assert select.select([master], [], [], PATIENCE)[0]  # it has opened the terminal
    os.close(slave)
    shown = []
    with contextlib.suppress(OSError):  # raised when the other end is closed
        while select.select([master], [], [], PATIENCE)[0]:
            shown.append(os.read(master, 65536))
    os.close(master)
    code, _ = zygote.wait(process)
    text = b"".join(shown).decode()
    assert code == 0, text
    assert "\x1b[" in text
    assert "Traceback" not in text
    assert "iteration 3/3" in text
    assert re.search(r"hand1 +-?\d", text) and "agent1" not in text
    assert "preceding" in text
    assert "3 of 3 iterations, 96 steps in 0:" in text
    assert re.search(r"madpo eval \S+\.pth\r\n  madpo report", text)
