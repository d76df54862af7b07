"""A2PO: advantages, order, clip ranges and loss against float64 oracles written in NumPy."""

from functools import partial
from types import SimpleNamespace

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

from madpo_isaac.algos import A2PO, HAPPO
from madpo_isaac.algos.a2po import A2poConfig, influence
from madpo_isaac.algos.batch import AgentView
from madpo_isaac.algos.settings import AlgoConfig


def critic_parameters(algo):
    return {k: v.detach().double().numpy().copy() for k, v in algo.critic.stack.nets[0].items()}


class Recorded(A2PO):
    """Keeps what every agent's turn began with."""

    def begin_update(self, batch):
        super().begin_update(batch)
        self.batch, self.order, self.turns = batch, [], []
        self.before, self.after = [parameters(self, p) for p in range(3)], {}
        self.norm = [x.item() for x in self.value_norm.mean_std()]

    def begin_agent(self, view):
        super().begin_agent(view)
        self.order.append(view.index)
        turn = SimpleNamespace(
            view=view,
            critic=critic_parameters(self),
            norm=[x.item() for x in self.value_norm.mean_std()],
            returns=self.batch.returns.clone(),
            value=self.batch.value.clone(),
            critic_steps=int(self.critic_optimizer.state_dict().get("step", torch.zeros(()))),
        )
        self.turns.append(turn)

    def agent_updated(self, view, mean, std):
        self.after[view.index] = parameters(self, view.index)
        return {}


def fresh(kind=A2PO, seed=1, **changed):
    return build(kind, settings(A2poConfig, **changed), ToyEnv(), seed)


def second_update(seed=1, **changed):
    """A learner after its second update: by then its critic and normalizer are not trivial."""
    algo, env = fresh(Recorded, seed, **changed), ToyEnv()
    rollout, state = collect(algo, env, env.reset())
    algo.update(rollout)
    rollout, _ = collect(algo, env, state)
    generator = algo.order_generator.get_state()
    metrics = algo.update(rollout)
    return algo, rollout, metrics, generator


# Advantages -------------------------------------------------------------------------------------


def values(turn, state):
    mean, std = turn.norm
    return network(turn.critic, state.double().numpy())[:, 0] * std + mean


def advantages(algo, rollout, turn, ratio):
    """delta_t + sum_k gamma^k prod_{j<=k} lambda min(1, rho_{t+j}) delta_{t+k}, term by term.

    The sum ends with the episode or the rollout. ``turn`` gives the critic, ``ratio`` (T, N) rho.
    """
    gamma, lam = algo.config.gamma, algo.config.gae_lambda
    horizon, num_envs = rollout.reward.shape
    value = np.stack([values(turn, state) for state in rollout.state])
    follow = np.concatenate((value[1:], values(turn, rollout.last_state)[None]))
    mean, std = algo.norm
    final = rollout.final_value.double().numpy() * std + mean
    advantage = np.zeros((horizon, num_envs))
    for t in range(horizon):
        for e in range(num_envs):
            for k in range(horizon - t):
                s = t + k
                after = final[s, e] if rollout.truncated[s, e] else follow[s, e]
                after = 0.0 if rollout.terminated[s, e] else after
                delta = rollout.reward[s, e].item() + gamma * after - value[s, e]
                weights = [lam * min(1.0, ratio[t + j, e]) for j in range(1, k + 1)]
                advantage[t, e] += gamma**k * np.prod(weights) * delta
                if rollout.terminated[s, e] or rollout.truncated[s, e]:
                    break
    return advantage, value


@pytest.mark.parametrize("seed", range(3))
def test_advantages_and_returns_of_every_turn(seed):
    options = {"actor_lr": 2e-2, "critic_lr": 1e-2, "critic_epochs": 5}
    algo, rollout, metrics, _ = second_update(seed, **options)
    assert rollout.truncated.any()
    assert rollout.terminated.any()
    ratio, plain = np.ones(rollout.reward.shape), []
    for p, turn in zip(algo.order, algo.turns, strict=True):
        expected, value = advantages(algo, rollout, turn, ratio)
        found = turn.returns.numpy()
        np.testing.assert_allclose(found, (expected + value).ravel(), rtol=2e-4, atol=2e-4)
        mean, std = turn.norm
        np.testing.assert_allclose(
            turn.value.numpy(), ((value - mean) / std).ravel(), rtol=2e-3, atol=2e-4
        )
        normalized = (expected - expected.mean()) / (expected.std() + 1e-5)
        np.testing.assert_allclose(
            turn.view.weighted_advantage.numpy(), normalized.ravel(), rtol=5e-3, atol=2e-3
        )
        reported = metrics[f"agent{p}/preceding_ratio"].item()
        assert reported == pytest.approx(ratio.mean(), rel=1e-3)
        if p != algo.order[0]:  # neither the correction nor the critic's progress is negligible
            plain.append(np.abs(advantages(algo, rollout, turn, np.ones_like(ratio))[0] - expected))
            plain.append(np.abs(advantages(algo, rollout, algo.turns[0], ratio)[0] - expected))
        change = log_density(p, algo.after[p], algo.batch.state, algo.batch.action)
        change -= log_density(p, algo.before[p], algo.batch.state, algo.batch.action)
        ratio = ratio * np.exp(change).reshape(ratio.shape)
    assert min(error.max() for error in plain) > 2e-2


