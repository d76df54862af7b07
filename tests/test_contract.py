"""Environments that do not keep the contract are refused in one line, before they do harm."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_run import ONCE
from toy import ToyEnv, settings

from madpo_isaac import tasks
from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.commands.train import main
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation import stats
from madpo_isaac.evaluation.evaluate import evaluate, summary
from madpo_isaac.evaluation.film import film
from madpo_isaac.tasks.contract import (
    check_agents,
    check_observations,
    check_stagger,
    check_state,
    check_step,
)
from madpo_isaac.training.on_policy import OnPolicyLearner


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
        ({"action_slice": slice(3, 0, -2)}, r"slice\(3, 0, -2\).*and no negative step"),
        ({"action_slice": slice(0, 0)}, "of ToyEnv chooses no action"),
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
        ({"shaping": torch.zeros(6, 1)}, r"shaping of ToyEnv is \(6, 1\) .*must be \(6,\)"),
        ({"log": {"success": torch.zeros(6), "count": torch.ones(6)}}, "'count'.* rename it"),
        ({"log": {"success": torch.zeros(6), "return": torch.ones(6)}}, "'return'.* rename it"),
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


def test_there_is_one_observation_for_each_agent(monkeypatch):
    env = ToyEnv()
    good = env.observations(env.reset())
    monkeypatch.setattr(env, "observations", lambda state: good[:2])
    with pytest.raises(UserError, match="ToyEnv has 3 agents and 2 observations"):
        check_observations(env, env.reset())
    monkeypatch.setattr(env, "observations", lambda state: [*good[:2], [0.0]])
    with pytest.raises(UserError, match="observation of thumb of ToyEnv is a list, not a tensor"):
        check_observations(env, env.reset())


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


@pytest.mark.parametrize(
    ("entry", "found"),
    [(torch.zeros(6, 2), r"\(6, 2\)"), (torch.zeros(()), r"\(\)"), (0.5, "float")],
)
def test_what_is_logged_is_one_number_an_environment(entry, found):
    env = ToyEnv()
    env.reset()
    step = env.step(torch.zeros(6, 6))
    step.log["odd"] = entry
    with pytest.raises(UserError, match=rf"log\['odd'\] of ToyEnv is {found}; .*tensor \(6,\)"):
        check_step(env, step)


@pytest.mark.parametrize("name", ["", "../../escaped", "a/b", ".hidden", "a b"])
def test_agents_are_called_as_files_can_be(name):
    with pytest.raises(UserError, match=r"agent name '.*' of ToyEnv must be letters"):
        check_agents(with_agents(name=name))


@pytest.mark.parametrize("columns", [slice(4, None), slice(-2, None), slice(0, -1), [4], 4])
def test_columns_are_a_slice_with_an_end_or_a_tensor(columns):
    with pytest.raises(UserError, match=r"action_slice=.* of agent 'thumb' of ToyEnv must be"):
        check_agents(with_agents(action_slice=columns))


def one_bad_number(monkeypatch, name, worth):
    """Lets the toys give a reward or a state that is not finite, in their third step."""
    step, count = ToyEnv.step, iter(range(10**6))

    def odd(self, action):
        found = step(self, action)
        if next(count) == 2:
            getattr(found, name).view(-1)[0] = worth
        return found

    monkeypatch.setattr(ToyEnv, "step", odd)


@pytest.mark.parametrize("worth", [float("nan"), float("inf")])
def test_returns_that_are_not_finite_are_refused(monkeypatch, worth):
    one_bad_number(monkeypatch, "reward", worth)
    with pytest.raises(UserError, match="ToyEnv gave rewards that are not finite in 1 episodes"):
        evaluate(lambda state: torch.zeros(6, 6), ToyEnv())


@pytest.mark.parametrize("worth", [3.0, 0.5, float("nan")])
def test_success_is_0_or_1_when_an_episode_ends(monkeypatch, worth):
    step = ToyEnv.step

    def odd(self, action):
        found = step(self, action)
        return found._replace(log={**found.log, "success": torch.full((6,), worth)})

    monkeypatch.setattr(ToyEnv, "step", odd)
    with pytest.raises(UserError, match=rf"log\['success'\] of ToyEnv must be 0 or 1 .*{worth:g}"):
        evaluate(lambda state: torch.zeros(6, 6), ToyEnv())


def test_episodes_longer_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr(ToyEnv, "max_episode_length", 5)
    env = ToyEnv()
    env.max_episode_length = 2  # as an instance says; the class truncates after five
    step = env.step
    monkeypatch.setattr(
        env,
        "step",
        lambda action: step(action)._replace(
            truncated=torch.zeros(6, dtype=torch.bool), terminated=torch.zeros(6, dtype=torch.bool)
        ),
    )
    with pytest.raises(UserError, match="ToyEnv go on after max_episode_length=2 steps"):
        evaluate(lambda state: torch.zeros(6, 6), env)


@pytest.mark.parametrize("name", ["reward", "state", "final_state"])
@pytest.mark.parametrize("worth", [float("nan"), -float("inf")])
@pytest.mark.parametrize("algo", ["happo", "ppo"])
def test_a_number_that_is_not_finite_ends_the_run_with_one_line(
    tmp_path, monkeypatch, capsys, name, worth, algo
):
    world = type(tasks.make("HalfCheetah-2x3", num_envs=1, num_threads=1))
    step, count = world.step, iter(range(100))

    def odd(self, action):
        found = step(self, action)
        if next(count) == 2:
            value = getattr(found, name).clone()
            value.view(-1)[0] = worth
            found = found._replace(**{name: value}, truncated=torch.tensor([True, False]))
        return found

    monkeypatch.setattr(world, "step", odd)
    small = ["num_envs=2", "algo.horizon=4", "algo.hidden=[8]", "num_threads=1"]
    small += ["algo.num_minibatches=1", "max_iterations=1"]
    assert main(["task=HalfCheetah-2x3", f"algo={algo}", *small, f"runs_dir={tmp_path}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "gave a state or reward that is not finite in iteration 1" in error


def test_a_state_that_the_step_writes_into_is_kept_as_it_was(monkeypatch):
    """Environments may return one tensor again and again; the rollout has what was acted on."""
    env, other = ToyEnv(), ToyEnv()
    buffer, reset, step = torch.zeros(6, 6), env.reset, env.step

    def again(state):
        return buffer.copy_(state)

    monkeypatch.setattr(env, "reset", lambda: again(reset()))
    monkeypatch.setattr(env, "step", lambda a: (s := step(a))._replace(state=again(s.state)))
    config, rollouts = dataclasses.replace(settings(ALGO_SCHEMAS["happo"]), name="happo"), []
    for each in (env, other):
        learner = OnPolicyLearner(config, each, (1, 2))
        learner.collect(each.reset(), lambda action, step: None)
        rollouts.append(learner.rollout)
    assert torch.equal(rollouts[0].state, rollouts[1].state)
    assert torch.equal(rollouts[0].action, rollouts[1].action)


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


def changing(monkeypatch, **later):
    """Lets the toy's steps after the first one differ by ``later``."""
    step, taken = ToyEnv.step, []

    def changed(env, action):
        result = step(env, action)
        taken.append(1)
        return result._replace(**later) if len(taken) > 1 else result

    monkeypatch.setattr(ToyEnv, "step", changed)


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"log": {"success": torch.zeros(6)}}, r"it had distance, success, and then success\."),
        ({"reward": torch.zeros(6, 1)}, r"reward of ToyEnv is \(6, 1\)"),
        ({"reward": torch.zeros(())}, r"reward of ToyEnv is \(\)"),
    ],
)
def test_later_steps_are_like_the_first(monkeypatch, later, message):
    changing(monkeypatch, **later)
    env = ToyEnv()
    with pytest.raises(UserError, match=message):
        evaluate(lambda state: torch.zeros(6, 6), env, 1)


