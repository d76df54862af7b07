"""Learning rates that follow the KL divergence, against a rule written down here."""

import pytest
import torch
from toy import ToyEnv, build, check_it_continues, collect, settings, train

from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS

ADAPTIVE = {"lr_schedule": "adaptive", "actor_lr": 1e-3, "min_lr": 1e-4, "max_lr": 1e-2}


def fresh(name="happo", seed=1, **changed):
    return build(ALGORITHMS[name], settings(ALGO_SCHEMAS[name], **changed), ToyEnv(), seed)


def expected(rate, kl, target, low=1e-4, high=1e-2):
    if kl > 2.0 * target:
        rate /= 1.5
    elif kl < 0.5 * target:
        rate *= 1.5
    return min(max(rate, low), high)


def watched(algo):
    """Records what every epoch told the rates: which optimizer, which KL."""
    told, follow = [], algo.rates.follow

    def record(index, kl):
        told.append((index, kl.item()))
        follow(index, kl)

    algo.rates.follow = record
    return told


@pytest.mark.parametrize(
    ("name", "target"),
    [("happo", 1e-6), ("happo", 1e-3), ("madpo", 1.0), ("a2po", 1e-6), ("mappo", 1e-3)],
)
def test_rates_follow_the_divergence_of_each_agent(name, target):
    algo = fresh(name, epochs=4, kl_target=target, **ADAPTIVE)
    told = watched(algo)
    train(algo, ToyEnv(), 3)
    rates = [1e-3] * len(algo.actor_optimizers)
    assert len(told) == 3 * 4 * len(rates)
    for index, kl in told:
        rates[index] = expected(rates[index], kl, target)
    found = [algo.rates.of(p).item() for p in range(3)]
    assert found == pytest.approx(rates if len(rates) == 3 else rates * 3, rel=1e-5)


@pytest.mark.parametrize("name", ["happo", "mappo"])
@pytest.mark.parametrize("own", [None, 1e-3])
def test_agents_share_the_target_of_the_joint_policy_unless_they_have_their_own(name, own):
    joint = 3e-3 if own is None else 3.0  # for three agents
    algo = fresh(name, epochs=4, joint_kl_target=joint, kl_target=own, **ADAPTIVE)
    told = watched(algo)
    train(algo, ToyEnv(), 3)

    def replayed(target):
        rates = [1e-3] * len(algo.actor_optimizers)
        for index, kl in told:
            rates[index] = expected(rates[index], kl, target)
        return rates

    found = [algo.rates.of(p).item() for p in range(len(algo.actor_optimizers))]
    assert found == pytest.approx(replayed(1e-3), rel=1e-5)
    assert found != pytest.approx(replayed(joint), rel=1e-5)


def test_the_divergence_is_that_from_the_policy_that_collected():
    """One minibatch: in epoch k it is measured at the policy of k - 1 steps."""
    algo = fresh(epochs=3, kl_target=1e-3, **ADAPTIVE)
    told, policies = watched(algo), []
    begin, loss = algo.begin_agent, algo.policy_loss

    def begin_agent(view):
        begin(view)
        policies.append([])

    def policy_loss(view, rows, size):
        mean, std = algo.evaluate(view.index, view.obs)
        normal = torch.distributions.Normal(mean.double(), std.double())
        log_ratio = normal.log_prob(view.action.double()).sum(1) - view.old_log_prob.double()
        policies[-1].append((log_ratio.exp() - 1.0 - log_ratio).mean().item())
        return loss(view, rows, size)

    algo.begin_agent, algo.policy_loss = begin_agent, policy_loss
    train(algo, ToyEnv(), 2)
    measured = [kl for agent in policies for kl in agent]
    assert [kl for _, kl in told] == pytest.approx(measured, rel=1e-2, abs=1e-6)
    assert max(measured) > 1e-4


