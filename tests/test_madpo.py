"""MADPO's divergence bonus: its references, its value, and that it is nothing else than a bonus."""

from functools import partial

import numpy as np
import pytest
import torch
from toy import (
    ACTION_COLUMNS,
    ToyEnv,
    bounded,
    build,
    cauchy_schwarz,
    check_it_continues,
    collect,
    parameters,
    policy,
    settings,
    train,
)

from madpo_isaac.algos import ALGORITHMS, HAPPO, MADPO
from madpo_isaac.algos.batch import AgentView
from madpo_isaac.algos.madpo import MadpoConfig
from madpo_isaac.algos.settings import AlgoConfig


class Recorded(MADPO):
    """Keeps every iteration's batch, order and parameters, and the bonus at every step."""

    def __init__(self, *args):
        super().__init__(*args)
        self.batches, self.orders, self.snapshots, self.bonuses = [], [], [], []

    def snapshot(self):
        return [parameters(self, p) for p in range(3)]

    def agent_order(self):
        self.orders.append(super().agent_order())
        return self.orders[-1]

    def begin_update(self, batch):
        super().begin_update(batch)
        self.batches.append(batch)
        self.snapshots.append(self.snapshot())
        self.bonuses.append({0: [], 1: [], 2: []})

    def bonus(self, view, rows, mean, std):
        bonus = super().bonus(view, rows, mean, std)
        grad = torch.autograd.grad(bonus, (mean, std), retain_graph=True, allow_unused=True)
        size = sum(float(g.abs().sum()) for g in grad if g is not None)
        self.bonuses[-1][view.index].append((bonus.item() / len(mean), size))
        return bonus


def fresh(kind=Recorded, seed=1, divergence=None, **changed):
    config = settings(MadpoConfig, divergence={"scale": 1.0, **(divergence or {})}, **changed)
    return build(kind, config, ToyEnv(), seed)


def between(p, net, q, other, state, bound):
    """Mean over the states of the divergence of p's policy from q's, in their leading actions."""
    (m, s), (n, t) = policy(p, net, state), policy(q, other, state)
    d = min(m.shape[1], n.shape[1])
    value = cauchy_schwarz(m[:, :d], s[:d], n[:, :d], t[:d])
    return (bounded(value) if bound else value).mean()


# Which policies are compared --------------------------------------------------------------------


@pytest.mark.parametrize("bound", [True, False])
def test_references_over_three_iterations(bound):
    """Intra: the policy before the previous update. Inter: the updated predecessor's."""
    options = {"coef": 0.1, "lam": 0.3, "bound": "exp" if bound else "none"}
    algo = fresh(divergence=options, actor_lr=5e-3, seed=2)
    history = train(algo, ToyEnv(), 4)
    snapshots = [*algo.snapshots, algo.snapshot()]
    for k, metrics in enumerate(history):
        state, order = algo.batches[k].state, algo.orders[k]
        after, reference = snapshots[k + 1], snapshots[max(k - 1, 0)]
        for position, p in enumerate(order):
            found = metrics[f"agent{p}/divergence_intra"].item()
            expected = between(p, after[p], p, reference[p], state, bound)
            assert found == pytest.approx(expected, rel=2e-3, abs=1e-7)
            found = metrics[f"agent{p}/divergence_inter"].item()
            if position == 0:
                assert found == 0.0
            else:
                q = order[position - 1]
                expected = between(p, after[p], q, after[q], state, bound)
                assert found == pytest.approx(expected, rel=2e-3, abs=1e-7)
                # The predecessor's policy before its update would not pass.
                stale = between(p, after[p], q, snapshots[k][q], state, bound)
                assert abs(found - stale) > 5e-3 * stale
    assert len({tuple(order) for order in algo.orders}) > 1


def test_intra_divergence_is_zero_until_the_first_step():
    algo = fresh(divergence={"lam": 0.0, "coef": 1.0}, epochs=3)
    train(algo, ToyEnv(), 2)
    for bonuses in algo.bonuses[0].values():
        assert bonuses[0] == pytest.approx((0.0, 0.0), abs=1e-6)
        assert bonuses[1][0] > 1e-6
    # From the second iteration on it pushes from the first step.
    for bonuses in algo.bonuses[1].values():
        assert bonuses[0][0] > 1e-6
        assert bonuses[0][1] > 1e-4


