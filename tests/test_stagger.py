"""First episodes that are cut after random shares of the time limit."""

import json

import pytest
import torch
from tiny_run import ONCE
from toy import CPU, ToyEnv

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.env import Step
from madpo_isaac.runs.metrics import EpisodeTracker, episodes, to_numbers

SETTINGS = {"ShadowHandOver": {"episode_length": 6}, "HalfCheetah-2x3": {"episode_length": 6}}


def make(task, seed=1, num_envs=64):
    return tasks.make(task, num_envs, seed=seed, num_threads=1, **SETTINGS[task])


@pytest.mark.parametrize("task", SETTINGS)
def test_first_episodes_end_at_every_step(task):
    env = make(task)
    env.reset()
    partial = env.stagger()
    ages = env.episode_step.clone()
    assert set(ages.tolist()) == set(range(6))
    assert torch.equal(partial, ages > 0)
    action = torch.zeros(env.num_envs, env.action_dim)
    ended = [env.step(action).truncated for _ in range(6)]
    for k, truncated in enumerate(ended, start=1):
        assert torch.equal(truncated, ages + k == 6)
    for k in range(1, 7):  # and from then on, an episode is whole
        assert torch.equal(env.step(action).truncated, ages + k == 6)


def test_ages_are_those_of_the_seed():
    ages = []
    for seed in (1, 1, 2):
        env = make("HalfCheetah-2x3", seed)
        env.reset()
        env.stagger()
        ages.append(env.episode_step.tolist())
    assert ages[0] == ages[1] != ages[2]


def test_an_environment_that_keeps_its_count_is_left_alone():
    env = ToyEnv()
    env.reset()
    assert not env.stagger().any()


def test_a_partial_episode_is_not_counted():
    tracker = EpisodeTracker(2, CPU)
    tracker.partial |= torch.tensor([True, False])
    state, none = torch.zeros(2, 1), torch.zeros(2, dtype=torch.bool)
    for reward in (1.0, 10.0):
        log = {"success": torch.tensor([1.0, 0.0])}
        tracker.add(Step(state, torch.full((2,), reward), none, ~none, state, log))
        if reward == 1.0:
            saved = tracker.state_dict()
            assert not saved["partial"].any()
    found = episodes(*to_numbers(tracker.take()))
    assert (found["episodes"], found["episode_return"]) == (3, 7.0)
    assert found["success_rate"] == pytest.approx(1 / 3)


def test_a_run_counts_whole_episodes_only(tmp_path):
    """6 steps an iteration: in the first one only episodes of age 0 end, then all do."""
    argv = ["task=ShadowHandOver", "algo=happo", "num_envs=32", "algo.hidden=[8]", "num_threads=1"]
    argv += ["task.episode_length=6", "algo.horizon=6", "max_iterations=2", f"runs_dir={tmp_path}"]
    argv += ONCE
    lines = {}
    for stagger in (True, False):
        name = f"run_{stagger}"
        assert main([*argv, f"experiment={name}", f"stagger_episodes={stagger}"]) == 0
        text = (tmp_path / name / "metrics.jsonl").read_text()
        lines[stagger] = [json.loads(line) for line in text.splitlines()]
    assert [line["episodes"] for line in lines[False]] == [32, 32]
    first, second = (line["episodes"] for line in lines[True])
    assert first < 20 and second == 32
    assert all(line["episode_length"] in (6.0, None) for line in lines[True])
