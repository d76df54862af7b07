"""Options of all algorithms: normalized observations, scaled rewards, std of a continued run."""

import numpy as np
import pytest
import torch
from toy import ACTION_COLUMNS, CPU, STATE_COLUMNS, ToyEnv, build, collect, settings, train

from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS, HAPPO
from madpo_isaac.models import Moments
from madpo_isaac.models.actor import log_prob
from madpo_isaac.models.moments import RowMoments


def fresh(name="happo", seed=1, **changed):
    return build(ALGORITHMS[name], settings(ALGO_SCHEMAS[name], **changed), ToyEnv(), seed)


# Moments ----------------------------------------------------------------------------------------


def test_moments_are_those_of_all_rows_and_one_to_start_with():
    """The row to start with has mean 0, and 1 is added to the squared deviations."""
    rng = np.random.default_rng(0)
    batches = [rng.normal(3.0, s, (n, 4)) for n, s in ((7, 1.0), (1, 2.0), (30, 0.1))]
    moments = Moments.initial(4, CPU)
    for batch in batches:
        moments = moments.merged(RowMoments.of(torch.from_numpy(batch).float()))
    rows = np.concatenate((np.zeros((1, 4)), *batches))
    mean, square = rows.mean(0), ((rows - rows.mean(0)) ** 2).sum(0) + 1.0
    assert moments.count.item() == 39
    assert moments.mean.dtype == moments.square.dtype == torch.float64
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(moments.square, square, rtol=1e-5)
    x = rng.normal(3.0, 10.0, (50, 4))
    found = moments.normalize(torch.from_numpy(x).float())
    expected = np.clip((x - mean) / np.sqrt(square / 39 + 1e-5), -5.0, 5.0)
    assert np.abs(expected).max() == 5.0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_moments_stay_exact_far_from_zero():
    moments = Moments.initial(1, CPU)
    generator = torch.Generator().manual_seed(0)
    rows = 1000.0 + torch.randn(200, 500, 1, generator=generator)
    for batch in rows:
        moments = moments.merged(RowMoments.of(batch))
    exact = np.append(rows.double().flatten().numpy(), 0.0)
    assert moments.mean.item() == pytest.approx(exact.mean(), rel=1e-7)
    square = ((exact - exact.mean()) ** 2).sum() + 1.0
    assert moments.square.item() == pytest.approx(square, rel=1e-5)


def test_a_constant_observation_becomes_zero():
    moments = Moments.initial(1, CPU)
    for _ in range(50):
        moments = moments.merged(RowMoments.of(torch.zeros(100, 1)))
    assert not moments.normalize(torch.zeros(3, 1)).any()


# Normalized observations ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["happo", "madpo"])
def test_density_at_collection_is_that_at_the_first_step(name):
    algo, env = fresh(name, input_norm="both", actor_lr=1e-2), ToyEnv()
    state = env.reset()
    for _ in range(3):
        rollout, state = collect(algo, env, state)
        batch = algo._prepare(rollout)
        for p in range(3):
            view = algo.view(batch, p, torch.ones(72))
            mean, std = algo.evaluate(p, view.obs)
            found = log_prob(mean, std, batch.action[:, ACTION_COLUMNS[p]])
            torch.testing.assert_close(found, view.old_log_prob, rtol=1e-4, atol=1e-4)
        algo.update(rollout)


def test_moments_are_frozen_in_an_update_and_take_its_batch_in_afterwards():
    class Recorded(HAPPO):
        def begin_agent(self, view):
            self.seen.append((list(self.actors.moments), list(self.critic.moments)))

    algo = build(Recorded, settings(input_norm="both"), ToyEnv())
    algo.seen, env = [], ToyEnv()
    before = list(algo.actors.moments), list(algo.critic.moments)
    rollout, _ = collect(algo, env, env.reset())
    frozen = algo.actors.freeze()
    observations = env.observations(rollout.state[0])
    kept = frozen.distribution(observations)[0]
    algo.update(rollout)
    for seen in algo.seen:
        assert all(a is b for a, b in zip(seen[0] + seen[1], before[0] + before[1], strict=True))
    states = rollout.state.flatten(0, 1)
    for moments, columns in zip(algo.actors.moments, STATE_COLUMNS, strict=True):
        rows = torch.cat((states.new_zeros(1, len(columns)), states[:, columns])).double()
        torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    assert algo.critic.moments[0].count.item() == 73
    assert torch.equal(frozen.distribution(observations)[0], kept)


