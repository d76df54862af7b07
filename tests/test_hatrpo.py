"""HATRPO: the Fisher matrix, the direction and the line search against float64 oracles."""

import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from toy import (
    ACTION_COLUMNS,
    ToyEnv,
    build,
    check_it_continues,
    check_it_learns,
    collect,
    log_density,
    parameters,
    policy,
    settings,
    train,
)

from madpo_isaac.algos import HATRPO, hatrpo
from madpo_isaac.algos.batch import AgentView
from madpo_isaac.algos.conjugate_gradient import conjugate_gradient
from madpo_isaac.algos.hatrpo import HatrpoConfig, Trial


class Recorded(HATRPO):
    """Keeps what every agent's step changed, and may spoil the advantages."""

    spoil = staticmethod(lambda advantage: advantage)

    def begin_update(self, batch):
        self.batch, self.before, self.after, self.views = batch, {}, {}, {}

    def weighted_advantage(self, batch, preceding_ratio):
        return self.spoil(super().weighted_advantage(batch, preceding_ratio))

    def begin_agent(self, view):
        self.views[view.index] = view
        self.before[view.index] = self.actors.stack.flat.clone()

    def agent_updated(self, view, mean, std):
        self.after[view.index] = self.actors.stack.flat.clone()
        return {}


def fresh(kind=HATRPO, seed=1, **changed):
    return build(kind, settings(HatrpoConfig, **changed), ToyEnv(), seed)


def exact(algo, p, flat):
    """Agent p's parameters in the row ``flat``, as the oracles take them."""
    net = algo.actors.stack.unpack(p, flat)
    return {name: value.double().numpy() for name, value in net.items()}


def divergence(p, old, new, state):
    """Mean KL(old || new) of two parameter sets."""
    (m, s), (n, t) = policy(p, old, state), policy(p, new, state)
    kl = np.log(t / s) + (s**2 + (m - n) ** 2) / (2.0 * t**2) - 0.5
    return kl.sum(1).mean()


def surrogate(p, net, view, state, action):
    change = log_density(p, net, state, action) - view.old_log_prob.double().numpy()
    return (np.exp(change) * view.weighted_advantage.double().numpy()).mean()


