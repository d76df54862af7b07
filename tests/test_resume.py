"""Continued runs: the checkpoint, the settings and the folder that they take."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    files,
    metrics,
    timeless,
    weights,
)
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.training import runner

TINY = (
    *("task=HalfCheetah-2x3", "num_envs=4", "num_threads=1", "task.episode_length=12"),
    *("algo.horizon=8", "algo.hidden=[16]", *ONCE, "save_frequency=1"),
)
OWN = ("algo=happo", "algo.clip=0.3", "algo.gamma=0.9", "seed=7")
"""Settings of the run below that are no defaults."""


def train(runs, *overrides, code=0):
    assert main([f"runs_dir={runs}", *overrides]) == code


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four iterations without a break, with its checkpoints ep_1 to ep_4."""
    runs = tmp_path_factory.mktemp("whole")
    train(runs, *TINY, *OWN, "experiment=x", "max_iterations=4")
    return runs / "x"


@pytest.fixture(scope="module")
def first_half(tmp_path_factory):
    """The same run's first two iterations."""
    runs = tmp_path_factory.mktemp("half")
    train(runs, *TINY, *OWN, "experiment=x", "max_iterations=2")
    return runs / "x"


@pytest.fixture
def half(first_half, tmp_path):
    """A copy of them, which a test may change."""
    return shutil.copytree(first_half, tmp_path / "x")


def raise_(problem):
    """A function that raises ``problem``, whatever it is given."""

    def function(*_, **__):
        raise problem

    return function


def recorded(run):
    return OmegaConf.load(run / "config.yaml")


def status(run):
    return json.loads((run / "status.json").read_text())


def refused(capsys, runs, *overrides):
    """The one line that says why, after checking that nothing has changed."""
    before = files(runs)
    capsys.readouterr()
    train(runs, *overrides, code=2)
    captured = capsys.readouterr()
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    assert captured.out == ""
    assert files(runs) == before
    return captured.err


PAID = (*TINY, "task.episode_length=8", "stagger_episodes=False")


@pytest.fixture
def pays(monkeypatch):
    """Makes every iteration one episode of eight steps, each of which pays what is given."""
    world = type(tasks.make("HalfCheetah-2x3", num_envs=1, num_threads=1))
    step = world.step

    def pays(*each):
        pay = iter([p for p in each for _ in range(8)])

        def paid(self, action):
            result = step(self, action)
            return result._replace(reward=torch.full_like(result.reward, next(pay)))

        monkeypatch.setattr(world, "step", paid)

    return pays


def test_the_best_is_the_best_of_all_parts_of_a_run(tmp_path, pays):
    """The best is kept as it acted, after one iteration less."""
    pays(1.0, 3.0, 2.0, 2.5, 4.0, 0.5)
    settings = (*PAID, "experiment=x")
    for total, best, score in ((1, 0, 8.0), (3, 1, 24.0), (4, 1, 24.0), (6, 4, 32.0)):
        train(tmp_path, *settings, f"max_iterations={total}", "resume=auto")
        content = weights(tmp_path / "x", "best")
        assert (content["iteration"], content["best_return"]) == (best, pytest.approx(score))
        assert weights(tmp_path / "x")["best_return"] == pytest.approx(score)
    assert [line["episode_return"] for line in metrics(tmp_path / "x")] == [8, 24, 16, 20, 32, 4]


def test_a_new_folder_keeps_a_best_policy_of_its_own(tmp_path, pays, capsys):
    """The score of the run before stays with that run's best policy."""
    pays(4.0, 1.0, 2.0, 1.5)
    train(tmp_path, *PAID, "experiment=x", "max_iterations=1")
    train(tmp_path, f"checkpoint={tmp_path}/x", "experiment=y", "max_iterations=4")
    best = weights(tmp_path / "y", "best")
    assert (best["iteration"], best["best_return"]) == (2, pytest.approx(16.0))
    assert weights(tmp_path / "x", "best")["best_return"] == pytest.approx(32.0)


# A run that goes back to an older checkpoint of its own -------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process before the first iteration."""


