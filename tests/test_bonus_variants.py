"""Variants of MADPO's bonus: steered coefficients, older references, rewards, the other agent."""

from functools import partial

import pytest
import torch
from test_madpo import Recorded, between, between_updates, fresh
from toy import ToyEnv, bounded, cauchy_schwarz, check_it_continues, collect, policy, train

from madpo_isaac.algos import MADPO
from madpo_isaac.divergence.presets import DivergenceConfig
from madpo_isaac.errors import UserError


class Kept(Recorded):
    """Keeps batches and parameters, but not the bonus: it has no gradient as a reward."""

    bonus = MADPO.bonus


def gradient_norm(algo, p, value):
    algo.actors.stack.grad.zero_()
    value.backward()
    return algo.actors.stack.grad[p].norm().item()


# Coefficients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cs", "kl"])
def test_the_bonus_has_its_share_of_the_gradient(kind):
    algo, batch, view = between_updates(kind=kind, share=0.3, coef=1e9, scale=0.1)
    view.weighted_advantage = batch.advantage
    algo.begin_agent(view)
    rows = torch.arange(5, 60)
    algo.begin_minibatch(view, rows)
    mean, std = algo.actors.distribution(2, view.obs[rows])
    bonus = gradient_norm(algo, 2, algo.bonus(view, rows, mean, std))
    mean, std = algo.actors.distribution(2, view.obs[rows])
    log_prob = torch.distributions.Normal(mean, std).log_prob(view.action[rows]).sum(1)
    # Before the first step the ratio is 1: the objective's gradient is the policy gradient.
    objective = gradient_norm(algo, 2, (view.weighted_advantage[rows] * log_prob).sum())
    assert objective > 1e-3
    assert bonus == pytest.approx(0.3 * objective, rel=1e-3)


def test_the_share_holds_for_all_of_an_agents_steps():
    algo, _, view = between_updates(share=0.3, coef=1e9)
    algo.begin_minibatch(view, slice(0, 30))
    first = algo._coefficient(view).clone()
    algo.begin_minibatch(view, slice(30, 72))
    assert torch.equal(algo._coefficient(view), first)
    algo.begin_agent(view)
    algo.begin_minibatch(view, slice(30, 72))
    assert not torch.equal(algo._coefficient(view), first)


def test_a_steered_coefficient_never_exceeds_coef():
    algo, _, view = between_updates(share=1e6, coef=0.02)
    algo.begin_minibatch(view, slice(0, 72))
    assert float(algo._coefficient(view)) == pytest.approx(0.02)
    # In the first iteration the reference is the policy itself: the bonus has no gradient.
    metrics = train(fresh(MADPO, divergence={"share": 0.5, "coef": 1.0}), ToyEnv(), 1)[0]
    assert all(value.isfinite() for value in metrics.values())
    assert metrics["agent0/skipped"] == 0


def test_the_coefficient_of_a_share_decays():
    algo, _, view = between_updates(share=0.3, coef=1e9, decay_steps=1000.0)
    coefficients = []
    for env_steps in (0, 250):
        algo.set_progress(0.0, env_steps)
        algo.begin_agent(view)
        algo.begin_minibatch(view, slice(0, 72))
        coefficients.append(float(algo._coefficient(view)))
    assert coefficients[1] == pytest.approx(0.75 * coefficients[0])


def test_the_coefficient_follows_the_learning_rate():
    algo, _, view = between_updates(coef=0.7, follow_lr=True)
    mean, std = algo.actors.distribution(2, view.obs)
    values = []
    for factor in (1.0, 3.0):
        algo.actor_optimizers[2].lr.fill_(factor * algo.config.actor_lr)
        values.append(algo.bonus(view, slice(0, 72), mean, std).item())
    plain, _, _ = between_updates(coef=0.7)
    mean, std = plain.actors.distribution(2, view.obs)
    assert values[0] == pytest.approx(plain.bonus(view, slice(0, 72), mean, std).item())
    assert values[1] == pytest.approx(3.0 * values[0])


# Policies to compare with -----------------------------------------------------------------------


@pytest.mark.parametrize("age", [1, 2, 3])
def test_the_reference_collected_the_rollout_of_age_iterations_ago(age):
    algo = fresh(divergence={"coef": 0.1, "age": age}, actor_lr=5e-3)
    history = train(algo, ToyEnv(), 5)
    snapshots = [*algo.snapshots, algo.snapshot()]
    for k, metrics in enumerate(history):
        for p in range(3):
            other = snapshots[max(k - age, 0)][p]
            expected = between(p, snapshots[k + 1][p], p, other, algo.batches[k].state, True)
            found = metrics[f"agent{p}/divergence_intra"].item()
            assert found == pytest.approx(expected, rel=2e-3, abs=1e-7)