def test_the_first_agent_has_no_predecessor():
    algo = fresh(divergence={"lam": 1.0, "coef": 1.0})
    train(algo, ToyEnv(), 3)
    for order, bonuses in zip(algo.orders, algo.bonuses, strict=True):
        assert bonuses[order[0]] == [(0.0, 0.0)] * 2
        for p in order[1:]:
            assert all(bonus > 0.0 for bonus, _ in bonuses[p])


def test_untrained_agents_are_nearly_alike():
    """All start with the same width and, by the output layer's small gain, means near zero."""
    algo = fresh(divergence={"lam": 1.0, "coef": 1.0}, actor_lr=1e-6, agent_order="default")
    metrics = train(algo, ToyEnv(), 1)[0]
    for p in range(3):
        assert metrics[f"agent{p}/divergence_inter"].item() < 1e-2


# The bonus --------------------------------------------------------------------------------------


def between_updates(seed=4, **divergence):
    """A learner stopped after agent 1 of its third iteration, about to update agent 2."""
    algo = fresh(divergence=divergence, actor_lr=5e-3, seed=seed, agent_order="default")
    env = ToyEnv()
    state = env.reset()
    for _ in range(2):
        rollout, state = collect(algo, env, state)
        algo.update(rollout)
    rollout, _ = collect(algo, env, state)
    batch = algo._prepare(rollout)
    algo.begin_update(batch)
    ones = torch.ones_like(batch.advantage)
    for p in (0, 1):
        view = algo.view(batch, p, ones)
        algo.begin_agent(view)
        algo.update_agent(view)
        with torch.no_grad():
            algo.agent_updated(view, *algo.evaluate(p, view.obs))
    view = algo.view(batch, 2, ones)
    algo.begin_agent(view)
    return algo, batch, view


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_bonus_against_an_oracle(lam, bound):
    """Agent 2 has one action and its predecessor three, so the leading one is compared."""
    algo, batch, view = between_updates(lam=lam, coef=0.7, bound="exp" if bound else "none")
    rows = torch.tensor([0, 3, 70, 12, 41])
    state = batch.state[rows]
    with torch.no_grad():  # as if some steps had been taken
        algo.actors.stack.nets[2]["out.bias"] += 0.1
        algo.actors.stack.nets[2]["log_std"] += 0.2
    mean, std = algo.actors.distribution(2, view.obs[rows])
    found = algo.bonus(view, rows, mean, std).item()
    own, reference = parameters(algo, 2), algo.snapshots[1][2]
    intra = between(2, own, 2, reference, state, bound)
    inter = between(2, own, 1, parameters(algo, 1), state, bound)
    assert min(intra, inter) > 2e-3
    expected = 0.7 * 5 * (lam * inter + (1.0 - lam) * intra)
    assert found == pytest.approx(expected, rel=1e-3)


def test_bonus_gradient_against_finite_differences():
    algo, batch, view = between_updates(lam=0.4, coef=0.7, bound="exp")
    rows = torch.arange(72)
    mean, std = algo.actors.distribution(2, view.obs)
    algo.actors.stack.grad.zero_()
    algo.bonus(view, rows, mean, std).backward()
    own, reference = parameters(algo, 2), algo.snapshots[1][2]

    def bonus():
        intra = between(2, own, 2, reference, batch.state, True)
        inter = between(2, own, 1, parameters(algo, 1), batch.state, True)
        return 0.7 * 72 * (0.4 * inter + 0.6 * intra)

    assert not algo.actors.stack.grad[1].any()
    for name in ("log_std", "out.bias", "out.weight", "linear0.bias"):
        value, grad = own[name], algo.actors.stack.nets[2][name].grad
        for index in np.ndindex(value.shape):
            kept, sides = value[index], []
            for step in (1e-6, -1e-6):
                value[index] = kept + step
                sides.append(bonus())
            value[index] = kept
            slope = (sides[0] - sides[1]) / 2e-6
            if name == "log_std" and index[0] >= len(ACTION_COLUMNS[2]):
                slope = 0.0
            assert grad[index].item() == pytest.approx(slope, rel=5e-3, abs=1e-3), name