def test_the_critic_sees_normalized_states():
    plain, algo = fresh(), fresh(input_norm="both")
    seen = RowMoments.of(4.0 + 3.0 * torch.randn(500, 6))
    algo.critic.moments = [Moments.initial(6, CPU).merged(seen)]
    state = 4.0 + 3.0 * torch.randn(20, 6)
    expected = plain.critic.values(algo.critic.moments[0].normalize(state), 7)
    torch.testing.assert_close(algo.critic.values(state, 7), expected)


@pytest.mark.parametrize("name", ["happo", "madpo"])
def test_training_with_every_option_continues_exactly(name):
    options = {"input_norm": "both", "reward_scale": 0.5, "actor_lr": 2e-3}
    algo, env = fresh(name, **options), ToyEnv()
    rollout, state = collect(algo, env, env.reset())
    algo.update(rollout)
    other, twin = fresh(name, seed=77, **options), ToyEnv()
    other.load_state_dict(algo.state_dict())
    twin.load_state_dict(env.state_dict())
    finals = []
    for learner, world in ((algo, env), (other, twin)):
        rollout, last = collect(learner, world, state)
        learner.update(rollout)
        finals.append((learner.actors.stack.flat, learner.critic.stack.flat, last))
    assert all(torch.equal(a, b) for a, b in zip(*finals, strict=True))


def test_a_loaded_policy_plays_with_its_moments():
    algo = fresh(input_norm="both")
    train(algo, ToyEnv(), 2)
    other = fresh(input_norm="both", seed=2)
    other.load_policy(algo.state_dict())
    observations = ToyEnv().observations(torch.randn(6, 6))
    policies = (learner.actors.freeze() for learner in (algo, other))
    first, second = (policy.distribution(observations)[0] for policy in policies)
    assert torch.equal(first, second)


def test_older_states_have_no_moments():
    algo = fresh()
    state = algo.state_dict()
    del state["moments"]
    fresh(seed=2).load_state_dict(state)


# Rewards ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_reward_scale_multiplies_what_is_learned_from(name):
    scaled, plain = fresh(name, reward_scale=0.25), fresh(name)
    rollout, _ = collect(plain, ToyEnv(), ToyEnv().reset())
    paid = rollout.reward.clone()
    metrics = scaled.update(rollout)
    assert torch.equal(rollout.reward, paid)
    rollout.reward *= 0.25
    expected = plain.update(rollout)
    assert torch.equal(scaled.actors.stack.flat, plain.actors.stack.flat)
    assert torch.equal(scaled.critic.stack.flat, plain.critic.stack.flat)
    assert all(torch.equal(metrics[key], value) for key, value in expected.items())


# The standard deviation of a continued run ------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_std_on_restore(name):
    algo = fresh(name, actor_lr=1e-2)
    train(algo, ToyEnv(), 2)
    trained, start = algo.actors.freeze().std, fresh(name).actors.freeze().std
    assert (trained - start).abs().min() > 1e-5
    for option, expected in (("keep", trained), ("initial", start)):
        other = fresh(name, seed=5, std_on_restore=option)
        other.load_state_dict(algo.state_dict())
        assert torch.equal(other.actors.freeze().std, expected)
        for key, value in other.actors.stack.stacked.items():
            if key != "log_std":
                assert torch.equal(value, algo.actors.stack.stacked[key])
        other.load_policy(algo.state_dict())  # playing keeps it
        assert torch.equal(other.actors.freeze().std, trained)
