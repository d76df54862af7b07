"""PPO by rl_games: on the command line, in the run folder, and what it gets from environments."""

import os
import re
import signal
import sys

import pytest
import torch
from omegaconf import OmegaConf
from test_runner import (
    AGENT_KEYS,
    RUN_KEYS,
    _keep_torch_settings,  # noqa: F401
    assert_same,
    files,
    metrics,
    timeless,
    weights,
)
from tiny_run import ONCE
from toy import ToyEnv

from madpo_isaac.algos.ppo.env import RlGamesEnv
from madpo_isaac.algos.ppo.learner import PpoLearner
from madpo_isaac.algos.ppo.params import rl_games_params
from madpo_isaac.algos.ppo.settings import PpoConfig
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.training.recording import Recorder

SMALL = (
    "num_envs=4",
    "algo.horizon=8",
    "algo.hidden=[16]",
    "num_threads=1",
    "task.episode_length=12",
    "stagger_episodes=False",
)
PPO = (*SMALL, "algo=ppo", "algo.mini_epochs=2", "save_frequency=2")
OWN_KEYS = {"bounds_loss"}


def train(runs, *overrides, code=0, settings=PPO):
    """Runs train.py in this process; the last value of a key wins."""
    defaults = () if any(o.startswith("task=") for o in overrides) else ("task=HalfCheetah-2x3",)
    assert main([*settings, f"runs_dir={runs}", *defaults, *overrides]) == code


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of four iterations, and one iteration of HAPPO to compare with."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, "experiment=ppo", "max_iterations=4")
    train(folder, "algo=happo", "experiment=happo", "max_iterations=1", settings=(*SMALL, *ONCE))
    return folder


# Runs -------------------------------------------------------------------------------------------


def test_two_hands_train(tmp_path, capsys):
    train(tmp_path, "task=ShadowHandOver", "experiment=x", "max_iterations=2")
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("ShadowHandOver with ppo: 4 environments on cpu (1 thread)")
    assert lines[1] == "agents: joint (398 obs, 40 act)"
    assert len(lines) == 5  # nothing of what rl_games prints
    assert [line["env_steps"] for line in metrics(tmp_path / "x")] == [32, 64]
    assert {p.name for p in (tmp_path / "x" / "nn").iterdir()} == {
        "last.pth",
        "best.pth",
        "ep_2.pth",
    }


def test_run_folder_and_metrics_are_those_of_the_other_algorithms(runs):
    names = [{p.name for p in (runs / algo).iterdir()} for algo in ("ppo", "happo")]
    assert names[0] == names[1]
    assert len(list((runs / "ppo" / "summaries").iterdir())) == 1
    config = OmegaConf.load(runs / "ppo" / "config.yaml")
    assert (config.algo.name, config.algo.tau) == ("ppo", 0.95)
    other = {key for key in metrics(runs / "happo")[0] if not key.startswith("agent1/")}
    for line in metrics(runs / "ppo"):
        assert line.keys() == other | OWN_KEYS
        assert {*RUN_KEYS, *(f"agent0/{key}" for key in AGENT_KEYS)} <= line.keys()
        assert line["fps_step"] > line["fps_step_infer"] > line["fps_total"] > 0
        assert 0.0 <= line["agent0/clip_fraction"] <= 1.0
        assert line["agent0/grad_norm"] > 0
        for key in ("preceding_ratio", "divergence_intra", "divergence_inter"):
            assert line[f"agent0/{key}"] is None
    assert [line["episodes"] for line in metrics(runs / "ppo")] == [0, 4, 4, 0]


def test_same_seed_repeats_and_another_does_not(runs, tmp_path):
    for seed in (1, 2):
        train(tmp_path, f"seed={seed}", f"experiment=s{seed}", "max_iterations=4")
    assert timeless(tmp_path / "s1") == timeless(runs / "ppo") != timeless(tmp_path / "s2")
    assert_same(weights(tmp_path / "s1")["model"], weights(runs / "ppo")["model"])


def test_two_and_two_iterations_equal_four(runs, tmp_path):
    train(tmp_path, "experiment=x", "max_iterations=3")
    train(tmp_path, f"checkpoint={tmp_path}/x/nn/ep_2.pth", "max_iterations=4")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert timeless(tmp_path / "x") == timeless(runs / "ppo")
    ours, theirs = weights(tmp_path / "x"), weights(runs / "ppo")
    for clock in ("wall_s", "config"):
        del ours[clock], theirs[clock]
    assert_same(ours, theirs)


def test_interrupted_run_is_saved(tmp_path, capsys, monkeypatch):
    record = Recorder.on_iteration

    def interrupt(self, run, line):
        record(self, run, line)
        if line["iteration"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Recorder, "on_iteration", interrupt)
    train(
        tmp_path, "experiment=x", "max_iterations=9", "save_frequency=0", code=128 + signal.SIGTERM
    )
    assert "preempted: saved" in capsys.readouterr().out
    assert weights(tmp_path / "x")["epoch"] == len(metrics(tmp_path / "x")) == 2


