"""Scores: equally many episodes of every environment, the right numbers, files and exit codes."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from test_runner import _keep_torch_settings, assert_same, timeless, weights  # noqa: F401
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.commands import evaluate as command
from madpo_isaac.commands import play
from madpo_isaac.commands.evaluate import _verdict
from madpo_isaac.env import Step, VecEnv
from madpo_isaac.evaluation import stats
from madpo_isaac.evaluation.evaluate import Record, metrics, summary
from madpo_isaac.evaluation.player import CAUSES, play_episodes
from madpo_isaac.system import files

# Statistics -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4, 7, 64, 101])
def test_interquartile_mean_is_scipys_trimmed_mean(count):
    values = np.random.default_rng(count).exponential(size=(3, count))
    expected = scipy_stats.trim_mean(values, 0.25, axis=-1)
    np.testing.assert_allclose(stats.iqm(values), expected, rtol=1e-12)


@pytest.mark.parametrize(("won", "count"), [(0, 5), (5, 5), (1, 1), (37, 128), (500, 1000)])
def test_wilson_interval_is_scipys(won, count):
    expected = scipy_stats.binomtest(won, count).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(stats.wilson(won, count), expected, atol=1e-12)


def test_bootstrap_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=4000)
    low, high = stats.bootstrap(values, lambda sample: sample.mean(-1))
    half = 1.96 * values.std() / math.sqrt(len(values))
    np.testing.assert_allclose((low, high), (values.mean() - half, values.mean() + half), atol=5e-3)
    assert (low, high) == stats.bootstrap(values, lambda sample: sample.mean(-1))


# Episodes ---------------------------------------------------------------------------------------

LENGTHS = ([2, 3, 1, 4], [5, 5, 5, 5], [1, 1, 1, 1])
"""Numbers of the first episodes of three environments, whose limit is five steps."""


class Scripted(VecEnv):
    """Environment i pays 100 i + its steps so far; a short episode of environment 0 diverges."""

    num_envs, device, agents = 3, torch.device("cpu"), ()
    state_dim, action_dim, max_episode_length, step_dt = 1, 1, 5, 0.1

    def reset(self):
        self.total, self.age, self.episode = 0, [0, 0, 0], [0, 0, 0]
        self.actions = []
        return torch.zeros(3, 1)

    def step(self, action):
        self.actions.append(action.clone())
        self.total += 1
        reward = torch.tensor([100.0 * i + self.total for i in range(3)])
        self.age = [age + 1 for age in self.age]
        done = [LENGTHS[i][self.episode[i] % 4] == self.age[i] for i in range(3)]
        full = [age == 5 for age in self.age]
        diverged = torch.tensor([done[0] and self.age[0] == 1, False, False])
        reading = torch.tensor([2.0 * self.age[0], 0.5, 7.0])
        reading[diverged] = torch.nan
        success = torch.tensor([float(self.episode[0] == 1), 1.0, 0.0])
        for i in range(3):
            self.age[i] *= not done[i]
            self.episode[i] += done[i]
        ended, truncated = torch.tensor(done), torch.tensor(done) & torch.tensor(full)
        log = {"success": success, "diverged": diverged, "reading": reading}
        state = torch.full((3, 1), float(self.total))
        return Step(state, reward, ended & ~truncated, truncated, state, log)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_every_environment_has_the_same_number_of_episodes():
    env = Scripted()
    episodes = play_episodes(env, lambda state: state + 1, 3)
    # Environment 1 needs 15 steps; what the others do after their third episode does not count.
    assert env.total == 15
    by_env = {
        name: values.view(3, 3).T.tolist()
        for name, values in (
            ("lengths", episodes.lengths),
            ("returns", episodes.returns),
            ("success", episodes.success),
        )
    }
    assert by_env["lengths"] == [[2, 3, 1], [5, 5, 5], [1, 1, 1]]
    assert by_env["returns"] == [[3, 12, 6], [515, 540, 565], [201, 202, 203]]
    assert by_env["success"] == [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert tuple(episodes.causes) == CAUSES
    causes = {name: values.view(3, 3).T.tolist() for name, values in episodes.causes.items()}
    assert causes["terminated"] == [[1, 1, 0], [0, 0, 0], [1, 1, 1]]
    assert causes["time_limit"] == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]
    assert causes["diverged"] == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    reading = episodes.readings["reading"].view(3, 3).T
    torch.testing.assert_close(reading[0, :2], torch.tensor([3.0, 4.0]))
    assert torch.equal(reading[1:], torch.tensor([[0.5] * 3, [7.0] * 3]))
    # What was acted on is the state of the step before.
    assert [action[0, 0].item() for action in env.actions] == list(range(1, 16))


def test_summary_of_known_episodes():
    episodes = play_episodes(Scripted(), lambda state: state, 3)
    found = summary(episodes)
    returns = np.array([3, 515, 201, 12, 540, 202, 6, 565, 203.0])
    assert found["episodes"] == 9
    assert found["return"]["mean"] == pytest.approx(returns.mean())
    assert found["return"]["iqm"] == pytest.approx(scipy_stats.trim_mean(returns, 0.25))
    assert found["return"]["std"] == pytest.approx(returns.std())
    assert (found["return"]["min"], found["return"]["max"]) == (3, 565)
    for name in ("mean", "iqm"):
        low, high = found["return"][f"{name}_interval"]
        assert low < found["return"][name] < high
    assert found["success"]["rate"] == 4 / 9
    assert found["length"] == {"mean": pytest.approx(24 / 9), "min": 1, "max": 5}
    assert found["terminations"] == {"terminated": 5, "time_limit": 3, "diverged": 1}
    assert found["readings"] == {"reading": pytest.approx((3 + 4 + 3 * 0.5 + 3 * 7) / 8)}
    every = metrics(episodes)
    counts = {name: len(values) for name, values in every.items()}
    assert counts.pop("reading") == 8  # the episode that diverged has none
    assert set(counts.values()) == {9}
    assert np.isfinite(every["reading"]).all()
    # Tasks log 0 for an environment that diverged; it belongs to no mean either.
    zeros = {name: values.nan_to_num() for name, values in episodes.readings.items()}
    masked = dataclasses.replace(episodes, readings=zeros)
    assert metrics(masked)["reading"] == every["reading"]
    assert summary(masked)["readings"] == found["readings"]


def test_record_is_complete_in_marl_evals_sense(tmp_path):
    """marl-eval refuses files without absolute metrics: here those of the best evaluation."""
    record = Record("Ant-4x2", "happo", 3)
    worse, better, last = (
        play_episodes(Scripted(), lambda state: state, episodes) for episodes in (2, 3, 1)
    )
    assert better.returns.mean() > worse.returns.mean() > last.returns.mean()
    for steps, episodes in ((10, worse), (20, better), (30, last)):
        record.add(steps, episodes)
    record.write(tmp_path / "x.json")
    run = json.loads((tmp_path / "x.json").read_text())["mujoco"]["Ant-4x2"]["happo"]["seed_3"]
    assert list(run) == ["step_1", "step_2", "step_3", "absolute_metrics"]
    assert run["step_2"] == {"step_count": 20, **run["absolute_metrics"]}
    assert run["absolute_metrics"]["return"] == better.returns.tolist()


# The command ------------------------------------------------------------------------------------

SMALL = (
    *("num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1", "max_iterations=2"),
    "task.episode_length=6",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for algo, more in (("happo", ONCE), ("ppo", ("algo.mini_epochs=1", "algo.num_minibatches=4"))):
        argv = (f"algo={algo}", f"experiment={algo}", f"runs_dir={folder}", *SMALL, *more)
        assert main(["train", *argv]) == 0
    return folder


def evaluated(capsys, *argv):
    code = main(["eval", *map(str, argv)])
    return code, capsys.readouterr()


@pytest.mark.parametrize("algo", ["happo", "ppo"])
def test_eval_writes_scores_in_marl_evals_layout(runs, capsys, algo):
    run = runs / algo
    code, out = evaluated(capsys, run, "--episodes", 3)
    assert code == 0, out.err
    found = json.loads((run / "eval" / "last_sampled.json").read_text())
    assert list(found) == ["hands"]
    steps = found["hands"]["ShadowHandOver"][algo]["seed_1"]
    assert list(steps) == ["step_1", "absolute_metrics"]
    step = steps["step_1"]
    assert step.pop("step_count") == 2 * 8 * 4
    assert steps["absolute_metrics"] == step
    assert {len(values) for values in step.values()} == {3 * 4}
    names = {"return", "success", "success_10cm", "length", *CAUSES}
    assert names | {"goal_distance", "goal_angle"} == set(step)
    report = json.loads((run / "eval" / "last_sampled_summary.json").read_text())
    assert report["return"]["mean"] == pytest.approx(np.mean(step["return"]))
    assert report["terminations"]["time_limit"] == sum(step["time_limit"])
    assert (report["iteration"], report["actions"], report["episodes"]) == (2, "sampled", 12)
    assert f"{report['return']['mean']:.4g}" in out.out
    # The same command, the same numbers; mean actions are others, in files of their own.
    before = (run / "eval" / "last_sampled.json").read_bytes()
    assert evaluated(capsys, run, "--episodes", 3)[0] == 0
    assert (run / "eval" / "last_sampled.json").read_bytes() == before
    assert evaluated(capsys, run, "--deterministic", "--episodes=3")[0] == 0
    mean = json.loads((run / "eval" / "last_mean_summary.json").read_text())
    assert mean["return"]["mean"] != report["return"]["mean"]


def test_eval_takes_settings_and_another_folder(runs, capsys, tmp_path):
    path = runs / "happo" / "nn" / "best.pth"
    argv = (path, "num_envs=7", "--out", tmp_path, "seed=5", "--episodes=1")
    assert evaluated(capsys, *argv)[0] == 0
    report = json.loads((tmp_path / "best_sampled_summary.json").read_text())
    assert (report["num_envs"], report["episodes"]) == (7, 7)
    assert (report["seed"], report["evaluation_seed"]) == (1, 5)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--min-return=-1",), 0),
        (("--min-return", "-1e3"), 0),
        (("--min-return", "-.5e+3"), 0),
        (("--min-return=1e9",), 1),
        (("--min-success", "0"), 0),
        (("--min-success", "1.5"), 1),
        (("--min-success=0", "--min-return=1e9"), 1),
    ],
)
def test_exit_code_says_whether_the_policy_is_good(runs, capsys, tmp_path, options, code):
    found, out = evaluated(capsys, runs / "happo", "--episodes=1", "--out", tmp_path, *options)
    assert found == code
    assert ("is below" in out.err) == bool(code)


def test_playing_says_how_many_episodes_diverged(monkeypatch, capsys):
    for count, said in ((3, "1 of these 9 episodes diverged"), (1, "")):
        episodes = play_episodes(Scripted(), lambda state: state + 1, count)
        monkeypatch.setattr(play, "evaluate", lambda *_, found=episodes: found)
        play._score(None, Scripted(), 3 * count, each=False)
        printed = capsys.readouterr()
        assert f"episodes: {3 * count}" in printed.out
        assert said in printed.err and bool(said) == bool(printed.err)


def test_scores_that_are_none_are_below_any_limit(capsys):
    def scores(mean, diverged):
        return {
            "episodes": 4,
            "success": {"rate": 0.0},
            "return": {"mean": mean},
            "terminations": {"diverged": diverged},
        }

    assert _verdict(scores(0.0, 4), None, -5.0) == 1
    assert "all 4 episodes diverged" in capsys.readouterr().err
    assert _verdict(scores(float("nan"), 0), None, -5.0) == 1
    assert _verdict(scores(0.0, 3), None, -5.0) == 0
    assert _verdict(scores(0.0, 4), None, None) == 0


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_played(runs, capsys, tmp_path):
    (tmp_path / "file").touch()
    code, out = evaluated(capsys, runs / "happo", "--out", tmp_path / "file" / "x")
    assert code == 2 and out.out == ""
    assert re.fullmatch(r"error: Cannot write '[^']*file/x': [^\n]*\n", out.err)


def test_scores_are_printed_even_if_they_cannot_be_kept(runs, capsys, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_atomic", full)
    code, out = evaluated(capsys, runs / "happo", "--episodes=1", "--out", tmp_path)
    assert code == 2 and "No space left" in out.err
    assert "  return  " in out.out and "wrote" not in out.out


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["evil"], ["Unknown command 'evil'", "Did you mean 'eval'?"]),
        (["eval"], ["required: policy."]),
        (["eval", "x", "--episode=3"], ["'--episode'", "Did you mean '--episodes'?"]),
        (["eval", "x", "--episodes", "0"], ["--episodes", "'0'", "at least 1"]),
        (["eval", "x", "checkpoint=y"], ["'checkpoint=y'", "plays the policy 'x'"]),
        (["eval", "x", "test=False"], ["'test=False'", "plays the policy 'x'"]),
        (["eval", ""], ["name of the policy is empty"]),
        (["eval", "x", "--min-return", "much"], ["--min-return", "'much'"]),
        (["eval", "no/such'run"], ["no/such'run", "does not exist"]),
        (["eval", "latest", "runs_dir=nowhere"], ["no run in 'nowhere'"]),
        (["eval", "latest", "num_env3"], ["Cannot read 'num_env3'"]),
    ],
)
def test_bad_input_is_one_line(capsys, argv, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert len(out.err.splitlines()) == 1
    assert [part for part in parts if part not in out.err] == [], out.err


def test_help_lists_the_commands(capsys):
    assert main(["--help"]) == main([]) == 0
    assert {"train", "eval", "play"} <= set(capsys.readouterr().out.split())


def test_sampled_actions_are_drawn_with_the_seed(runs, tmp_path, monkeypatch):
    """In one and the same state, so that other episodes of another seed are no excuse."""
    drawn = []

    def acting(act, env, episodes):
        drawn.append(act(torch.zeros(env.num_envs, env.state_dim)))
        return play_episodes(env, act, episodes)

    monkeypatch.setattr(command, "evaluate", acting)
    argv = ["eval", str(runs / "happo"), "--episodes=1", "--out", str(tmp_path)]
    for seed in (5, 6, 5):
        assert main([*argv, f"seed={seed}"]) == 0
    one, other, again = drawn
    assert torch.equal(one, again)
    assert (one != other).all()
    for seed in (5, 6):
        assert main([*argv, f"seed={seed}", "--deterministic"]) == 0
    assert torch.equal(drawn[3], drawn[4]) and (drawn[3] != one).all()


# During training --------------------------------------------------------------------------------


def without_evaluation(lines):
    return [{k: v for k, v in line.items() if not k.startswith("eval/")} for line in lines]


def test_evaluations_begin_in_states_of_their_own(tmp_path, monkeypatch):
    """They are the same each time, not those of training, and others for another seed."""
    task = "HalfCheetah-2x3"
    world, starts = type(tasks.make(task, num_envs=1, num_threads=1)), []
    reset = world.reset

    def recorded(self):
        starts.append(reset(self).clone())
        return starts[-1].clone()

    monkeypatch.setattr(world, "reset", recorded)
    settings = (f"task={task}", *SMALL, f"runs_dir={tmp_path}", "eval_frequency=1", "eval_envs=4")
    settings += ONCE
    for seed in (1, 2):
        assert main(["train", *settings, f"seed={seed}"]) == 0
    (training, first, second), (other_training, other, _) = starts[:3], starts[3:]
    assert torch.equal(first, second)
    for one, another in ((first, training), (other, other_training), (first, other)):
        assert not (one == another).all(dim=1).any()


@pytest.mark.parametrize("algo", ["happo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_evaluation_leaves_training_as_it_is(tmp_path, algo):
    begun = [f"runs_dir={tmp_path}", f"algo={algo}", *SMALL, "save_frequency=2"]
    begun += ["max_iterations=5", *(["algo.num_minibatches=4"] if algo == "ppo" else ONCE)]
    assert main(["train", *begun, "experiment=plain"]) == 0
    evaluating = ["eval_frequency=2", "eval_envs=3", "eval_episodes=2"]
    assert main(["train", *begun, "experiment=evaluated", *evaluating]) == 0
    lines = timeless(tmp_path / "evaluated")
    assert [line["iteration"] for line in lines if "eval/return" in line] == [2, 4]
    assert without_evaluation(lines) == timeless(tmp_path / "plain")
    ours, theirs = (weights(tmp_path / name) for name in ("evaluated", "plain"))
    for content in (ours, theirs):
        assert content.pop("wall_s") and content.pop("config") and content.pop("best_return")
    assert (ours.pop("best_by"), theirs.pop("best_by")) == ("evaluation", "training")
    assert_same(ours, theirs)
    path = tmp_path / "evaluated" / "eval" / "training.json"
    record = json.loads(path.read_text())
    steps = record["hands"]["ShadowHandOver"][algo]["seed_1"]
    assert [steps[f"step_{k}"]["step_count"] for k in (1, 2)] == [64, 128]
    assert len(steps) == 3  # and the absolute metrics
    assert len(steps["step_2"]["return"]) == 6
    assert np.mean(steps["step_2"]["return"]) == pytest.approx(lines[3]["eval/return"])
    # Continued in the middle, it gives the same record again.
    assert main(["train", f"checkpoint={tmp_path}/evaluated/nn/ep_2.pth"]) == 0
    assert timeless(tmp_path / "evaluated") == lines
    assert json.loads(path.read_text()) == record
