"""The shared on-policy update and HAPPO against float64 oracles written in NumPy."""

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from toy import (
    ACTION_COLUMNS,
    ToyEnv,
    build,
    check_it_continues,
    check_it_learns,
    collect,
    log_density,
    network,
    parameters,
    policy,
    settings,
    train,
)

from madpo_isaac import tasks
from madpo_isaac.algos import HAPPO
from madpo_isaac.algos.batch import AgentView, Batch, normalized
from madpo_isaac.system.distributed import ALONE


class Recorded(HAPPO):
    """Keeps what its hooks were shown."""

    def begin_update(self, batch):
        self.batch, self.order = batch, []
        self.before = [parameters(self, p) for p in range(3)]
        self.after, self.views = {}, {}

    def begin_agent(self, view):
        self.order.append(view.index)
        self.views[view.index] = view
        for p in range(3):  # the others stand still
            expected = self.after.get(p, self.before[p])
            assert all(np.array_equal(expected[k], v) for k, v in parameters(self, p).items())

    def agent_updated(self, view, mean, std):
        self.after[view.index] = parameters(self, view.index)
        return {}


def fresh(kind=HAPPO, seed=1, **changed):
    return build(kind, settings(**changed), ToyEnv(), seed)


def trained(kind=HAPPO, iterations=1, seed=1, **changed):
    algo, env = fresh(kind, seed, **changed), ToyEnv()
    history = train(algo, env, iterations)
    return algo, history


# The sequence of agents -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_preceding_ratio_is_the_product_over_the_agents_already_updated(seed):
    """Densities from the parameters before and after, of another implementation."""
    algo, history = trained(Recorded, seed=seed, actor_lr=5e-3, agent_order="random")
    state, action = algo.batch.state, algo.batch.action
    assert sorted(algo.order) == [0, 1, 2]
    ratio = np.ones(len(state))
    for p in algo.order:
        found = algo.views[p].weighted_advantage.numpy()
        if p == algo.order[0]:
            assert np.array_equal(found, algo.batch.advantage.numpy())
        expected = ratio * algo.batch.advantage.double().numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-6)
        mean = history[0][f"agent{p}/preceding_ratio"].item()
        assert mean == pytest.approx(ratio.mean(), rel=1e-4)
        change = log_density(p, algo.after[p], state, action)
        change -= log_density(p, algo.before[p], state, action)
        ratio = ratio * np.exp(change)
    assert np.abs(ratio - 1.0).max() > 0.05