def view_of(p, rows=40, seed=0, **changed):
    """An agent with made-up weights and data."""
    algo = fresh(**changed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in algo.actors.stack.nets[p].values():
            value += 0.3 * torch.randn(value.shape, generator=generator)
    state = torch.randn(rows, 6, generator=generator)
    action = 0.5 * torch.randn(rows, 6, generator=generator)
    mean, std = policy(p, parameters(algo, p), state)
    noise = std * torch.randn(mean.shape, generator=generator).numpy()
    action[:, ACTION_COLUMNS[p]] = torch.from_numpy(mean + noise).float()
    density = torch.from_numpy(log_density(p, parameters(algo, p), state, action)).float()
    agent = algo.agents[p]
    view = AgentView(
        index=p,
        clip=0.2,
        obs=algo.actors.inputs(p, agent.observe(state)),
        action=action[:, agent.action_slice],
        old_log_prob=density,
        weighted_advantage=2.0 * torch.randn(rows, generator=generator),
    )
    return algo, view, state, action


# Fisher matrix and gradient ---------------------------------------------------------------------


def gaussian(algo, p, flat, obs):
    """Another implementation of the policy, float64 and twice differentiable."""
    net, x = algo.actors.stack.unpack(p, flat), obs.double()

    def norm(x, k):
        centered = x - x.mean(1, keepdim=True)
        scale = (centered.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return centered / scale * net[f"norm{k}.weight"] + net[f"norm{k}.bias"]

    x = x * net["norm0.weight"] + net["norm0.bias"]  # standardized already
    for k in range(2):
        x = norm((x @ net[f"linear{k}.weight"].T + net[f"linear{k}.bias"]).clamp(min=0.0), k + 1)
    std = 0.5 / (1.0 + torch.exp(-net["log_std"][: algo.agents[p].act_dim]))
    return torch.distributions.Normal(x @ net["out.weight"].T + net["out.bias"], std)


@cache
def dense(p):
    """Hessian of mean KL(old || new) at new = old, and the surrogate's gradient. (K, K), (K,)

    Both are of :func:`view_of`, whatever is changed of the algorithm's settings.
    """
    algo, view, _, _ = view_of(p)
    flat = algo.actors.stack.flat[view.index].double()
    old = gaussian(algo, view.index, flat, view.obs)

    def kl(new):
        other = gaussian(algo, view.index, new, view.obs)
        return torch.distributions.kl_divergence(old, other).sum(1).mean()

    def objective(new):
        log_prob = gaussian(algo, view.index, new, view.obs).log_prob(view.action.double()).sum(1)
        ratio = torch.exp(log_prob - view.old_log_prob.double())
        return (ratio * view.weighted_advantage.double()).mean()

    gradient = torch.autograd.functional.jacobian(objective, flat)
    return torch.autograd.functional.hessian(kl, flat).numpy(), gradient.numpy()


def close(found, expected, tolerance):
    error = np.linalg.norm(np.asarray(found) - expected)
    assert error <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize("tile", [7, 2**31])
@pytest.mark.parametrize("p", range(3))
def test_gradient_and_fisher_products_against_a_dense_matrix(p, tile):
    algo, view, state, action = view_of(p)
    algo.tile = tile
    flat = algo.actors.stack.flat[p].clone()
    matrix, expected = dense(p)
    value, gradient = algo.surrogate_gradient(view, flat)
    assert value == pytest.approx(surrogate(p, parameters(algo, p), view, state, action), rel=1e-5)
    close(gradient, expected, 1e-5)
    vectors = torch.randn(4, len(flat), generator=torch.Generator().manual_seed(1))
    for vector in vectors.double():
        close(algo.fisher_product(view, flat, vector), matrix @ vector.numpy(), 1e-5)
    padding = ~matrix.any(0)
    assert padding.any() == (p != 1)  # agent 1 is the widest in both
    assert not gradient[torch.from_numpy(padding)].any()


@pytest.mark.parametrize("p", range(3))
def test_direction_is_the_natural_gradient(p):
    algo, view, _, _ = view_of(p)
    flat = algo.actors.stack.flat[p].clone()
    matrix, gradient = dense(p)
    expected = np.linalg.solve(matrix + 0.1 * np.eye(len(flat)), gradient)
    _, found = algo.surrogate_gradient(view, flat)
    direction, _ = conjugate_gradient(
        lambda v: algo.fisher_product(view, flat, v) + 0.1 * v, found, 100, 1e-20
    )
    close(direction, expected, 1e-4)


def test_full_step_is_the_threshold_long_in_the_damped_metric():
    """The step is sqrt(2 delta / x^T H x) x, and g^T step is expected of it."""
    options = {"cg_iterations": 200, "cg_tolerance": 1e-24, "damping": 0.1}
    algo, view, _, _ = view_of(1, kl_threshold=1e-6, **options)
    matrix, gradient = dense(1)
    damped = matrix + 0.1 * np.eye(len(matrix))
    direction = np.linalg.solve(damped, gradient)
    step = math.sqrt(2e-6 / (direction @ damped @ direction)) * direction
    taken = {}

    def search(view, old, full, expected):
        taken.update(step=full, expected=expected)
        return False, 0.0, Trial()

    algo.line_search = search
    algo.update_agent(view)
    close(taken["step"], step, 1e-3)
    assert taken["expected"] == pytest.approx(gradient @ step, rel=1e-3)


# Conjugate gradient -----------------------------------------------------------------------------


def system(size=20, seed=0):
    rng = np.random.default_rng(seed)
    root, b = rng.normal(size=(size, size)), rng.normal(size=size)
    return root @ root.T + 0.5 * np.eye(size), b


@pytest.mark.parametrize("seed", range(3))
def test_conjugate_gradient_against_a_solver(seed):
    matrix, b = system(seed=seed)
    H = torch.from_numpy(matrix)
    x, residual = conjugate_gradient(lambda v: H @ v, torch.from_numpy(b), 60, 1e-24)
    np.testing.assert_allclose(x.numpy(), np.linalg.solve(matrix, b), rtol=1e-8, atol=1e-10)
    assert np.linalg.norm(residual) < 1e-10


def test_conjugate_gradient_minimizes_over_the_krylov_space():
    matrix, b = system()
    H, products = torch.from_numpy(matrix), []
    x, residual = conjugate_gradient(
        lambda v: products.append(v) or H @ v, torch.from_numpy(b), 4, 0.0
    )
    assert len(products) == 4
    basis = np.stack([np.linalg.matrix_power(matrix, k) @ b for k in range(4)], 1)
    best = basis @ np.linalg.solve(basis.T @ matrix @ basis, basis.T @ b)
    np.testing.assert_allclose(x.numpy(), best, rtol=1e-6)
    np.testing.assert_allclose(residual.numpy(), b - matrix @ x.numpy(), rtol=1e-8, atol=1e-10)


def test_conjugate_gradient_stops_at_the_tolerance():
    count = []
    b = torch.tensor([3.0, 4.0])
    x, _ = conjugate_gradient(lambda v: count.append(1) or 2.0 * v, b, 10, 1e-10)
    assert (x.tolist(), len(count)) == ([1.5, 2.0], 1)
    x, _ = conjugate_gradient(lambda v: count.append(1) or v, torch.zeros(2), 10, 1e-10)
    assert (x.tolist(), len(count)) == ([0.0, 0.0], 1)


# Steps ------------------------------------------------------------------------------------------

SPOILT = {
    "as it is": lambda advantage: advantage,
    "one outlier": lambda advantage: advantage + 1e4 * (torch.arange(len(advantage)) == 3),
    "noise": lambda advantage: 10.0 * torch.sin(1e3 * torch.arange(len(advantage))),
    "tiny": lambda advantage: 1e-8 * advantage,
}


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("seed", range(2))
def test_no_step_exceeds_the_threshold(seed, spoil):
    algo, env = fresh(Recorded, seed, kl_threshold=0.02, damping=1e-4), ToyEnv()
    algo.spoil = SPOILT[spoil]
    state, taken = env.reset(), []
    for _ in range(4):
        rollout, state = collect(algo, env, state)
        metrics = algo.update(rollout)
        data = algo.batch.state, algo.batch.action
        for p in range(3):
            name = f"agent{p}/"
            old, new = (exact(algo, p, rows[p][p]) for rows in (algo.before, algo.after))
            kl = divergence(p, old, new, data[0])
            assert kl <= 0.02 * (1.0 + 1e-4)
            assert metrics[name + "step_kl"].item() == pytest.approx(kl, rel=1e-3, abs=1e-7)
            before, after = (surrogate(p, net, algo.views[p], *data) for net in (old, new))
            gain, expected = after - before, metrics[name + "expected_improvement"].item()
            assert -metrics[name + "loss"].item() == pytest.approx(after, rel=1e-3, abs=1e-6)
            moved = not torch.equal(algo.before[p], algo.after[p])
            assert moved == (metrics[name + "accepted"].item() == 1.0)
            if moved:
                assert gain > 0.0
                assert gain >= 0.499 * expected > 0.0
            taken.append(moved)
    assert np.mean(taken) > 0.5


@pytest.mark.parametrize("p", range(3))
def test_the_first_good_fraction_is_taken(p):
    """Steps so long that the quadratic model fails: all ten fractions by another implementation."""
    chosen = []
    for threshold in (0.01, 0.3, 3.0, 30.0):
        algo, view, state, action = view_of(p, kl_threshold=threshold, damping=1e-3)
        flat = algo.actors.stack.flat[p].clone()
        old, steps, search = parameters(algo, p), {}, algo.line_search

        def spy(view, flat, step, expected, steps=steps, search=search):
            steps.update(step=step, expected=expected)
            return search(view, flat, step, expected)

        algo.line_search = spy
        stats = algo.update_agent(view)
        before, first = surrogate(p, old, view, state, action), None
        for k in range(10):
            new = (flat.double() + 0.8**k * steps["step"]).float()
            net = exact(algo, p, new)
            gain = surrogate(p, net, view, state, action) - before
            enough = gain >= 0.5 * 0.8**k * steps["expected"] and gain > 0.0
            if first is None and enough and divergence(p, old, net, state) < threshold:
                first = k
                torch.testing.assert_close(algo.actors.stack.flat[p], new, rtol=1e-6, atol=1e-7)
                expected = 0.8**k * steps["expected"]
                assert stats["expected_improvement"].item() == pytest.approx(expected)
        assert stats["accepted"].item() == (first is not None)
        if first is None:
            assert torch.equal(algo.actors.stack.flat[p], flat)
        chosen.append(first)
    assert chosen[0] is not None
    assert len(set(chosen)) > 1


@pytest.mark.parametrize(
    "trial",
    [Trial(1e9, 0.01, 0.0), Trial(0.0, 0.0, 0.0), Trial(-1.0, 0.0, 0.0), Trial(1e-9, 0.0, 0.0)],
    ids=["KL at the threshold", "no improvement", "worse", "less than half of the expected"],
)
def test_refused_steps_leave_no_trace(monkeypatch, trial):
    algo, view, _, _ = view_of(1, kl_threshold=0.01)
    tried = []
    monkeypatch.setattr(hatrpo, "compare", lambda *args: tried.append(args) or trial)
    flat = algo.actors.stack.flat.clone()
    stats = algo.update_agent(view)
    assert torch.equal(algo.actors.stack.flat, flat)
    assert len(tried) == 10
    for name in ("accepted", "expected_improvement", "step_kl", "clip_fraction"):
        assert stats[name].item() == 0.0


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_advantages_without_a_direction_are_no_step(value):
    algo, view, _, _ = view_of(0)
    view.weighted_advantage.fill_(value)
    flat = algo.actors.stack.flat.clone()
    assert algo.update_agent(view)["accepted"].item() == 0.0
    assert torch.equal(algo.actors.stack.flat, flat)


def test_a_step_moves_only_its_agents_used_parameters():
    algo, view, _, _ = view_of(0)
    used = torch.from_numpy(dense(0)[0].any(0))
    flat, grad = algo.actors.stack.flat.clone(), algo.actors.stack.grad.clone()
    assert algo.update_agent(view)["accepted"].item() == 1.0
    moved = algo.actors.stack.flat != flat
    assert not moved[1:].any()
    assert moved[0][used].float().mean() > 0.8
    assert not moved[0][~used].any()
    assert torch.equal(algo.actors.stack.grad, grad)


# Training ---------------------------------------------------------------------------------------


def test_metrics():
    algo, env = fresh(Recorded), ToyEnv()
    metrics = train(algo, env, 1)[0]
    common = ["loss", "clip_fraction", "grad_norm", "kl", "entropy", "preceding_ratio"]
    for name in (*common, "accepted", "expected_improvement", "step_kl"):
        assert all(math.isfinite(metrics[f"agent{p}/{name}"].item()) for p in range(3))
    for p in range(3):
        new = exact(algo, p, algo.after[p][p])
        change = log_density(p, new, algo.batch.state, algo.batch.action)
        ratio = np.exp(change - algo.views[p].old_log_prob.numpy())
        found = metrics[f"agent{p}/clip_fraction"].item()
        assert found == pytest.approx(np.mean(np.abs(ratio - 1.0) > 0.2), abs=1.5 / 72)


def test_options_of_clipped_objectives_do_not_reach_the_policies():
    plain, other = fresh(), fresh(actor_lr=1.0, epochs=7, entropy_coef=5.0, max_grad_norm=9.0)
    for algo in (plain, other):
        train(algo, ToyEnv(), 1)
    assert torch.equal(plain.actors.stack.flat, other.actors.stack.flat)


def test_a_seed_determines_the_weights():
    runs = [fresh(seed=seed) for seed in (5, 5, 6)]
    for algo in runs:
        train(algo, ToyEnv(), 2)
    for part in ("actors", "critic"):
        first, same, other = (getattr(algo, part).stack.flat for algo in runs)
        assert torch.equal(first, same)
        assert not torch.equal(first, other)


def test_training_continues_exactly_from_its_state(tmp_path):
    check_it_continues(partial(fresh, num_minibatches=2), tmp_path / "state.pth")


def test_it_learns():
    check_it_learns(fresh)