@pytest.mark.parametrize("chosen", ["ep_2", "best"])
def test_a_kill_after_going_back_leaves_no_gap(tmp_path, pays, monkeypatch, chosen):
    """The best policy is that of iteration 1, before the update to 2; its score is in line 2."""
    pays(1.0, 3.0, 2.0, 4.0, 3.5, 1.0)
    train(tmp_path, *PAID, "experiment=x", "max_iterations=3")
    run = tmp_path / "x"
    shutil.copytree(run, tmp_path / "before")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runner, "train", raise_(Killed))
        train(tmp_path, f"checkpoint={run}/nn/{chosen}.pth", "max_iterations=4")
    back = {"ep_2": 2, "best": 1}[chosen]
    assert weights(run)["iteration"] == back
    train(tmp_path, f"checkpoint={run}", "max_iterations=4")
    assert [line["iteration"] for line in metrics(run)] == [1, 2, 3, 4]
    kept = run / "dropped" / "1"
    for name in ("nn/last.pth", "nn/best.pth", "nn/ep_3.pth", "metrics.jsonl"):
        assert (kept / Path(name).name).read_bytes() == (tmp_path / "before" / name).read_bytes()
    assert weights(run, "best")["best_return"] == pytest.approx(32.0)


def test_a_later_best_policy_is_kept_apart_before_another_takes_its_place(tmp_path, pays):
    """Scores are compared with those before the older checkpoint, not with the branch given up."""
    pays(1.0, 2.0, 4.0, 1.5, 1.0)
    train(tmp_path, *PAID, "experiment=x", "max_iterations=3")
    run = tmp_path / "x"
    (run / "videos").mkdir()
    (run / "eval").mkdir()
    for step in (0, 7, 8, 12):  # ep_1 is after 8 steps of each environment
        (run / "videos" / f"step_{step}.mp4").write_bytes(b"film")
    (run / "eval" / "training.json").write_text("scores")
    train(tmp_path, f"checkpoint={run}/nn/ep_1.pth", "max_iterations=3")
    assert weights(run, "best")["best_return"] == pytest.approx(12.0)
    assert torch.load(run / "dropped/1/best.pth")["best_return"] == pytest.approx(32.0)
    assert {path.name for path in (run / "videos").iterdir()} == {"step_0.mp4", "step_7.mp4"}
    assert {path.name for path in run.glob("dropped/1/*.mp4")} == {"step_8.mp4", "step_12.mp4"}
    assert (run / "dropped/1/training.json").read_text() == "scores"


@pytest.mark.parametrize("name", ["latest", "best", '"latest"', "latest,best"])
def test_a_sweep_does_not_begin_with_the_run_before(half, capsys, name):
    error = refused(capsys, half.parent, "-m", f"checkpoint={name}", "seed=1,2")
    assert re.search(r"checkpoint=(latest|best) would mean the run before it", error)
    played = "-m", "checkpoint=latest", "test=true", "seed=1,2"
    assert main([*played, f"runs_dir={half.parent}"]) == 0


def test_a_folder_with_any_name_can_be_continued_as_the_message_says(half, capsys):
    odd = half.rename(half.with_name("it's ü=x"))
    train(half.parent, f"experiment='{odd.name}'".replace("it's", "it\\'s"), code=2)
    command = re.search(r"continue it with (.*)\.\n", capsys.readouterr().err)[1]
    train(half.parent, *shlex.split(command), "max_iterations=3")
    assert weights(odd)["iteration"] == 3


def test_a_line_with_an_infinite_iteration_is_no_line(half):
    path = half / "metrics.jsonl"
    path.write_text('{"iteration": -Infinity}\n' + path.read_text())
    train(half.parent, f"checkpoint={half}", "max_iterations=3")
    assert [line["iteration"] for line in metrics(half)] == [1, 2, 3]


def test_missing_lines_of_metrics_are_said(half, capsys):
    lines = (half / "metrics.jsonl").read_text().splitlines(keepends=True)
    (half / "metrics.jsonl").write_text(lines[0])
    train(half.parent, f"checkpoint={half}", "max_iterations=3")
    assert (
        "metrics.jsonl' ends at iteration 1, and the run goes on from 2" in capsys.readouterr().err
    )


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["latest", "{run}", "{run}/nn/last.pth"])
def test_a_run_knows_its_settings(whole, half, given):
    train(half.parent, f"checkpoint={given.format(run=half)}", "max_iterations=4")
    assert timeless(half) == timeless(whole)
    assert recorded(half).max_iterations == 4
    assert (recorded(half).algo.clip, recorded(half).checkpoint) == (0.3, "")


