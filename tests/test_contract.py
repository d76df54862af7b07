"""Environments that do not keep the contract are refused in one line, before they do harm."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_run import ONCE
from toy import ToyEnv

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation import stats
from madpo_isaac.evaluation.evaluate import evaluate, summary
from madpo_isaac.evaluation.film import film
from madpo_isaac.tasks.contract import check_agents, check_observations, check_state


def with_agents(**changed):
    """A toy whose last agent differs by ``changed``."""
    env = ToyEnv()
    *others, last = env.agents
    env.agents = (*others, dataclasses.replace(last, **changed))
    return env


def test_the_toy_is_as_it_should_be():
    check_agents(ToyEnv())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": ToyEnv().agents[0].name}, "ToyEnv must have different names: "),
        ({"action_slice": slice(0, 1)}, "each of the 6 columns of the joint action once"),
        ({"action_slice": torch.tensor([7])}, "each of the 6 columns of the joint action once"),
    ],
)
def test_agents_have_own_names_and_share_out_the_actions(changed, message):
    with pytest.raises(UserError, match=message):
        check_agents(with_agents(**changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": torch.zeros(6, dtype=torch.float64)}, r"reward of ToyEnv is \(6,\) .*float64"),
        ({"reward": torch.zeros(6, 1)}, r"reward of ToyEnv is \(6, 1\) .*must be \(6,\)"),
        ({"state": torch.zeros(6, 6, dtype=torch.float64)}, r"^state of ToyEnv .*float64"),
        ({"final_state": torch.zeros(6, 5)}, r"final_state of ToyEnv is \(6, 5\)"),
        ({"terminated": torch.zeros(6)}, r"terminated of ToyEnv .*must be \(6,\) torch\.bool"),
        ({"log": {"distance": torch.zeros(6)}}, "must have 'success'"),
    ],
)
def test_a_step_has_the_right_shapes_and_types(monkeypatch, changed, message):
    step = ToyEnv.step
    monkeypatch.setattr(ToyEnv, "step", lambda *given: step(*given)._replace(**changed))
    with pytest.raises(UserError, match=message):
        evaluate(lambda state: torch.zeros(6, 6), ToyEnv())


def test_training_ends_with_one_line_at_the_first_step(tmp_path, monkeypatch, capsys):
    world = type(tasks.make("HalfCheetah-2x3", num_envs=1, num_threads=1))
    step = world.step

    def doubled(self, action):
        found = step(self, action)
        return found._replace(reward=found.reward.double())

    monkeypatch.setattr(world, "step", doubled)
    small = ["num_envs=2", "algo.horizon=4", "algo.hidden=[8]", "num_threads=1", *ONCE]
    assert main(["task=HalfCheetah-2x3", *small, f"runs_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert (
        error.count("\n") == 1 and "reward of " in error and "must be (2,) torch.float32" in error
    )


def test_states_are_float32():
    with pytest.raises(UserError, match=r"it must be \(6, 6\) torch\.float32"):
        check_state(ToyEnv(), torch.zeros(6, 6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (lambda state: state[:, :2].double(), r"observation of \w+ of ToyEnv is .*float64"),
        (lambda state: state[:, :1], r"of ToyEnv is \(6, 1\) .*must be \(6, \d\)"),
    ],
)
def test_every_agent_observes_float32_of_its_size(monkeypatch, seen, message):
    env = ToyEnv()
    good = env.observations(env.reset())
    monkeypatch.setattr(env, "observations", lambda state: [*good[:-1], seen(state)])
    with pytest.raises(UserError, match=message):
        check_observations(env, env.reset())


@pytest.mark.parametrize("episodes", [0, -1, 1.5, None])
def test_at_least_one_episode_is_played(episodes):
    with pytest.raises(UserError, match=r"episodes=.* must be a whole number of at least 1"):
        evaluate(lambda state: torch.zeros(6, 6), ToyEnv(), episodes)


@pytest.mark.parametrize("numbers", [{"steps": 0}, {"envs": 0}, {"steps": 2.5}])
def test_a_film_has_a_step_and_an_environment(tmp_path, numbers):
    with pytest.raises(UserError, match="must be a whole number of at least 1"):
        film(lambda state: torch.zeros(6, 6), ToyEnv(), tmp_path / "film.gif", **numbers)


def test_one_episode_has_no_interval():
    scores = summary(evaluate(lambda state: torch.zeros(1, 6), ToyEnv(1)))
    assert scores["episodes"] == 1 and scores["return"]["mean_interval"] is None
    low, high = stats.bootstrap(np.array([1.0, 3.0]), lambda sample: sample.mean(-1))
    assert (low, high) == (1.0, 3.0)