def test_agents_see_their_own_columns():
    algo, _ = trained(Recorded)
    for p, view in algo.views.items():
        seen = algo.agents[p].observe(algo.batch.state)
        seen = (seen - seen.mean(1, keepdim=True)) / (
            seen.var(1, correction=0, keepdim=True) + 1e-5
        ).sqrt()
        torch.testing.assert_close(view.obs, seen)
        assert torch.equal(view.action, algo.batch.action[:, ACTION_COLUMNS[p]])
        expected = log_density(p, algo.before[p], algo.batch.state, algo.batch.action)
        np.testing.assert_allclose(view.old_log_prob.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_random_order_is_a_permutation_from_its_own_generator():
    algo, same, other = fresh(seed=3), fresh(seed=3), fresh(seed=4)
    drawn = algo.generator.get_state()
    orders = [tuple(algo.agent_order()) for _ in range(200)]
    assert torch.equal(algo.generator.get_state(), drawn)
    counts = [orders.count(order) for order in itertools.permutations(range(3))]
    assert sum(counts) == 200
    assert stats.chisquare(counts).pvalue > 1e-3
    # Neither sampled actions nor minibatches move it.
    torch.randn(5, generator=same.generator)
    assert orders == [tuple(same.agent_order()) for _ in range(200)]
    assert orders != [tuple(other.agent_order()) for _ in range(200)]


def test_default_order_is_by_index():
    algo = fresh(agent_order="default")
    assert [algo.agent_order() for _ in range(3)] == [[0, 1, 2]] * 3


def test_order_spec_takes_one_role_after_the_other():
    env = ToyEnv()
    roles = ("thigh", "foot", "thigh")
    env.agents = [replace(a, role=role) for a, role in zip(env.agents, roles, strict=True)]
    algo = build(HAPPO, settings(agent_order="spec"), env)
    assert [list(algo.agent_order()) for _ in range(3)] == [[0, 2, 1]] * 3


def test_order_spec_of_a_robot_goes_outwards_from_the_trunk():
    """HalfCheetah-6x1: thighs, shins, feet, each the back leg's first."""
    env = tasks.make("HalfCheetah-6x1", num_envs=1)
    algo = build(HAPPO, settings(agent_order="spec"), env)
    assert list(algo.agent_order()) == [0, 3, 1, 4, 2, 5]


# The actor's loss -------------------------------------------------------------------------------


def view_of(p, rows=40, seed=0):
    """A made-up view whose ratios lie inside and outside the clip range, on both sides."""
    algo = fresh(entropy_coef=0.03, clip=0.2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in algo.actors.stack.nets[p].values():
            value += 0.3 * torch.randn(value.shape, generator=generator)
    state = torch.randn(rows, 6, generator=generator)
    action = 0.5 * torch.randn(rows, 6, generator=generator)
    shift = 0.4 * torch.randn(rows, generator=generator)
    density = torch.from_numpy(log_density(p, parameters(algo, p), state, action)).float()
    agent = algo.agents[p]
    view = AgentView(
        index=p,
        clip=0.2,
        obs=algo.actors.inputs(p, agent.observe(state)),
        action=action[:, agent.action_slice],
        old_log_prob=density + shift,
        weighted_advantage=2.0 * torch.randn(rows, generator=generator),
    )
    return algo, view, state, action


def actor_loss(p, net, view, state, action):
    """-mean(min(r M, clip(r, 0.8, 1.2) M)) - 0.03 H in float64, and the share clipped."""
    change = log_density(p, net, state, action) - view.old_log_prob.double().numpy()
    ratio, advantage = np.exp(change), view.weighted_advantage.double().numpy()
    bounds = np.where(advantage > 0, 1.2, 0.8)
    # The minimum of both is the ratio up to the bound in the direction that pays.
    pays = np.where(advantage > 0, np.minimum(ratio, bounds), np.maximum(ratio, bounds))
    entropy = stats.norm.entropy(scale=policy(p, net, state)[1]).sum()
    return -(pays * advantage).mean() - 0.03 * entropy, np.mean((ratio < 0.8) | (ratio > 1.2))


@pytest.mark.parametrize("p", range(3))
def test_actor_loss_and_gradient_against_finite_differences(p):
    algo, view, state, action = view_of(p)
    rows = torch.arange(len(state))
    loss, stats = algo.policy_loss(view, rows, len(rows))
    loss.backward()
    outside = stats["clip_fraction"].item()
    parts = stats["surrogate"] + stats["bonus"] + stats["entropy_bonus"]
    assert -parts.item() == pytest.approx(loss.item())
    loss = loss.item()
    net = parameters(algo, p)
    expected, clipped = actor_loss(p, net, view, state, action)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert outside == pytest.approx(clipped)
    assert 0.2 < clipped < 0.9
    for name, value in net.items():
        grad = algo.actors.stack.nets[p][name].grad
        for index in np.ndindex(value.shape):
            kept, sides = value[index], []
            for step in (1e-6, -1e-6):
                value[index] = kept + step
                sides.append(actor_loss(p, net, view, state, action)[0])
            value[index] = kept
            slope = (sides[0] - sides[1]) / 2e-6
            assert grad[index].item() == pytest.approx(slope, rel=1e-3, abs=2e-5), name


def test_entropy_sum_weighs_it_by_the_rows_of_the_minibatch():
    """The slip of the released code: 30 of 40 rows make the bonus 30 times as large."""
    losses, gradients = {}, {}
    for kind in ("mean", "sum"):
        algo, view, state, _ = view_of(1)
        algo.config.entropy = kind
        rows = torch.arange(30)
        loss, _ = algo.policy_loss(view, rows, len(rows))
        loss.backward()
        losses[kind] = loss.item()
        gradients[kind] = algo.actors.stack.nets[1]["log_std"].grad.clone()
    net = parameters(algo, 1)
    std = policy(1, net, state)[1]
    more = 0.03 * (30 - 1)
    entropy = stats.norm.entropy(scale=std).sum()
    assert losses["mean"] - losses["sum"] == pytest.approx(more * entropy, rel=1e-4)
    # std = 0.5 sigmoid(x), so d log(std) / dx = 1 - sigmoid(x).
    slope = more * (1.0 - std / 0.5)
    found = (gradients["mean"] - gradients["sum"]).numpy()[: len(std)]
    np.testing.assert_allclose(found, slope, rtol=1e-4)


def test_gradient_does_not_depend_on_the_tile():
    gradients = []
    for tile in (7, 64, 2**31):
        algo, view, _, _ = view_of(1, rows=150)
        algo.tile = tile
        for rows in torch.arange(150).split(tile):
            algo.policy_loss(view, rows, 150)[0].backward()
        gradients.append(algo.actors.stack.grad[1].clone())
    scale = gradients[0].abs().max().item()
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("num_minibatches", [1, 3])
def test_update_does_not_depend_on_the_tile(num_minibatches):
    runs = []
    for tile in (7, 64, 2**31):
        algo, env = fresh(num_minibatches=num_minibatches, actor_lr=1e-3), ToyEnv()
        rollout, _ = collect(algo, env, env.reset())
        algo.tile = tile
        metrics = algo.update(rollout)
        runs.append((algo.actors.stack.flat, algo.critic.stack.flat, metrics))
    for actors, critic, metrics in runs[1:]:
        torch.testing.assert_close(actors, runs[0][0], rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(critic, runs[0][1], rtol=1e-3, atol=2e-5)
        assert metrics.keys() == runs[0][2].keys()
        for name, value in metrics.items():
            torch.testing.assert_close(value, runs[0][2][name], rtol=2e-3, atol=1e-4)


def test_first_step_of_the_first_agent():
    """One epoch: ratio 1 and a centered advantage leave the loss -coef H; nothing is clipped.

    H of two dimensions of std 0.3655293 is log(2 pi e) + 2 log 0.3655293 = 0.8250698.
    """
    options = {"epochs": 1, "agent_order": "default", "entropy_coef": 0.1}
    algo, (metrics,) = trained(Recorded, **options)
    assert metrics["agent0/loss"].item() == pytest.approx(-0.08250698, abs=1e-5)
    assert metrics["agent0/clip_fraction"].item() == 0.0
    assert metrics["agent0/preceding_ratio"].item() == 1.0
    std = policy(0, algo.after[0], algo.batch.state)[1]
    expected = stats.norm.entropy(scale=std).sum()
    assert metrics["agent0/entropy"].item() == pytest.approx(expected, rel=1e-5)


def test_kl_estimates_the_divergence_of_the_old_policy_from_the_new():
    algo, env = fresh(Recorded, actor_lr=3e-3, horizon=400), ToyEnv()
    metrics = train(algo, env, 1)[0]
    for p in range(3):
        m, s = policy(p, algo.before[p], algo.batch.state)
        n, t = policy(p, algo.after[p], algo.batch.state)
        exact = np.log(t / s) + (s**2 + (m - n) ** 2) / (2.0 * t**2) - 0.5
        found = metrics[f"agent{p}/kl"].item()
        assert found == pytest.approx(exact.sum(1).mean(), rel=0.15)
        change = log_density(p, algo.after[p], algo.batch.state, algo.batch.action)
        change -= log_density(p, algo.before[p], algo.batch.state, algo.batch.action)
        assert found == pytest.approx(np.mean(np.expm1(change) - change), rel=1e-2)


# Minibatches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_minibatches", [1, 4, 5, 50])
def test_every_sample_is_visited_once_an_epoch(num_minibatches):
    seen = {"critic": [], 0: [], 1: [], 2: []}

    class Visits(HAPPO):
        def bonus(self, view, rows, mean, std):
            seen[view.index].append(torch.arange(72)[rows])
            return super().bonus(view, rows, mean, std)

        def critic_loss(self, batch, inputs, rows, size):
            seen["critic"].append(torch.arange(72)[rows])
            return super().critic_loss(batch, inputs, rows, size)

    algo, _ = trained(Visits, num_minibatches=num_minibatches, epochs=3, critic_epochs=2)
    for who, rows in seen.items():
        epochs = 2 if who == "critic" else 3
        assert len(rows) == epochs * num_minibatches
        sizes = [len(part) for part in rows]
        assert max(sizes) - min(sizes) < 72 / num_minibatches
        order = torch.cat(rows).view(epochs, 72)
        assert torch.equal(order.sort(1).values, torch.arange(72).expand(epochs, 72))
        if num_minibatches > 1:
            assert not torch.equal(order[0], order[1])
    taken = [optimizer.state_dict()["step"].item() for optimizer in algo.actor_optimizers]
    assert taken == [3 * num_minibatches] * 3
    assert algo.critic_optimizer.state_dict()["step"].item() == 2 * num_minibatches


# Values, returns and advantages -----------------------------------------------------------------


def critic_parameters(algo):
    return {k: v.detach().double().numpy() for k, v in algo.critic.stack.nets[0].items()}


def huber(error):
    size = np.abs(error)
    return np.where(size <= 10.0, 0.5 * size**2, 10.0 * (size - 5.0))


def test_critic_loss_is_the_larger_huber_loss():
    algo = fresh(clip=0.2, value_coef=0.7)
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(60, 6, generator=generator)
    target = 8.0 * torch.randn(60, generator=generator)
    exact = network(critic_parameters(algo), state.double().numpy())[:, 0]
    old = torch.from_numpy(exact).float() + 0.4 * torch.randn(60, generator=generator)
    rollout, _ = collect(algo, ToyEnv(), ToyEnv().reset())
    batch = Batch(rollout, state, *[torch.zeros(60)] * 4, value=old)
    batch.returns = algo.value_norm.denormalize(target)
    inputs = algo.critic.inputs(state)
    loss, stats = algo.critic_loss(batch, inputs, torch.arange(60).flip(0), 60)
    loss.backward()
    assert stats["value_loss"].item() == loss.item()
    near = np.clip(exact, old.numpy() - 0.2, old.numpy() + 0.2)
    plain, clipped = (huber(v - target.numpy()) for v in (exact, near))
    assert (plain > clipped + 1e-6).any()
    assert (clipped > plain + 1e-6).any()
    assert (np.abs(exact - target.numpy()) > 10.0).any()
    assert loss.item() == pytest.approx(0.7 * np.maximum(plain, clipped).mean(), rel=1e-5)
    # With the target fixed the loss falls along the gradient that was left behind.
    weight = algo.critic.stack.nets[0]["out.bias"]
    free = np.where(plain >= clipped, 1.0, np.abs(exact - old.numpy()) < 0.2)
    values = np.where(plain >= clipped, exact, near)
    slope = (np.clip(values - target.numpy(), -10.0, 10.0) * free).mean()
    assert weight.grad.item() == pytest.approx(0.7 * slope, rel=1e-4)


def test_critic_update_reports_the_loss_on_normalized_returns():
    """At the first step nothing is clipped: the critic still predicts what it predicted."""
    algo, (metrics,) = trained(Recorded, critic_epochs=1)
    initial = critic_parameters(fresh(Recorded))
    returns = algo.batch.returns.double().numpy()
    target = (returns - returns.mean()) / returns.std()
    value = network(initial, algo.batch.state.double().numpy())[:, 0]
    np.testing.assert_allclose(algo.batch.value.numpy(), value, rtol=1e-4, atol=1e-5)
    expected = huber(value - target).mean()
    assert metrics["critic/loss"].item() == pytest.approx(expected, rel=1e-4)


def expected_returns(algo, rollout):
    """Returns by recursion: R_t = r_t + gamma ((1 - lam) V_{t+1} + lam R_{t+1}) in an episode."""
    net = critic_parameters(algo)
    mean, std = (x.item() for x in algo.value_norm.mean_std())

    def value(state):
        return network(net, state.double().numpy())[:, 0] * std + mean

    gamma, lam = algo.config.gamma, algo.config.gae_lambda
    follow = value(rollout.last_state)
    returns = np.zeros(rollout.reward.shape)
    later = follow
    for t in reversed(range(len(returns))):
        ended, cut = rollout.terminated[t].numpy(), rollout.truncated[t].numpy()
        after = (1.0 - lam) * follow + lam * later
        after = np.where(cut, rollout.final_value[t].double().numpy() * std + mean, after)
        later = returns[t] = rollout.reward[t].numpy() + gamma * np.where(ended, 0.0, after)
        follow = value(rollout.state[t])
    values = np.stack([value(state) for state in rollout.state])
    return returns, returns - values


def test_returns_and_normalized_advantages():
    algo, env = fresh(Recorded), ToyEnv()
    rollout, state = collect(algo, env, env.reset())
    algo.update(rollout)  # so that the values' normalizer is no longer trivial
    rollout, _ = collect(algo, env, state)
    for flag in (rollout.terminated, rollout.truncated):
        assert 3 < flag.sum() < flag.numel()
    returns, advantage = expected_returns(algo, rollout)
    algo.update(rollout)
    batch = algo.batch
    np.testing.assert_allclose(batch.returns.numpy(), returns.ravel(), rtol=1e-4, atol=1e-4)
    normalized = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
    np.testing.assert_allclose(batch.advantage.numpy(), normalized.ravel(), rtol=1e-3, atol=1e-4)
    assert batch.advantage.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert batch.advantage.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_only_truncated_steps_bootstrap_from_the_final_state():
    """A terminated step returns its reward, a truncated one r + gamma V(final_state)."""
    algo, env = fresh(Recorded), ToyEnv()
    rollout, _ = collect(algo, env, env.reset())
    value = algo.critic.values(torch.randn(72, 6), 2**31).view(12, 6)
    rollout.final_value = torch.where(rollout.truncated, value, 0.0)
    algo.update(rollout)
    returns = algo.batch.returns.view(12, 6)
    torch.testing.assert_close(returns[rollout.terminated], rollout.reward[rollout.terminated])
    # Before its first batch the normalizer has mean 0 and standard deviation 0.1.
    expected = rollout.reward + 0.99 * 0.1 * value
    torch.testing.assert_close(returns[rollout.truncated], expected[rollout.truncated])


def test_final_value_is_that_of_the_final_state_where_truncated():
    algo = fresh()
    state = torch.randn(6, 6)
    assert algo.final_value(torch.zeros(6, dtype=torch.bool), state) is None
    truncated = torch.tensor([True, False, False, True, False, False])
    expected = network(critic_parameters(algo), state.double().numpy())[:, 0] * truncated.numpy()
    found = algo.final_value(truncated, state).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


# Learning rate and reproducibility --------------------------------------------------------------


@pytest.mark.parametrize(("schedule", "scale"), [("linear", 0.25), ("constant", 1.0)])
def test_learning_rate_schedule(schedule, scale):
    """Adam's first step is the learning rate times the sign, up to its epsilon."""
    moves = []
    for done in (0.0, 0.75):
        options = {"epochs": 1, "critic_epochs": 1, "critic_lr": 2e-3, "actor_lr": 1e-3}
        algo, env = fresh(lr_schedule=schedule, **options), ToyEnv()
        before = [stack.flat.clone() for stack in (algo.actors.stack, algo.critic.stack)]
        algo.set_progress(done)
        expected = pytest.approx(1e-3 * (scale if done else 1.0))
        assert [algo.rates.of(p).item() for p in range(3)] == [expected] * 3
        train(algo, env, 1)
        after = (algo.actors.stack.flat, algo.critic.stack.flat)
        moves.append([(b - a).abs().max().item() for a, b in zip(before, after, strict=True)])
    assert moves[0] == pytest.approx([1e-3, 2e-3], rel=0.02)
    assert moves[1] == pytest.approx([1e-3 * scale, 2e-3 * scale], rel=0.02)


def test_learning_stops_when_the_decay_is_complete():
    algo = fresh(lr_schedule="linear")
    before = algo.actors.stack.flat.clone()
    algo.set_progress(1.0)
    train(algo, ToyEnv(), 1)
    assert torch.equal(algo.actors.stack.flat, before)


@pytest.mark.parametrize("num_minibatches", [1, 3])
def test_a_seed_determines_the_weights(num_minibatches):
    runs = [trained(iterations=2, seed=s, num_minibatches=num_minibatches)[0] for s in (5, 5, 6)]
    for part in ("actors", "critic"):
        first, same, other = (getattr(algo, part).stack.flat for algo in runs)
        assert torch.equal(first, same)
        assert not torch.equal(first, other)


def test_training_continues_exactly_from_its_state(tmp_path):
    options = {"num_minibatches": 2, "actor_lr": 1e-3}
    check_it_continues(partial(fresh, **options), tmp_path / "state.pth")


def test_it_learns():
    check_it_learns(fresh, actor_lr=5e-3, epochs=5)


@pytest.mark.parametrize("base", [0.0, 1e4, 123456.7])
def test_advantages_close_to_each_other_are_normalized_as_in_float64(base):
    """A float32 mean of equal numbers is not always that number."""
    equal = torch.full((3200,), base)
    assert normalized(equal, ALONE).abs().max() < 1e-6
    two = torch.tensor([base, float(np.nextafter(np.float32(base), np.float32(1e9)))])
    exact = two.double().numpy()
    expected = (exact - exact.mean()) / (exact.std() + 1e-5)
    np.testing.assert_allclose(normalized(two, ALONE).numpy(), expected, rtol=1e-5, atol=1e-6)