def test_the_command_line_counts_more_than_the_record(whole, half):
    train(half.parent, f"checkpoint={half}", "max_iterations=3", "algo.clip=0.05")
    assert [line["clip"] for line in metrics(half)] == [0.3, 0.3, 0.05]
    assert (recorded(half).algo.clip, recorded(half).algo.gamma) == (0.05, 0.9)
    train(half.parent, f"checkpoint={half}", "max_iterations=4")
    assert metrics(half)[3]["clip"] == 0.05


def test_the_same_command_again_is_fine(whole, half):
    same = *TINY, *OWN, "recipe=tuned", "sim=mujoco"
    train(half.parent, *same, f"checkpoint={half}", "max_iterations=4")
    assert timeless(half) == timeless(whole)


def test_latest_is_of_any_task_unless_one_is_named(whole, half):
    runs = half.parent
    other = "task=HalfCheetah-3x2", "algo=mappo", "experiment=newer", "max_iterations=1"
    train(runs, *TINY, *other)
    config = compose(["checkpoint=latest", f"runs_dir={runs}"])
    assert (config.task.name, config.algo.name) == ("HalfCheetah-3x2", "mappo")
    config = compose(["checkpoint=latest", f"runs_dir={runs}", "task=HalfCheetah-2x3"])
    assert (config.algo.name, config.seed, config.experiment) == ("happo", 7, "x")
    config = compose(["checkpoint=best", f"runs_dir={runs}", "algo=happo", "test=True"])
    assert config.checkpoint == str(runs / "x" / "nn" / "best.pth")


def test_playing_takes_the_settings_too(half, capsys):
    train(half.parent, "checkpoint=latest", "test=True", "num_envs=3", "seed=2")
    assert capsys.readouterr().out.count("reward:") == 3 + 1


def test_a_drawn_seed_stays(tmp_path):
    train(tmp_path, *TINY, "seed=-1", "experiment=x", "max_iterations=1")
    seed = recorded(tmp_path / "x").seed
    train(tmp_path, "seed=-1", f"checkpoint={tmp_path}/x", "max_iterations=2")
    assert recorded(tmp_path / "x").seed == seed >= 0


MISMATCHES = [
    (("num_envs=5",), "num_envs=5", "num_envs=4", "in its folder", "experiment=<name>"),
    (("seed=8",), "seed=8", "seed=7", "experiment=<name>"),
    (("seed=8", "experiment=x"), "seed=8", "seed=7", "experiment=<name>"),
    (("sim_device=cuda:0",), "sim_device=cuda:0", "made with sim_device=cpu"),
    (("algo.hidden=[16,16]",), "algo.hidden=[16,16]", "algo.hidden=[16]", "continued or played."),
    (("algo.activation=tanh",), "algo.activation=tanh", "algo.activation=elu"),
    (("algo.input_norm=both",), "algo.input_norm=both", "algo.input_norm=running"),
    (("task.agent_obsk=1",), "task.agent_obsk=1", "task.agent_obsk=None"),
    (("task=HalfCheetah-3x2",), "is of task=HalfCheetah-2x3, not task=HalfCheetah-3x2"),
    (("algo=mappo",), "is of algo=happo, not algo=mappo"),
    (("recipe=paper",), "recipe=paper", "algo.*"),
    (("algo.share_parameters=False",), "Unknown key 'algo.share_parameters'"),
    (("max_iterations=2",), "max_iterations counts the whole run"),
    ((), "max_iterations counts the whole run"),
]


@pytest.mark.parametrize("case", MISMATCHES, ids=lambda case: str(case[0]))
def test_what_cannot_change_is_one_line(half, capsys, case):
    overrides, *parts = case
    total = () if "whole run" in parts[0] else ("max_iterations=4",)
    error = refused(capsys, half.parent, f"checkpoint={half}", *total, *overrides)
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("key", "had", "wanted"), [("preset", "gaussian", "printed"), ("age", 1, 3)]
)
def test_a_run_of_madpo_keeps_what_it_compares_with(tmp_path, capsys, key, had, wanted):
    train(tmp_path, *TINY, "experiment=x", "max_iterations=1")
    error = refused(capsys, tmp_path, "checkpoint=latest", f"algo.divergence.{key}={wanted}")
    assert f"made with algo.divergence.{key}={had}" in error