@pytest.mark.parametrize(("lam", "term"), [(0.0, "intra"), (1.0, "inter")])
@pytest.mark.parametrize("bound", [True, False])
def test_without_advantage_the_update_increases_the_divergence(lam, term, bound):
    algo, batch, view = between_updates(lam=lam, coef=1.0, bound="exp" if bound else "none")
    algo.entropy_coef, algo.config.epochs = 0.0, 5
    algo.actor_optimizers = algo.actors.optimizers(1e-3, 10.0)
    view = AgentView(
        index=2,
        clip=view.clip,
        obs=view.obs,
        action=view.action,
        old_log_prob=view.old_log_prob,
        weighted_advantage=torch.zeros(72),
    )
    compared = {
        "intra": lambda: between(2, parameters(algo, 2), 2, old, batch.state, bound),
        "inter": lambda: between(2, parameters(algo, 2), 1, other, batch.state, bound),
    }[term]
    old, other = algo.snapshots[1][2], parameters(algo, 1)
    before = compared()
    stats = algo.update_agent(view)
    assert compared() > before * 1.01
    assert stats["loss"].item() == pytest.approx(-(before + compared()) / 2, rel=0.2)


# Only a bonus -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_minibatches", [1, 3])
@pytest.mark.parametrize("divergence", [{"coef": 0.0}, {"kind": "none", "coef": 0.5}])
def test_without_the_bonus_it_is_happo(divergence, num_minibatches):
    options = {"num_minibatches": num_minibatches, "actor_lr": 2e-3}
    plain = build(HAPPO, settings(AlgoConfig, **options), ToyEnv())
    algo = fresh(MADPO, divergence=divergence, **options)
    history = [train(learner, ToyEnv(), 3) for learner in (plain, algo)]
    assert torch.equal(plain.actors.stack.flat, algo.actors.stack.flat)
    assert torch.equal(plain.critic.stack.flat, algo.critic.stack.flat)
    for expected, found in zip(*history, strict=True):
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
        # The divergence is still reported where it was measured.
        assert ("agent0/divergence_intra" in found) == ("kind" not in divergence)


def test_with_the_bonus_it_is_not():
    plain = build(HAPPO, settings(AlgoConfig), ToyEnv())
    algo = fresh(MADPO)
    for learner in (plain, algo):
        train(learner, ToyEnv(), 1)
    assert not torch.equal(plain.actors.stack.flat, algo.actors.stack.flat)


def test_update_does_not_depend_on_the_tile():
    runs = []
    for tile in (7, 64, 2**31):
        algo, env = fresh(MADPO, divergence={"coef": 0.5}, actor_lr=1e-3), ToyEnv()
        state = env.reset()
        for _ in range(2):
            algo.tile = 2**31
            rollout, state = collect(algo, env, state)
            algo.tile = tile
            metrics = algo.update(rollout)
        runs.append((algo.actors.stack.flat, metrics))
    for flat, metrics in runs[1:]:
        torch.testing.assert_close(flat, runs[0][0], rtol=1e-3, atol=5e-5)
        for name, value in metrics.items():
            torch.testing.assert_close(value, runs[0][1][name], rtol=5e-3, atol=2e-4)


def test_measuring_the_reference_leaves_parameters_and_moments_alone():
    algo, _, view = between_updates()
    flat, grad = algo.actors.stack.flat.clone(), algo.actors.stack.grad.clone()
    algo.begin_agent(view)
    assert torch.equal(algo.actors.stack.flat, flat)
    assert torch.equal(algo.actors.stack.grad, grad)


# Resume -----------------------------------------------------------------------------------------


def test_training_continues_exactly_from_its_state(tmp_path):
    options = {"divergence": {"coef": 0.5, "lam": 0.3}, "num_minibatches": 2, "actor_lr": 2e-3}
    check_it_continues(partial(fresh, MADPO, **options), tmp_path / "state.pth")


def test_a_saved_state_does_not_follow_the_training():
    algo, env = fresh(MADPO), ToyEnv()
    train(algo, env, 1)
    saved = algo.state_dict()
    kept = {name: saved[name].clone() for name in ("actors", "critic", "behaviour")}
    train(algo, env, 1)
    assert all(torch.equal(saved[name], kept[name]) for name in kept)


def test_algorithms_by_name():
    assert {"happo": HAPPO, "madpo": MADPO}.items() <= ALGORITHMS.items()