def test_play_scores_every_environment_and_writes_nothing(runs, capsys):
    before = files(runs)
    for _ in range(2):
        train(runs, "test=True", "checkpoint=latest", "num_envs=3", "test_episodes=2")
    assert files(runs) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[:7] == lines[7:]
    assert all(re.fullmatch(r"reward: \S+ steps: 12", line) for line in lines[:6])
    assert lines[6].startswith("av reward: ")


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("checkpoint={runs}/happo",), "is of algo=happo, not algo=ppo"),
        (("checkpoint={runs}/ppo", "algo=happo"), "is of algo=ppo, not algo=happo"),
        (("checkpoint={runs}/ppo", "algo.hidden=[17]"), r"algo\.hidden"),
        (("checkpoint={runs}/ppo", "algo.normalize_input=False"), r"algo\.normalize_input"),
        (("checkpoint={runs}/ppo", "num_envs=8"), "num_envs=4"),
        (("checkpoint={tmp}/theirs.pth",), "is not a checkpoint of this program"),
        (("checkpoint={tmp}/half.pth",), "is damaged or not a checkpoint"),
        (("checkpoint={tmp}/lacking.pth",), "lacks optimizer"),
    ],
    ids=str,
)
def test_checkpoint_of_something_else_is_refused(runs, tmp_path, capsys, override, message):
    whole = weights(runs / "ppo")
    torch.save({"model": whole["model"], "epoch": 4}, tmp_path / "theirs.pth")
    torch.save({k: v for k, v in whole.items() if k != "optimizer"}, tmp_path / "lacking.pth")
    content = (runs / "ppo" / "nn" / "last.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(content[: len(content) // 2])
    before = files(runs), files(tmp_path)
    settings = SMALL if "algo=happo" in override else PPO
    overrides = [o.format(runs=runs, tmp=tmp_path) for o in override]
    train(runs, "max_iterations=5", *overrides, code=2, settings=settings)
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*\n", capsys.readouterr().err)
    assert (files(runs), files(tmp_path)) == before


OURS = "madpo_isaac.algos.ppo"
"""Imports it."""


@pytest.mark.parametrize(
    ("place", "value", "part"),
    [
        (("state", 5, "exp_avg"), torch.zeros(1), "other moments of parameter 5 in its optimizer"),
        (("state", 0, "step"), torch.zeros(2), "other moments of parameter 0 in its optimizer"),
        (("state", 99), {}, "is not of this version (IndexError"),
        (("state", 1), None, "is not of this version (AttributeError"),
        (("param_groups", 0, "maximize"), 1.0, "lacks optimizer/param_groups/0/maximize"),
        (("param_groups", 0, "betas"), (0.9, "x"), "lacks optimizer/param_groups/0/betas/1"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused(runs, tmp_path, capsys, place, value, part):
    content = weights(runs / "ppo")
    *above, last = place
    node = content["optimizer"]
    for key in above:
        node = node[key]
    node[last] = value
    torch.save(content, tmp_path / "odd.pth")
    train(tmp_path, f"checkpoint={tmp_path}/odd.pth", "max_iterations=5", code=2, settings=())
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1


def test_missing_package_is_named(tmp_path, capsys, monkeypatch):
    for name in [n for n in sys.modules if n.startswith(("rl_games", OURS))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rl_games", None)
    train(tmp_path, code=2)
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: algo=ppo needs [^\n]*pip install rl-games[^\n]*\n", error)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.num_minibatches=3", "must cut the 32 samples"),
        ("algo.num_minibatches=32", "parts of at least 2"),
        ("algo.num_minibatches=0", "at least 1"),
        ("algo.lr=0", r"algo\.lr=0\.0 must be greater than 0"),
        ("algo.tau=1.5", r"algo\.tau=1\.5 must lie between 0 and 1"),
        ("algo.lr_schedule=cosine", r"Unknown algo\.lr_schedule 'cosine'"),
        ("algo.activation=rely", "Did you mean 'relu'"),
        ("algo.critic_coef=-1", "must not be negative"),
        ("algo.hidden=[]", "at least one width"),
        ("algo.epochs=2", "Unknown key 'algo.epochs'"),
    ],
)
def test_bad_values_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        compose([*PPO, override])


# What rl_games gets from environments -----------------------------------------------------------


def learner(env, **changed):
    config = PpoConfig(**{"name": "ppo", "horizon": 8, "hidden": [32], **changed})
    return PpoLearner(config, env, (1, 2), 100)


def learn(ppo, state):
    """An iteration; returns the state to continue from, the steps, and the metrics."""
    steps = []
    state, _ = ppo.collect(state, lambda action, step: steps.append(step))
    return state, steps, ppo.update(0.0, 0, all_valid=True)


def test_time_outs_are_the_truncated_steps_and_observations_those_after_the_reset():
    ours, theirs = ToyEnv(), ToyEnv()
    env = RlGamesEnv(theirs)
    assert torch.equal(ours.reset(), env.reset()["obs"])
    action = torch.full((6, 6), 0.5)
    seen = []
    for _ in range(6):
        step = ours.step(action)
        obs, reward, done, infos = env.step(action)
        assert torch.equal(obs["obs"], step.state)
        assert torch.equal(reward, step.reward)
        assert torch.equal(done, step.terminated | step.truncated)
        assert torch.equal(infos["time_outs"], step.truncated)
        seen += [step.truncated.any(), step.terminated.any()]
    assert sum(map(bool, seen)) >= 2


def test_a_step_that_terminates_is_no_time_out_even_at_the_time_limit(monkeypatch):
    both = torch.ones(6, dtype=torch.bool)
    step = ToyEnv.step
    monkeypatch.setattr(
        ToyEnv,
        "step",
        lambda *given: step(*given)._replace(
            terminated=torch.tensor([True, False] * 3), truncated=both
        ),
    )
    env = RlGamesEnv(ToyEnv())
    env.reset()
    _, _, done, infos = env.step(torch.zeros(6, 6))
    assert done.all()
    assert infos["time_outs"].tolist() == [False, True] * 3


@pytest.mark.parametrize("bootstrap", [True, False])
def test_time_outs_are_bootstrapped_and_terminations_are_not(bootstrap):
    env = ToyEnv()
    ppo = learner(env, value_bootstrap=bootstrap, gamma=0.5, reward_scale=0.25)
    _, steps, _ = learn(ppo, env.reset())
    stored = ppo.agent.experience_buffer.tensor_dict
    truncated = torch.stack([step.truncated for step in steps])
    terminated = torch.stack([step.terminated for step in steps])
    assert truncated.any() and terminated.any()
    expected = 0.25 * torch.stack([step.reward for step in steps])
    if bootstrap:
        expected = expected + 0.5 * stored["values"].squeeze(-1) * truncated
    assert torch.allclose(stored["rewards"].squeeze(-1), expected)


def test_actions_stay_within_the_bounds_and_global_random_numbers_untouched():
    env, taken = ToyEnv(), []
    original = env.step
    env.step = lambda action: (taken.append(action), original(action))[1]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ppo = learner(env)
    state, _, found = learn(ppo, env.reset())
    ppo.act(state)
    assert torch.equal(torch.get_rng_state(), before)
    actions = torch.stack(taken)
    assert actions.abs().max() == 1.0  # of a standard normal some are cut
    assert actions.std() > 0.5
    assert all(value.isfinite() for value in found.values())


def test_the_adaptive_schedule_moves_the_learning_rate_and_others_do_not():
    rates = {}
    for schedule in ("adaptive", "linear", "constant"):
        env = ToyEnv()
        ppo = learner(env, lr_schedule=schedule, kl_threshold=10.0)
        learn(ppo, env.reset())
        rates[schedule] = ppo.learning_rate
    assert rates["adaptive"] == pytest.approx(5e-4 * 1.5**5)
    assert rates["linear"] == pytest.approx(5e-4 * 0.99, rel=1e-3)
    assert rates["constant"] == 5e-4


@pytest.mark.slow
def test_it_learns():
    env = ToyEnv(32)
    ppo = learner(env, horizon=10, gamma=0.9)

    def score():
        state, total = env.reset(), 0.0
        for _ in range(10):
            step = env.step(ppo.act(state))
            state, total = step.state, total + step.reward.mean().item()
        return total / 10

    first = score()
    state = env.reset()
    for _ in range(40):
        state, _, _ = learn(ppo, state)
    assert score() > first + 0.05


def test_rl_games_own_player_reads_a_checkpoint(runs, capsys):
    from rl_games.algos_torch.players import PpoPlayerContinuous
    from rl_games.common.algo_observer import AlgoObserver

    from madpo_isaac import tasks

    env = tasks.make("HalfCheetah-2x3", 4, num_threads=1, episode_length=12)
    config = PpoConfig(name="ppo", horizon=8, hidden=[16])
    params = rl_games_params(config, env, 1, AlgoObserver())
    params["config"].update(device_name="cpu", vec_env=None)
    player = PpoPlayerContinuous(params)
    player.has_batch_dimension = True
    player.restore(str(runs / "ppo" / "nn" / "last.pth"))
    ours = PpoLearner(config, env, (1, 2), 1)
    ours.load_policy(weights(runs / "ppo"))
    state = env.reset()
    assert torch.equal(player.get_action(state, is_deterministic=True), ours.act(state))