@pytest.mark.parametrize("options", [{"inter_scale": 3.0}, {"standardize_inter": True}])
def test_the_other_agent_is_compared_by_its_own_rule(options):
    algo, batch, view = between_updates(lam=1.0, coef=1.0, bound="exp", **options)
    with torch.no_grad():
        algo.actors.stack.nets[2]["out.bias"] += 0.1
        algo.actors.stack.nets[2]["log_std"] += 0.4
    mean, std = algo.actors.distribution(2, view.obs)
    found = algo.bonus(view, slice(0, 72), mean, std).item() / 72
    nets = [
        {k: v.detach().double().numpy() for k, v in algo.actors.stack.nets[p].items()}
        for p in (1, 2)
    ]
    (n, t), (m, s) = (policy(p, net, batch.state) for p, net in zip((1, 2), nets, strict=True))
    m, s, n, t = m[:, :1], s[:1], n[:, :1], t[:1]
    if "standardize_inter" in options:
        m, n, s, t = m / s, n / t, 1.0 + 0.0 * s, 1.0 + 0.0 * t
    value = cauchy_schwarz(m, s, n, t)
    expected = bounded(value / options.get("inter_scale", 1.0)).mean()
    assert expected > 1e-3
    assert found == pytest.approx(expected, rel=1e-3)


# As a reward ------------------------------------------------------------------------------------


def test_as_a_reward_it_moves_the_advantages_only():
    """The agents' leading actions are compared with those of the agent with the index before."""
    options = {"coef": 500.0, "lam": 0.3, "as_reward": True}
    algo, env = fresh(Kept, divergence=options, actor_lr=5e-3, gamma=0.9), ToyEnv()
    state = env.reset()
    for _ in range(2):
        rollout, state = collect(algo, env, state)
        algo.update(rollout)
    rollout, _ = collect(algo, env, state)
    now, previous = algo.snapshot(), algo.snapshots[1]
    flat = rollout.state.flatten(0, 1)
    total = 0.0
    for p in range(3):
        pairs = [(0.7, p, previous[p])] + ([(0.3, p - 1, now[p - 1])] if p else [])
        for weight, q, other in pairs:
            (m, s), (n, t) = policy(p, now[p], flat), policy(q, other, flat)
            d = min(m.shape[1], n.shape[1])
            total = total + weight * bounded(cauchy_schwarz(m[:, :d], s[:d], n[:, :d], t[:d]))
    std = float(algo.value_norm.mean_std()[1])
    wanted = rollout.reward.flatten().double().numpy() + 500.0 * 0.1 * std * total / 3
    found = algo._reward(rollout).flatten().numpy()
    assert found == pytest.approx(wanted, rel=1e-3)
    assert abs(found - rollout.reward.flatten().numpy()).max() > 0.1

    value = torch.zeros_like(rollout.reward)
    given = algo.estimate_advantage(rollout, value, value)
    rollout.reward = torch.from_numpy(found).view_as(rollout.reward)
    algo.divergence.as_reward = False
    assert torch.equal(given, algo.estimate_advantage(rollout, value, value))


def test_as_a_reward_it_is_no_term_of_the_objective():
    """With advantages that are set back to those of the plain rewards, the updates are HAPPO's."""
    plain, algo = (
        fresh(Kept, divergence={"kind": "none"}),
        fresh(Kept, divergence={"as_reward": True}),
    )
    algo._reward = lambda rollout: rollout.reward
    for learner in (plain, algo):
        train(learner, ToyEnv(), 2)
    assert torch.equal(plain.actors.stack.flat, algo.actors.stack.flat)


# Resume and settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "divergence",
    [{"share": 0.3}, {"age": 3}, {"as_reward": True, "coef": 0.5}, {"follow_lr": True}],
)
def test_training_continues_exactly(tmp_path, divergence):
    options = {"num_minibatches": 2, "actor_lr": 2e-3, "divergence": divergence}
    check_it_continues(partial(fresh, MADPO, **options), tmp_path / "state.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "official", "share": 0.1}, "share=0.1 works with algo.divergence.preset=ga"),
        ({"preset": "printed", "as_reward": True}, "as_reward=True works with"),
        (
            {"kind": "entropy", "scale": 3.0},
            "scale=3.0 has no effect: algo.divergence.kind=entropy",
        ),
        ({"kind": "entropy", "age": 2}, "age=2 has no effect: algo.divergence.kind=entropy"),
        ({"kind": "none", "inter_scale": 2.0}, "inter_scale=2.0 has no effect"),
        ({"kind": "none", "share": 0.1}, "share=0.1 has no effect: algo.divergence.kind=none"),
        ({"kind": "none", "follow_lr": True}, "follow_lr=True has no effect"),
        ({"kind": "none", "bound": "clip"}, "bound=clip has no effect: algo.divergence.kind=none"),
        ({"kind": "entropy", "bound": "none"}, "bound=none has no effect: .*kind=entropy"),
        ({"kind": "none", "preset": "yu", "rows": 8}, "rows=8 has no effect: .*kind=none"),
        ({"share": 0.1, "follow_lr": True}, "follow_lr=True contradicts .*share=0.1"),
        ({"bound": "none", "inter_scale": 2.0}, "inter_scale=2.0 has no effect: .*bound=none"),
        ({"bound": "none", "scale": 2.0}, "scale=2.0 has no effect: .*bound=none"),
        ({"bound": "tanh", "scale": 2.0}, "scale=2.0 has no effect: .*bound=tanh"),
        ({"bound": "tanh", "inter_scale": 2.0}, "inter_scale=2.0 has no effect: .*bound=tanh"),
        ({"preset": "yu", "scale": 2.0}, "scale=2.0 works with algo.divergence.preset=gaussian"),
        ({"share": 0.1, "as_reward": True}, "share=0.1 has no effect: algo.divergence.as_reward"),
        ({"follow_lr": True, "as_reward": True}, "follow_lr=True has no effect"),
    ],
)
def test_settings_without_effect_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DivergenceConfig(**options).check(minibatch=100)