def test_a_log_may_be_one_dictionary_in_any_order(monkeypatch):
    """Entries are told apart by their names; one that comes later is found."""
    step, log, taken = ToyEnv.step, {}, []

    def reused(env, action):
        result = step(env, action)
        taken.append(1)
        log.clear()
        names = ("success", "a", "b")[:: -1 if len(taken) % 2 else 1]
        log.update({name: torch.full((6,), {"a": 1.0, "b": 2.0}.get(name, 0.0)) for name in names})
        return result._replace(log=log)

    monkeypatch.setattr(ToyEnv, "step", reused)
    readings = evaluate(lambda state: torch.zeros(6, 6), ToyEnv(), 1).readings
    assert {name: set(values.tolist()) for name, values in readings.items()} == {
        "a": {1.0},
        "b": {2.0},
    }


def test_a_step_is_a_step(monkeypatch):
    step = ToyEnv.step
    monkeypatch.setattr(ToyEnv, "step", lambda *given: tuple(step(*given)))
    with pytest.raises(UserError, match=r"step\(\) of ToyEnv must return a Step, not tuple"):
        evaluate(lambda state: torch.zeros(6, 6), ToyEnv(), 1)


def test_columns_say_what_an_agent_observes():
    env = with_agents(columns=torch.tensor([0]), obs_dim=1, observe=lambda state: state[:, 1:2])
    with pytest.raises(UserError, match="is not what its columns of the joint state hold"):
        check_observations(env, torch.arange(36.0).view(6, 6))
    env = with_agents(columns=torch.tensor([1]), obs_dim=1, observe=lambda state: state[:, 1:2])
    check_observations(env, torch.arange(36.0).view(6, 6))


def test_an_episode_that_ends_in_both_ways_counts_as_terminated(monkeypatch):
    both = torch.ones(6, dtype=torch.bool)
    step = ToyEnv.step
    monkeypatch.setattr(
        ToyEnv, "step", lambda *given: step(*given)._replace(terminated=both, truncated=both)
    )
    episodes = evaluate(lambda state: torch.zeros(6, 6), ToyEnv(), 1)
    causes = {name: int(ends.sum()) for name, ends in episodes.causes.items()}
    assert causes == {"terminated": 6, "time_limit": 0, "diverged": 0}


def test_dynamics_with_gradients_leave_no_graph(monkeypatch):
    gain = torch.ones((), requires_grad=True)
    step = ToyEnv.step

    def graph(env, action):
        result = step(env, action)
        return result._replace(reward=result.reward * gain, state=result.state * gain)

    monkeypatch.setattr(ToyEnv, "step", graph)
    env = ToyEnv()
    learner = OnPolicyLearner(settings(name="happo"), env, (1, 2))
    state = env.reset()
    for _ in range(2):
        state = learner.collect(state, lambda action, result: None).state
        learner.update(0.0, 0, all_valid=True)
    assert not evaluate(learner.policy(), env, 1).returns.requires_grad


def test_staggered_episodes_need_a_generator():
    env = ToyEnv()
    env.episode_step = torch.zeros(6, dtype=torch.long)
    if hasattr(env, "generator"):
        del env.generator
    with pytest.raises(UserError, match="ToyEnv has episode_step, so it needs a generator"):
        check_stagger(env)