def test_a_checkpoint_of_other_environments_is_refused(half, tmp_path, capsys):
    content = weights(half)
    content["env_state"]["sim"]["state"] = torch.zeros(4, 3)
    torch.save(content, half / "nn" / "odd.pth")
    error = refused(capsys, tmp_path, f"checkpoint={half}/nn/odd.pth", "max_iterations=4")
    assert "is of other environments (sim/state)" in error


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("a: 1\nb: [", "cannot be used: line 2: "),
        ("- 1", "holds no configuration"),
        ("task: {name: Nothing}\nalgo: {name: happo}\nsim: {name: mujoco}\n", "'Nothing'"),
        ("task: {name: HalfCheetah-2x3}\n", "does not say which algo"),
        ("\xff", "cannot be used"),
    ],
)
def test_damaged_record_is_one_line(half, capsys, damage, message):
    (half / "config.yaml").write_bytes(damage.encode("latin1"))
    assert message in refused(capsys, half.parent, f"checkpoint={half}", "max_iterations=4")


def test_unknown_keys_of_a_record_are_named(half, capsys):
    record = recorded(half)
    record.algo.no_longer_there = 1
    OmegaConf.save(record, half / "config.yaml")
    error = refused(capsys, half.parent, f"checkpoint={half}", "max_iterations=4")
    assert "config.yaml' cannot be used" in error and "no_longer_there" in error


def test_a_folder_of_configurations_and_a_checkpoint_do_not_go_together(half, capsys):
    flags = f"--config-path={half}", "--config-name=config"
    error = refused(capsys, half.parent, *flags, "checkpoint=latest")
    assert "--config-path cannot be combined with checkpoint=" in error


def test_a_sweep_continues_with_the_runs_settings(whole, half):
    train(half.parent, "-m", f"checkpoint={half}", "max_iterations=3,4")
    assert timeless(half) == timeless(whole)


# Places -----------------------------------------------------------------------------------------


def test_a_file_elsewhere_carries_its_settings(whole, half, tmp_path):
    shutil.move(half / "nn" / "last.pth", tmp_path / "alone.pth")
    train(tmp_path / "new", f"checkpoint={tmp_path}/alone.pth", "experiment=y", "max_iterations=4")
    new = tmp_path / "new" / "y"
    assert timeless(new) == timeless(whole)[2:]
    assert recorded(new).algo.clip == 0.3
    assert recorded(new).checkpoint == f"{tmp_path}/alone.pth"


def test_a_renamed_folder_is_continued_where_it_is(whole, half, tmp_path):
    moved = tmp_path / "deeper" / "renamed"
    moved.parent.mkdir()
    half.rename(moved)
    train(tmp_path, f"checkpoint={moved}", "max_iterations=4")
    assert timeless(moved) == timeless(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"deeper"}


def test_curves_after_the_checkpoint_are_dropped(whole, tmp_path):
    run = tmp_path / "x"
    shutil.copytree(whole, run)
    with next((run / "summaries").iterdir()).open("ab") as file:
        file.write(b"\x20\0\0\0\0\0\0\0half")  # as a kill leaves it
    train(tmp_path, f"checkpoint={run}/nn/ep_2.pth")
    train(tmp_path, f"checkpoint={run}/nn/ep_3.pth")
    events = EventAccumulator(str(run / "summaries")).Reload()
    assert [event.step for event in events.Scalars("agent0/kl")] == [32, 64, 96, 128]
    done = [line for line in metrics(whole) if line["episodes"]]
    curves = {"iter": "iteration", "step": "env_steps"}
    for axis, key in curves.items():
        steps = [event.step for event in events.Scalars(f"rewards/{axis}")]
        assert steps == [line[key] for line in done]
    assert len(events.Scalars("rewards/time")) == len(done)


# A run that was killed before its first checkpoint ----------------------------------------------


def killed(run):
    """Makes a finished run look as if it had been killed while it went on."""
    path = run / "status.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "state": "running", "pid": 1 << 30}))