def test_agents_rates_differ_and_are_reported():
    algo = fresh(epochs=4, kl_target=1e-3, **ADAPTIVE)
    history = train(algo, ToyEnv(), 4)
    rates = [algo.rates.of(p).item() for p in range(3)]
    assert [history[-1][f"agent{p}/lr"].item() for p in range(3)] == pytest.approx(rates)
    assert len(set(rates)) > 1


def test_a_divergence_that_is_not_finite_slows_down():
    algo = fresh(kl_target=1e-3, **ADAPTIVE)
    for kl in (float("nan"), float("inf")):
        algo.rates.follow(1, torch.tensor(kl))
    assert algo.rates.of(1).item() == pytest.approx(1e-3 / 1.5**2)
    assert algo.rates.of(0).item() == pytest.approx(1e-3)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_other_schedules_do_not_follow(schedule):
    algo = fresh(lr_schedule=schedule, actor_lr=1e-3, kl_target=1e-9)
    algo.rates.follow(0, torch.tensor(5.0))
    assert algo.rates.of(0).item() == pytest.approx(1e-3)


def test_the_critics_rate_is_its_own():
    algo = fresh(epochs=4, kl_target=1e-6, critic_lr=3e-3, **ADAPTIVE)
    train(algo, ToyEnv(), 2)
    algo.set_progress(0.5)
    assert algo.critic_optimizer.lr.item() == pytest.approx(3e-3)
    assert algo.rates.of(0).item() < 1e-3


@pytest.mark.parametrize("name", ["happo", pytest.param("mappo", marks=pytest.mark.slow)])
def test_adaptive_rates_continue_exactly(name, tmp_path):
    options = {"epochs": 3, "num_minibatches": 2, "kl_target": 1e-3, **ADAPTIVE}
    check_it_continues(lambda seed=1: fresh(name, seed, **options), tmp_path / "state.pth")


@pytest.mark.parametrize("clip", [None, 0.01, 0.2])
def test_the_values_clip_range_is_apart_from_the_policies(clip):
    """The loss of values that moved, against Huber's formula in float64."""
    algo = fresh(clip=0.05, value_clip=clip, critic_epochs=1, huber_delta=0.3)
    seen = []
    original = algo.critic_loss

    def critic_loss(batch, inputs, rows, size):
        target = algo.value_norm.normalize(batch.returns[rows])
        value = algo.critic(batch.state[rows]).detach()
        old = value + torch.linspace(-0.5, 0.5, len(value))
        batch.value[rows] = old
        loss, stats = original(batch, inputs, rows, size)
        parts = [value.double()]
        if clip is not None:
            parts.append((old + (value - old).clamp(-clip, clip)).double())
        errors = [(part - target.double()).abs() for part in parts]
        huber = [torch.where(e < 0.3, 0.5 * e**2, 0.3 * (e - 0.15)) for e in errors]
        seen.append((loss.item(), torch.stack(huber).amax(0).mean().item()))
        return loss, stats

    algo.critic_loss = critic_loss
    train(algo, ToyEnv(), 1)
    for found, wanted in seen:
        assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("name", ["happo", "madpo", "a2po", "mappo", "ippo"])
@pytest.mark.parametrize("target", [1e-9, 1e3])
def test_a_single_step_is_judged_by_what_it_did(name, target):
    """Before the only step of an update the divergence is 0, which would always raise the rate."""
    algo = fresh(name, epochs=1, num_minibatches=1, kl_target=target, **ADAPTIVE)
    rates, env = [1e-3] * len(algo.actor_optimizers), ToyEnv()
    state = env.reset()
    for _ in range(3):
        rollout, state = collect(algo, env, state)
        metrics = algo.update(rollout)
        kls = torch.stack([metrics[f"agent{p}/kl"] for p in range(3)])
        assert kls.min() > 0.0
        for index, kl in enumerate(kls.view(len(rates), -1).mean(1).tolist()):
            rates[index] = expected(rates[index], kl, target)
    found = [algo.rates.of(p).item() for p in range(3)]
    assert found == pytest.approx(rates if len(rates) == 3 else rates * 3, rel=1e-5)
    assert (found[0] < 1e-3) == (target < 1.0)