@pytest.mark.parametrize("epochs", [1, 5, 6])
def test_agents_share_the_critics_epochs(epochs):
    options = {"critic_epochs": epochs, "num_minibatches": 2}
    algo, env = fresh(Recorded, **options), ToyEnv()
    train(algo, env, 1)
    steps = [turn.critic_steps for turn in algo.turns]
    assert steps == [2 * (epochs * k // 3) for k in range(3)]
    assert algo.critic_optimizer.state_dict()["step"].item() == 2 * epochs


def test_the_critic_learns_each_agents_returns():
    seen = []

    class Fits(Recorded):
        def fit_critic(self, batch, epochs):
            seen.append((batch.returns.clone(), epochs))
            return super().fit_critic(batch, epochs)

    algo = fresh(Fits, critic_epochs=4)
    metrics = train(algo, ToyEnv(), 1)[0]
    assert [epochs for _, epochs in seen] == [1, 1, 2]
    for (returns, _), turn in zip(seen, algo.turns, strict=True):
        assert torch.equal(returns, turn.returns)
    assert metrics["critic/loss"].item() > 0.0


# Order ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_order_of_a_training(seed):
    algo, _, _, generator = second_update(seed)
    state, action = algo.batch.state, algo.batch.action
    square = algo.turns[0].view.weighted_advantage.double().numpy() ** 2
    scores = []
    for p in range(3):
        mean, std = policy(p, algo.before[p], state)
        z = (action.double().numpy()[:, ACTION_COLUMNS[p]] - mean) / std
        scores.append(0.5 * np.cov(square, (z**2).sum(1), bias=True)[0, 1])
    draws = torch.Generator()
    draws.set_state(generator)
    rest = sorted(range(3), key=lambda p: -scores[p])
    expected = [rest.pop(0)]
    expected.append(rest.pop(int(torch.randint(2, (), generator=draws))))
    assert algo.order == [*expected, *rest]


def test_largest_and_random_agents_take_turns():
    algo, picks = fresh(seed=3), []
    log_prob = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    algo._batch = SimpleNamespace(advantage=torch.linspace(-2.0, 3.0, 50), log_prob=log_prob)
    scores = influence(algo._batch.advantage, log_prob)
    drawn = algo.generator.get_state()
    for _ in range(300):
        order = algo.agent_order()
        assert sorted(order) == list(range(7))
        for k in range(0, 7, 2):
            assert scores[order[k]] == max(scores[p] for p in order[k:])
        ranks = sorted(set(range(7)) - {order[0]}, key=lambda p: -scores[p])
        picks.append(ranks.index(order[1]))
    assert stats.chisquare(np.bincount(picks, minlength=6)).pvalue > 1e-3
    assert torch.equal(algo.generator.get_state(), drawn)


def test_influence_is_the_mean_square_of_the_local_advantage():
    """A = b_0(s) z_0 + b_1 . z_1 + noise, b_0 = sin s: E b_0^2 = 1/2, |b_1|^2 = 0.25."""
    rng = np.random.default_rng(0)
    s, z, noise = (
        rng.uniform(0, 2 * np.pi, 10**6),
        rng.normal(size=(10**6, 4)),
        rng.normal(size=10**6),
    )
    advantage = np.sin(s) * z[:, 0] + 0.3 * z[:, 1] - 0.4 * z[:, 2] + 0.7 * noise
    log_prob = -0.5 * np.stack((z[:, 0] ** 2, z[:, 1] ** 2 + z[:, 2] ** 2, z[:, 3] ** 2), 1) + 3.0
    found = influence(torch.from_numpy(advantage), torch.from_numpy(log_prob))
    np.testing.assert_allclose(found.numpy(), [0.5, 0.25, 0.0], atol=0.015)


@pytest.mark.parametrize("order", ["default", "random", "spec"])
def test_other_orders_are_those_of_happo(order):
    happo = build(HAPPO, settings(AlgoConfig, agent_order=order), ToyEnv(), 3)
    algo = fresh(seed=3, agent_order=order)
    for _ in range(5):
        assert list(algo.agent_order()) == list(happo.agent_order())


# Clip range and loss ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(0.5, [2 / 3, 5 / 6, 1.0]), (0.0, [1.0, 1.0, 1.0]), (1.0, [1 / 3, 2 / 3, 1.0])],
)
def test_clip_range_widens_from_agent_to_agent(weight, expected):
    algo, _, _, _ = second_update(clip=0.3, clip_weight=weight)
    found = [turn.view.clip for turn in algo.turns]
    assert found == pytest.approx([0.3 * factor for factor in expected])
    assert algo.config.clip == 0.3


def actor_loss(p, net, view, ratio, state, action):
    """-mean(min(l A, clip(l, 0.84, 1.16) A)) - 0.03 H, l = own ratio * clip(ratio, 0.92, 1.08)."""
    change = log_density(p, net, state, action) - view.old_log_prob.double().numpy()
    joint = np.exp(change) * np.minimum(np.maximum(ratio, 0.92), 1.08)
    advantage = view.weighted_advantage.double().numpy()
    bounds = np.where(advantage > 0, 1.16, 0.84)
    pays = np.where(advantage > 0, np.minimum(joint, bounds), np.maximum(joint, bounds))
    entropy = stats.norm.entropy(scale=policy(p, net, state)[1]).sum()
    outside = np.mean((joint < 0.84) | (joint > 1.16))
    return -(pays * advantage).mean() - 0.03 * entropy, outside


@pytest.mark.parametrize("p", range(3))
def test_actor_loss_and_gradient_against_finite_differences(p):
    options = {"entropy_coef": 0.03, "epochs": 1, "actor_lr": 1e-20, "max_grad_norm": 1e9}
    algo = fresh(**options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in algo.actors.stack.nets[p].values():
            value += 0.3 * torch.randn(value.shape, generator=generator)
    state, action = torch.randn(2, 40, 6, generator=generator)
    density = torch.from_numpy(log_density(p, parameters(algo, p), state, 0.5 * action)).float()
    agent = algo.agents[p]
    view = AgentView(
        index=p,
        clip=0.16,
        obs=algo.actors.inputs(p, agent.observe(state)),
        action=0.5 * action[:, agent.action_slice],
        old_log_prob=density + 0.2 * torch.randn(40, generator=generator),
        weighted_advantage=2.0 * torch.randn(40, generator=generator),
    )
    algo._preceding_ratio = torch.exp(0.15 * torch.randn(40, generator=generator))
    ratio = algo._preceding_ratio.double().numpy()
    assert 0.2 < np.mean((ratio < 0.92) | (ratio > 1.08)) < 0.9
    kept = view.old_log_prob.clone()
    stats_ = algo.update_agent(view)
    assert torch.equal(view.old_log_prob, kept)  # the next agents' ratio needs it as it was
    net = parameters(algo, p)
    args = (view, ratio, state, 0.5 * action)
    expected, clipped = actor_loss(p, net, *args)
    assert stats_["loss"].item() == pytest.approx(expected, rel=1e-4)
    assert stats_["clip_fraction"].item() == pytest.approx(clipped)
    assert 0.2 < clipped < 0.9
    for name, value in net.items():
        grad = algo.actors.stack.nets[p][name].grad
        for index in np.ndindex(value.shape):
            original, sides = value[index], []
            for step in (1e-6, -1e-6):
                value[index] = original + step
                sides.append(actor_loss(p, net, *args)[0])
            value[index] = original
            slope = (sides[0] - sides[1]) / 2e-6
            assert grad[index].item() == pytest.approx(slope, rel=1e-3, abs=2e-5), name


def test_the_first_agent_is_updated_as_by_happo():
    options = {"agent_order": "default", "num_minibatches": 2, "actor_lr": 1e-3}
    algo = fresh(clip_weight=0.0, **options)
    happo = build(HAPPO, settings(AlgoConfig, **options), ToyEnv())
    for learner in (algo, happo):
        train(learner, ToyEnv(), 1)
    assert torch.equal(algo.actors.stack.flat[0], happo.actors.stack.flat[0])
    assert not torch.equal(algo.actors.stack.flat[1], happo.actors.stack.flat[1])


# Reproducibility --------------------------------------------------------------------------------


def test_a_seed_determines_the_weights():
    runs = [fresh(seed=seed, num_minibatches=2) for seed in (5, 5, 6)]
    for algo in runs:
        train(algo, ToyEnv(), 2)
    for part in ("actors", "critic"):
        first, same, other = (getattr(algo, part).stack.flat for algo in runs)
        assert torch.equal(first, same)
        assert not torch.equal(first, other)


def test_training_continues_exactly_from_its_state(tmp_path):
    options = {"num_minibatches": 2, "actor_lr": 2e-3, "critic_epochs": 4}
    check_it_continues(partial(fresh, **options), tmp_path / "state.pth")


def test_it_learns():
    check_it_learns(fresh, actor_lr=5e-3, epochs=5)