@pytest.mark.parametrize("how", ["run", "auto"])
@pytest.mark.parametrize("left", ["all but checkpoints", "config.yaml", "temporary file"])
def test_a_run_without_a_checkpoint_starts_again(whole, half, left, how):
    shutil.rmtree(half / "nn")
    killed(half)
    lines = (half / "metrics.jsonl").read_text()
    if left == "config.yaml":
        shutil.rmtree(half / "summaries")
        for name in ("metrics.jsonl", "status.json", "overrides.txt", "env.json", "lock"):
            (half / name).unlink()
    elif left == "temporary file":
        (half / "nn").mkdir()
        (half / "nn" / ".madpo-0.tmp").write_bytes(b"half")
    given = [f"checkpoint={half}"] if how == "run" else [*TINY, "resume=auto", "experiment=x"]
    train(half.parent, *given, *OWN, "max_iterations=4")
    assert timeless(half) == timeless(whole)
    kept = half / "dropped" / "1" / "metrics.jsonl"
    assert {p.name for p in half.iterdir()} - {"dropped"} == {p.name for p in whole.iterdir()}
    assert kept.read_text() == lines if left != "config.yaml" else not kept.parent.exists()
    assert {p.name for p in (half / "nn").iterdir()} == {p.name for p in (whole / "nn").iterdir()}
    events = EventAccumulator(str(half / "summaries")).Reload()
    assert [event.step for event in events.Scalars("agent0/kl")] == [32, 64, 96, 128]


@pytest.mark.parametrize("how", ["run", "auto"])
def test_a_finished_run_without_its_checkpoints_stays_as_it_is(half, capsys, how):
    shutil.rmtree(half / "nn")
    path = half / "status.json"
    status = json.loads(path.read_text())
    path.write_text(json.dumps({"state": status["state"]}))  # as in a packed run
    before = {p.name: p.read_bytes() for p in half.iterdir() if p.is_file()}
    given = [f"checkpoint={half}"] if how == "run" else [*TINY, "resume=auto", "experiment=x"]
    said = refused(capsys, half.parent, *given, *OWN, "max_iterations=4")
    assert f"'{half}' is finished and has no checkpoint" in said
    assert {p.name: p.read_bytes() for p in half.iterdir() if p.is_file()} == before


@pytest.mark.parametrize("left", [(), ("lock",), ("lock", ".madpo-0.tmp")])
def test_a_start_that_was_killed_at_once_is_no_run(tmp_path, left):
    (tmp_path / "x").mkdir()
    for name in left:
        (tmp_path / "x" / name).write_text("")
    for again in ("max_iterations=1", "max_iterations=2"):
        train(tmp_path, *TINY, "experiment=x", "resume=auto", again)
    assert len(metrics(tmp_path / "x")) == 2


def test_a_link_that_leads_nowhere_is_not_taken_for_a_start(half, tmp_path, capsys):
    last = half / "nn" / "last.pth"
    last.unlink()
    last.symlink_to(last)
    error = refused(capsys, tmp_path, f"checkpoint={half}", "max_iterations=4")
    assert "does not exist" in error
    assert len(metrics(half)) == 2


# resume=auto ------------------------------------------------------------------------------------


def test_auto_starts_continues_and_is_done(whole, tmp_path, capsys):
    command = *TINY, *OWN, "experiment=x", "resume=auto"
    train(tmp_path, *command, "max_iterations=2")
    train(tmp_path, *command, "max_iterations=4")
    assert timeless(tmp_path / "x") == timeless(whole)
    before = files(tmp_path)
    capsys.readouterr()
    train(tmp_path, *command, "max_iterations=4")
    assert "is of iteration 4: nothing left to do\n" in capsys.readouterr().out
    assert files(tmp_path) == before


def test_auto_begins_with_a_checkpoint_and_goes_on_from_its_own(whole, half):
    command = f"checkpoint={half}/nn/ep_1.pth", "experiment=fork", "resume=auto"
    train(half.parent, *command, "max_iterations=2")
    fork = half.parent / "fork"
    shutil.rmtree(fork / "nn")
    killed(fork)
    train(half.parent, *command, "max_iterations=3")
    train(half.parent, *command, "max_iterations=4")
    assert timeless(fork) == timeless(whole)[1:]
    assert recorded(fork).checkpoint == f"{half}/nn/ep_1.pth"
    assert len(metrics(half)) == 2


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("resume=auto",), "needs experiment=<name>"),
        (("resume=always", "experiment=x"), "Unknown resume 'always'"),
        (("resume=auto", "experiment=x", "test=True"), "is for training"),
        (("experiment=x",), "already holds a run"),
        (("resume=auto", "experiment=x", "algo=mappo"), "is of algo=happo, not algo=mappo"),
    ],
)
def test_auto_refusals(half, capsys, overrides, part):
    assert part in refused(capsys, half.parent, *TINY, *overrides)
